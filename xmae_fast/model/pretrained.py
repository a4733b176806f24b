"""Folders of pretrained models, on disk or on the Hugging Face Hub: weights, configuration, recipe, model card."""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xmae_fast._files import atomic_path, check_replaceable, is_json_of, read_json
from xmae_fast._optional import need
from xmae_fast.config import ModelCfg
from xmae_fast.model.recipe import Recipe

if TYPE_CHECKING:
    from xmae_fast.model.xmae import xMAE

WEIGHTS, CONFIG, PREPROCESSING, CARD = "model.safetensors", "config.json", "preprocessing.json", "README.md"
_BEST = Path("checkpoints") / "best.ckpt"  # of a run folder of pretraining
_WEIGHT_FILES = (".ckpt", ".pt", ".pth", ".bin", ".safetensors", ".index.json")
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def from_pretrained(
    path_or_hub_id: str | os.PathLike[str],
    *,
    cfg: ModelCfg | Mapping[str, Any] | None = None,
    impl: str = "auto",
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    local_files_only: bool = False,
    **loading: Any,
) -> xMAE:
    """A pretrained model, in evaluation mode, on the CPU, with its preprocessing recipe as `model.preprocessing`.

    Args:
        path_or_hub_id: a folder of `save_pretrained`; the folder of a run of `xmae-fast pretrain` (its best.ckpt); a
            checkpoint file that `load_checkpoint` reads; or else "owner/name" on the Hugging Face Hub. What is on disk
            comes first, and needs neither network nor huggingface_hub.
        cfg: for checkpoints that do not hold their configuration. impl: as for xMAE.
        revision, token, cache_dir, local_files_only: of the Hub; see `huggingface_hub.snapshot_download`.
        loading: further arguments of `load_checkpoint`, such as `weights`, or `resize_positions` (the recipe then takes
            the new segment length).

    A model without a stored recipe has the published one, at its own rate and segment length.

    Raises:
        FileNotFoundError: nothing of that name on disk or on the Hub. CheckpointError, ValueError: what is there is
        damaged or does not fit. ImportError: a Hub id without huggingface_hub.
    """
    from xmae_fast.model.checkpoint import load_checkpoint

    path = Path(path_or_hub_id)
    if not path.exists():
        hub = {"revision": revision, "token": token, "cache_dir": cache_dir, "local_files_only": local_files_only}
        path = _download(str(path_or_hub_id), hub)
    candidates = [path / WEIGHTS, path / f"{WEIGHTS}.index.json", path / _BEST] if path.is_dir() else [path]
    weights = next((candidate for candidate in candidates if candidate.is_file()), None)
    if weights is None:
        expected = f"{WEIGHTS} (as save_pretrained writes it) or {_BEST} (a run of pretraining)"
        files = sorted(entry for entry in path.iterdir() if entry.name.endswith(_WEIGHT_FILES)) if path.is_dir() else []
        hint = f"; from_pretrained({str(files[0])!r}) takes a file" if files else ""
        raise FileNotFoundError(f"path_or_hub_id: expected a folder with {expected}, {str(path)!r} has neither{hint}")
    model = load_checkpoint(weights, cfg, impl=impl, **loading)
    resized = bool(loading.get("resize_positions"))
    model.preprocessing = _read_recipe(weights.parent / PREPROCESSING, model.cfg, resized)
    return model


