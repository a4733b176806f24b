"""Folders of pretrained models: weights, configuration, preprocessing recipe and model card."""

from __future__ import annotations

import json
import logging
import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from xmae_fast._files import atomic_path, check_replaceable, is_json_of, read_json
from xmae_fast._shipped import shipped_folder
from xmae_fast.config import ModelCfg
from xmae_fast.model.card import model_card
from xmae_fast.model.recipe import Recipe
from xmae_fast.model.storage import hub
from xmae_fast.model.storage.checkpoints import load_checkpoint, save_checkpoint
from xmae_fast.model.storage.configuration import CONFIG, MODEL_TYPE

if TYPE_CHECKING:
    from xmae_fast.model.xmae import xMAE

_log = logging.getLogger("xmae_fast.model")
WEIGHTS, PREPROCESSING, CARD = "model.safetensors", "preprocessing.json", "README.md"
_BEST = Path("checkpoints") / "best.ckpt"  # in the folder of a run of pretraining
_WEIGHT_FILES = (".ckpt", ".pt", ".pth", ".bin", ".safetensors", ".index.json")


def load_pretrained(
    make: Callable[..., xMAE],
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
    """`make(cfg, impl=impl)` with the weights and the recipe of a folder; see `xmae_fast.from_pretrained`."""
    path = Path(path_or_hub_id)
    if not path.exists() and (shipped := shipped_folder(str(path_or_hub_id))) is not None:
        path = shipped
    if not path.exists():
        options = {"revision": revision, "token": token, "cache_dir": cache_dir, "local_files_only": local_files_only}
        path = hub.download(str(path_or_hub_id), [WEIGHTS, CONFIG, PREPROCESSING, CARD], options)
    candidates = [path / WEIGHTS, path / f"{WEIGHTS}.index.json", path / _BEST] if path.is_dir() else [path]
    weights = next((candidate for candidate in candidates if candidate.is_file()), None)
    if weights is None:
        expected = f"{WEIGHTS} (as save_pretrained writes it) or {_BEST} (a run of pretraining)"
        files = sorted(entry for entry in path.iterdir() if entry.name.endswith(_WEIGHT_FILES)) if path.is_dir() else []
        hint = f"; from_pretrained({str(files[0])!r}) takes a file" if files else ""
        raise FileNotFoundError(f"path_or_hub_id: expected a folder with {expected}, {str(path)!r} has neither{hint}")
    model = load_checkpoint(make, weights, cfg, impl, **loading)
    resized = bool(loading.get("resize_positions"))
    model.preprocessing = read_recipe(weights.parent / PREPROCESSING, model.cfg, resized)
    how = "its own" if model.preprocessing is not None else "no"
    _log.debug("model %s is from %s, with %s recipe", path_or_hub_id, weights, how)
    return model


class Pretrained:
    """The part of xMAE that writes folders and uploads them to the Hugging Face Hub.

    Attributes:
        preprocessing: how PPG is prepared for these weights, or None where no recipe came with them.
    """

    preprocessing: Recipe | None = None

    def save_pretrained(
        self,
        folder: str | os.PathLike[str],
        *,
        run: str | os.PathLike[str] | None = None,
        name: str | None = None,
        recipe: Recipe | None = None,
        overwrite_card: bool = False,
        license: str | None = None,
        results: Any = (),
    ) -> Path:
        """Write model.safetensors, config.json, preprocessing.json and README.md (the model card) to `folder`.

        Args:
            folder: made if it does not exist; each file appears whole, the weights first.
            run: the folder of the run of `xmae-fast pretrain` that the weights are from; the card then tells its data,
                settings and losses.
            name: the model's name in the card; the folder's name unless given.
            recipe: how PPG is prepared; the model's own recipe unless given, or else the published one.
            overwrite_card: also replace a README.md that is there (it may have been edited).
            license: of the weights, for the card's metadata, by the Hub's identifier, such as "apache-2.0"; only who
                trained them can say, so that None leaves it out.
            results: for the card's metadata, beside the loss of the run: one or a list of reports (the folder, or what
                the function returned) of `xmae-fast evaluate` and `xmae-fast probe`, or of dictionaries with "task",
                "dataset" and "metrics" as the Hub's model-index has them.

        Returns:
            The folder.

        Raises:
            ValueError, FileNotFoundError: `run` is no such folder, or `results` are no such reports.
            FileExistsError: files of these names are there that do not belong to an xMAE.
            OSError: a file cannot be written.
        """
        model = cast("xMAE", self)  # this class is a part of xMAE and of nothing else
        folder, recipe = Path(folder), recipe or recipe_of(model)
        _check_recipe(recipe, model.cfg)
        card = model_card(model, recipe, name or folder.resolve().name, run, license, results)
        what = "of an xMAE that save_pretrained wrote"
        check_replaceable(folder / CONFIG, _is_own_config, what, "folder")
        check_replaceable(folder / PREPROCESSING, lambda file: is_json_of(file, "steps"), what, "folder")
        folder.mkdir(parents=True, exist_ok=True)
        save_checkpoint(model, folder / WEIGHTS)
        about = {"model_type": MODEL_TYPE, "architectures": ["XmaeModel"], "dtype": dtype_name(model)}
        _write(folder / CONFIG, json.dumps({**about, **model.cfg.to_dict()}, indent=2) + "\n")
        write_beside(folder, recipe, card, overwrite_card)
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
        license: str | None = None,
        results: Any = (),
    ) -> str:
        """Upload what `save_pretrained` writes to the Hugging Face Hub.

        Args:
            repo_id: "owner/name"; the repository is made if it does not exist.
            run, license, results: as for `save_pretrained`.
            private, token, revision, create_pr, commit_message: for `huggingface_hub.HfApi`.

        Returns:
            The address of the commit.

        Raises:
            ValueError: `repo_id` has another form.
            ImportError: huggingface_hub is missing.
            Exception: errors of the Hub come as they are.
        """
        hub.check_repo_id(repo_id)
        api = hub.import_hub().HfApi(token=token)
        api.create_repo(repo_id, private=private, exist_ok=True)
        with tempfile.TemporaryDirectory() as folder:
            name = repo_id.partition("/")[2]
            self.save_pretrained(folder, run=run, name=name, license=license, results=results)
            done = api.upload_folder(
                repo_id=repo_id, folder_path=folder, revision=revision, create_pr=create_pr,
                commit_message=commit_message,
            )  # fmt: skip
        return str(done)


