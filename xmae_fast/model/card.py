"""The model card: what a model is, how to use it, what it was trained on; as README.md with the Hub's metadata."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xmae_fast._version import __version__
from xmae_fast.model.card_metadata import Result, front_matter, result, results_of
from xmae_fast.model.recipe import Recipe

if TYPE_CHECKING:
    from xmae_fast.model.xmae import xMAE

_SETTINGS = (
    "mask_mode", "mask_ratio_ecg", "mask_ratio_ppg", "batch_size", "lr", "weight_decay", "betas", "warmup", "epochs",
    "max_steps", "max_minutes", "augment", "quality", "swap_signals", "use_cl", "truth_weight", "precision", "seed",
)  # fmt: skip
_OF_SHARDS = ("augment", "quality", "swap_signals", "use_cl")  # they count for nothing where patients are simulated


def model_card(
    model: xMAE,
    recipe: Recipe,
    name: str,
    run: str | os.PathLike[str] | None = None,
    licence: str | None = None,
    results: Any = (),
) -> str:
    """The card of `model` as Markdown.

    Args:
        model: the model that is described.
        recipe: how PPG is prepared for it.
        name: its name in the card.
        run: the folder of the run of `xmae-fast pretrain` that trained it; None: the card says that it knows no run.
        licence, results: for the metadata; see `front_matter` and `results_of`.

    Raises:
        FileNotFoundError: `run` has no run.json, or a report no results.json.
        ValueError: such a file is damaged, or is another one.
        ImportError: PyYAML is missing.
    """
    cfg, steps = model.cfg, "\n".join(f"{i}. {step}" for i, step in enumerate(recipe.to_dict()["steps"], 1))
    training, measured = ["How it was trained is not recorded here."], results_of(results, name)
    if run is not None:
        training, of_run = _training(Path(run))
        measured = of_run + measured
    parts = [
        front_matter(name, licence, measured),
        f"# {name}",
        "An xMAE ([arXiv 2605.00973](https://arxiv.org/abs/2605.00973)): a PPG encoder that learned by reconstructing"
        f" masked ECG from synchronised PPG. {sum(p.numel() for p in model.parameters()):,} parameters; segments of"
        f" {recipe.segment_s:g} s at {recipe.sampling_freq:g} Hz; {cfg.num_patches} tokens of width {cfg.d_model}.",
        "## Use",
        '```python\nimport xmae_fast\n\nembedder = xmae_fast.Embedder(xmae_fast.from_pretrained("' + name + '"))'
        "\nresult = embedder(ppg, fs=125)       # a recording of any length and rate\nresult.embeddings, result.times, "
        "result.quality\n```",
        "`pooled` (default), the mean over the encoder's tokens, is what pretraining trains. `projected`"
        f" (`ppg_embedding`, {cfg.proj_dim} numbers) passes through a projection that reconstruction does not train.",
        "After `import xmae_fast.transformers`, `transformers.AutoModel.from_pretrained` loads the folder too; what it"
        " takes is prepared PPG, and its `pooler_output` is `pooled`.",
        "## Preprocessing",
        f"As in preprocessing.json, which `Embedder` follows:\n\n{steps}",
        "## Training",
        *training,
        "## Limits",
        "Research software, no medical device. Embeddings of other sensors, body sites or rates than those of the"
        " training data are not validated by this card. Filter by the quality that comes with each embedding.",
        f"Written by xmae_fast {__version__}.",
    ]
    return "\n\n".join(parts) + "\n"


def _training(run: Path) -> tuple[list[str], list[Result]]:
    """Data, settings and losses of a run, without its paths and host, and its result for the metadata."""
    file = run / "run.json"
    if not file.is_file():
        raise FileNotFoundError(f"run: expected the folder of a run of pretraining, {file} does not exist")
    try:
        about = json.loads(file.read_text(encoding="utf-8"))
        settings = _settings(run / "config.yaml")
        parts = [_data(about["data"], settings), _result(about)]
        versions = ", ".join(f"{name} {version}" for name, version in about["packages"].items())
        measured = _measured(about)
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"run: expected {file} as pretraining writes it, it is damaged ({error!r})") from error
    if settings:
        rows = "\n".join(f"| {key} | {value} |" for key, value in settings.items())
        parts.append(f"| setting | value |\n|---|---|\n{rows}")
    commit = (about.get("git") or {}).get("commit")
    source = f", commit {commit[:12]}" if commit else ""
    return [*parts, f"xmae_fast {about['xmae_fast']}{source}; Python {about['python']}; {versions}."], measured


def _data(data: dict[str, Any], settings: dict[str, Any]) -> str:
    """What was trained and validated on."""
    if "simulation" not in data:
        return " ".join(
            f"{'Trained on' if part == 'train' else 'Validated on'} {data[part]['segments']:,} segments of"
            f" {data[part]['subjects']:,} subjects ({len(data[part]['shards']):,} shards)."
            for part in ("train", "val")
        )
    source = data["simulation"]
    truth = settings.get("truth_weight")
    told = (
        " Beside the reconstruction of masked ECG, a linear head on `ppg_embedding` told rhythm, rates and irregularity"
        f" of each segment (weight {truth:g}), which also trained its projection."
        if truth
        else ""
    )
    return (
        "Trained on simulated patients alone (`xmae_fast.simulation`, an endless stream of seed"
        f" {source['seed']}, each segment once); no recording of a person was used. Validated on"
        f" {source['val_segments']:,} others.{told}"
    )


def _result(about: dict[str, Any]) -> str:
    result = about.get("result")
    if not result:
        return "The run has not ended; the losses are not recorded yet."
    return (
        f"Ended ({result['status']}) after {result['steps']:,} steps, {result['epochs']:,} epochs,"
        f" {result['elapsed_s'] / 3600:.2f} h; masked MSE of the validation {result['val_loss']:.4f}, at best"
        f" {result['best_val_loss']:.4f} (ECG scaled to [-1, 1] per segment)."
    )


def _measured(about: dict[str, Any]) -> list[Result]:
    """The loss of the validation, where the run has ended."""
    if not about.get("result"):
        return []
    data = about["data"]
    if "simulation" in data:
        whose = f"{data['simulation']['val_segments']:,} simulated segments"
    else:
        whose = f"{data['val']['segments']:,} segments of {data['val']['subjects']:,} subjects"
    metric = ("mse", "masked MSE, ECG scaled to [-1, 1] per segment", about["result"]["best_val_loss"])
    return [
        result("Reconstruction of masked ECG", f"{whose}, the validation of its pretraining", "validation", [metric])
    ]


def _settings(config: Path) -> dict[str, Any]:
    if not config.is_file():
        return {}
    from xmae_fast._yaml import read_yaml  # what trained it can read it

    values = read_yaml(config)
    unused = _OF_SHARDS if values.get("simulation") is not None else ()
    return {key: values[key] for key in _SETTINGS if values.get(key) is not None and key not in unused}