class Pretrained:
    """Of xMAE: saving to folders and to the Hugging Face Hub. `preprocessing`: the recipe of its PPG, or None."""

    preprocessing: Recipe | None = None

    @classmethod
    def from_pretrained(cls, path_or_hub_id: str | os.PathLike[str], **options: Any) -> xMAE:
        """See `xmae_fast.from_pretrained`."""
        return from_pretrained(path_or_hub_id, **options)

    def save_pretrained(
        self,
        folder: str | os.PathLike[str],
        *,
        run: str | os.PathLike[str] | None = None,
        name: str | None = None,
        recipe: Recipe | None = None,
        overwrite_card: bool = False,
    ) -> Path:
        """Write model.safetensors, config.json, preprocessing.json and README.md (the model card) to `folder`.

        Args:
            folder: made if need be; each file appears whole, the weights first.
            run: folder of `xmae-fast pretrain` that the weights are from: the card tells data, settings and losses.
            name: of the model in the card; the folder's unless given.
            recipe: preprocessing; the model's own unless given, or else the published one.
            overwrite_card: also replace a README.md that is there (it may have been edited).

        Returns:
            The folder. Raises ValueError, FileNotFoundError: `run` is no such folder. FileExistsError: files of these
            names are there that are of no xMAE. OSError.
        """
        from xmae_fast.model.card import model_card
        from xmae_fast.model.checkpoint import save_checkpoint

        folder, recipe = Path(folder), recipe or recipe_of(self)
        _check_recipe(recipe, self.cfg)
        card = model_card(self, recipe, name or folder.resolve().name, run)
        what = "of an xMAE that save_pretrained wrote"
        check_replaceable(folder / CONFIG, _is_own_config, what, "folder")
        check_replaceable(folder / PREPROCESSING, lambda file: is_json_of(file, "steps"), what, "folder")
        folder.mkdir(parents=True, exist_ok=True)
        save_checkpoint(self, folder / WEIGHTS)
        _write(folder / CONFIG, json.dumps({"model_type": "xmae", **self.cfg.to_dict()}, indent=2) + "\n")
        _write(folder / PREPROCESSING, json.dumps(recipe.to_dict(), indent=2) + "\n")
        if overwrite_card or not (folder / CARD).exists():
            _write(folder / CARD, card)
        return folder

    def push_to_hub(
        self,
        repo_id: str,
        *,
        run: str | os.PathLike[str] | None = None,
        private: bool | None = None,
        token: str | bool | None = None,
        revision: str | None = None,
        create_pr: bool = False,
        commit_message: str = "Upload xMAE",
    ) -> str:
        """Upload what `save_pretrained` writes to `repo_id` ("owner/name") on the Hugging Face Hub, made if need be.

        run: as for `save_pretrained`. The others: of `huggingface_hub.HfApi`. Returns the address of the commit.
        ImportError: huggingface_hub is missing. Errors of the Hub come as they are.
        """
        if not _HUB_ID.fullmatch(repo_id):
            raise ValueError(f"repo_id: expected 'owner/name', got {repo_id!r}")
        hub = _import_hub().HfApi(token=token)
        hub.create_repo(repo_id, private=private, exist_ok=True)
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder, run=run, name=repo_id.partition("/")[2])
            done = hub.upload_folder(
                repo_id=repo_id, folder_path=folder, revision=revision, create_pr=create_pr,
                commit_message=commit_message,
            )  # fmt: skip
        return str(done)


def recipe_of(model: xMAE) -> Recipe:
    """The recipe that came with the weights, or else the published one at the model's rate and segment length."""
    return model.preprocessing or Recipe.for_model(model.cfg)


def _read_recipe(path: Path, cfg: ModelCfg, resized: bool) -> Recipe:
    if not path.is_file():
        return Recipe.for_model(cfg)
    try:
        recipe = Recipe.from_dict(json.loads(path.read_text(encoding="utf-8")))
        if resized:
            recipe = replace(recipe, segment_s=Recipe.for_model(cfg).segment_s)
        _check_recipe(recipe, cfg)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return recipe


def _is_own_config(path: Path) -> bool:
    return (read_json(path) or {}).get("model_type") == "xmae"


def _check_recipe(recipe: Recipe, cfg: ModelCfg) -> None:
    if (recipe.sampling_freq, recipe.samples) != (cfg.sampling_freq, cfg.seq_len):
        expected = f"segments of {cfg.seq_len} samples at {cfg.sampling_freq:g} Hz, as the model takes them"
        raise ValueError(f"preprocessing: expected {expected}, got {recipe.samples} at {recipe.sampling_freq:g} Hz")


def _write(path: Path, text: str) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _download(hub_id: str, options: dict[str, Any]) -> Path:
    """The snapshot's folder."""
    if not _HUB_ID.fullmatch(hub_id):
        expected = "a folder, a checkpoint file, or 'owner/name' on the Hugging Face Hub"
        raise FileNotFoundError(f"path_or_hub_id: expected {expected}, {hub_id!r} does not exist")
    hub = _import_hub(f"path_or_hub_id: {hub_id!r} does not exist here; from the Hugging Face Hub it")
    try:
        return Path(hub.snapshot_download(hub_id, allow_patterns=[WEIGHTS, CONFIG, PREPROCESSING, CARD], **options))
    except (hub.errors.RepositoryNotFoundError, hub.errors.LocalEntryNotFoundError) as error:
        reason = str(error).strip().split("\n")[0]
        raise FileNotFoundError(f"path_or_hub_id: {hub_id!r} is neither on disk nor to be had: {reason}") from error


def _import_hub(what: str = "The Hugging Face Hub"):
    hub = need("huggingface_hub", f"{what} needs", "hub")
    need("huggingface_hub.errors", f"{what} needs", "hub")
    return hub