def recipe_of(model: xMAE) -> Recipe:
    """The recipe that came with the weights, or else the published one at the model's rate and segment length."""
    return model.preprocessing or Recipe.for_model(model.cfg)


def dtype_name(model: xMAE) -> str:
    """The dtype that `from_pretrained` gives the weights, "float32" for one."""
    return str(model.mask_token.dtype).removeprefix("torch.")


def write_beside(folder: Path, recipe: Recipe, card: str, overwrite_card: bool = False) -> None:
    """Write what lies beside weights and configuration: the recipe, and the card unless one is there."""
    _write(folder / PREPROCESSING, json.dumps(recipe.to_dict(), indent=2) + "\n")
    if overwrite_card or not (folder / CARD).exists():
        _write(folder / CARD, card)


def read_recipe(path: Path, cfg: ModelCfg, resized: bool = False) -> Recipe:
    """The recipe of a preprocessing.json, or the published one without such a file; ValueError if it does not fit."""
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
    return (read_json(path) or {}).get("model_type") == MODEL_TYPE


def _check_recipe(recipe: Recipe, cfg: ModelCfg) -> None:
    if (recipe.sampling_freq, recipe.samples) != (cfg.sampling_freq, cfg.seq_len):
        expected = f"segments of {cfg.seq_len} samples at {cfg.sampling_freq:g} Hz, as the model takes them"
        raise ValueError(f"preprocessing: expected {expected}, got {recipe.samples} at {recipe.sampling_freq:g} Hz")


def _write(path: Path, text: str) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
