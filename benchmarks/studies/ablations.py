"""What each part of the recipe of the shipped weights is worth: the same run without it, judged on real rhythms.

    python -m benchmarks.studies.ablations real_ppg_rhythm.npz FOLDER [--config xmae_sim_small] \
        [--steps 3200] [--only NAME ...] [--output results.json]

All variants have the same encoder, seed, segments, number of steps and schedule. FOLDER keeps a model and its losses
for each; those that are there already are not trained again. Nothing of the labelled file is trained on but the probes.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from xmae_fast import from_pretrained
from xmae_fast._configs import config_path
from xmae_fast.evaluation.labelled import read_labelled
from xmae_fast.evaluation.probes.bootstrap import interval
from xmae_fast.evaluation.rhythms import RhythmRow, rhythm_study, table_of
from xmae_fast.model.xmae import xMAE
from xmae_fast.reports.markdown import block_as_markdown
from xmae_fast.training import TrainCfg, read_train_cfg
from xmae_fast.training.feed import Feed, make_feed
from xmae_fast.training.pretraining import make_step
from xmae_fast.training.schedule import lr_factor, progress

RECIPE, RECONSTRUCTION = "recipe", "reconstruction alone"
_STAGES = (0.4, 0.3)  # of the segments of the run are those of the first and of the second stage
_EVERY = 50  # steps whose losses are averaged


@dataclass(frozen=True)
class Variant:
    """A run that differs from the recipe.

    Args:
        changes: fields of `TrainCfg`.
        other_ecg: each PPG gets the ECG of another patient.
        against: the variant that it is compared with.
    """

    changes: dict[str, Any] = field(default_factory=dict)
    other_ecg: bool = False
    against: str = RECIPE


VARIANTS = {
    RECIPE: Variant(),
    RECONSTRUCTION: Variant({"truth_weight": 0.0}),
    "truth alone": Variant({"mask_ratio_ecg": 0.0}),  # without hidden patches the reconstruction has no loss
    "PPG alone, masked": Variant(
        {"truth_weight": 0.0, "source": "ecg", "swap_signals": True}, against=RECONSTRUCTION
    ),  # the library's autoencoder of one signal, which is then the PPG
    "PPG alone, half masked here and there": Variant(
        {"truth_weight": 0.0, "source": "ecg", "swap_signals": True, "mask_mode": "scatter", "mask_ratio_ecg": 0.5},
        against=RECONSTRUCTION,
    ),
    "ECG of other patients": Variant({"truth_weight": 0.0}, other_ecg=True, against=RECONSTRUCTION),
    "no stages": Variant({"stages": []}),
    "no lag": Variant({"lag": None}),
}


def configured(cfg: TrainCfg, variant: Variant, steps: int) -> TrainCfg:
    """The configuration of a run of so many steps, with the stages as shares of it."""
    changes, simulation, model = dict(variant.changes), dict(cfg.simulation or {}), dict(cfg.model_params)
    given = changes.pop("stages", simulation.get("stages") or [])
    segments = [round(share * steps * cfg.batch_size) for share in _STAGES]
    simulation["stages"] = [{**stage, "segments": n} for stage, n in zip(given, segments, strict=False)]
    if "lag" in changes:
        model["lag"] = changes.pop("lag")
    if changes.get("source") == "ecg":
        model |= {"depth_ecg": model["depth_ppg"], "lag": None}
    return replace(cfg, max_steps=steps, max_minutes=None, simulation=simulation, model_params=model, **changes)


def batches(feed: Feed, other_ecg: bool) -> Iterator[tuple[torch.Tensor, ...]]:
    """Batches without end; with `other_ecg`, each PPG has the ECG of its neighbour, who is another patient."""
    while True:
        for ppg, ecg, *truth in feed.training():
            yield ppg, ecg.roll(1, 0) if other_ecg else ecg, *truth


def train(
    cfg: TrainCfg, variant: Variant, steps: int, tell: Callable[[str], None]
) -> tuple[xMAE, list[dict[str, float]]]:
    """Train a variant; its model, and its losses in the course of the run."""
    cpu = torch.device("cpu")
    losses: list[dict[str, float]] = []
    recent: list[tuple[float, float]] = []
    feed, step = make_feed(cfg, cpu, 0, 1), make_step(cfg, cpu)
    for number, batch in enumerate(islice(batches(feed, variant.other_ecg), steps)):
        for group in step.optimizer.param_groups:
            group["lr"] = cfg.lr * lr_factor(progress(number, steps), cfg.warmup)
        loss = step(*batch)
        recent.append((float(loss), float("nan") if step.truth_loss is None else float(step.truth_loss)))
        if len(recent) == _EVERY:
            means = dict(zip(("loss", "truth_loss"), np.mean(recent, 0).round(5).tolist(), strict=True))
            losses.append({"step": number + 1} | {key: value for key, value in means.items() if np.isfinite(value)})
            tell(f"{losses[-1]}")
            recent = []
    feed.close()
    return encoder_of_ppg(step.core.eval()), losses


def encoder_of_ppg(model: xMAE) -> xMAE:
    """The model itself; of an autoencoder that had the PPG in place of its ECG, a model with that encoder for PPG."""
    if model.cfg.source != "ecg":
        return model
    made = xMAE(replace(model.cfg, source="ppg", depth_ppg=model.cfg.depth_ecg)).eval()
    assert made.ppg_path is not None
    assert model.ecg_path is not None
    made.ppg_path.load_state_dict(model.ecg_path.state_dict())
    return made


def compared(rows: dict[str, RhythmRow], groups: np.ndarray) -> dict[str, list[float]]:
    """By variant, the mean AUROC of mean and SD of the tokens less that of the variant it is compared with, paired."""
    found = {}
    for name, variant in VARIANTS.items():
        if name in rows and variant.against in rows and name != variant.against:
            one, other = rows[name], rows[variant.against]
            gain = interval(one.mean.value - other.mean.value, one.resampled - other.resampled, groups)
            found[f"{name} less {variant.against}"] = list(gain)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("labelled", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--config", default="xmae_sim_small")
    parser.add_argument("--steps", type=int, default=3200)
    parser.add_argument("--only", nargs="+", choices=VARIANTS, default=list(VARIANTS), metavar="NAME")
    parser.add_argument("--output", type=Path, metavar="FILE.json")
    arguments = parser.parse_args()
    recipe = read_train_cfg(arguments.config)
    told: dict[str, Any] = {}
    folders = {name: arguments.folder / name.replace(" ", "-").replace(",", "") for name in arguments.only}
    for name, here in folders.items():
        if not (here / "losses.json").is_file():
            cfg = configured(recipe, VARIANTS[name], arguments.steps)
            tell = partial(print, f"{name}:", flush=True)
            model, losses = train(cfg, VARIANTS[name], arguments.steps, tell)
            model.save_pretrained(here)
            (here / "losses.json").write_text(json.dumps(losses) + "\n", encoding="utf-8")
        told[name] = json.loads((here / "losses.json").read_text(encoding="utf-8"))
    data = read_labelled(arguments.labelled)
    rows = rhythm_study(data, {name: from_pretrained(folder) for name, folder in folders.items()}, progress=print)
    print(block_as_markdown(table_of(rows)))
    by_name = {row.name: row for row in rows}
    differences = compared(by_name, data.subject)
    for name, (value, low, high) in differences.items():
        print(f"{name}: {value:+.3f} [{low:+.3f}, {high:+.3f}]")
    if arguments.output:
        config = config_path(arguments.config).name
        result = {"steps": arguments.steps, "config": config, "batch_size": recipe.batch_size}
        result |= {"rows": [row.to_dict() for row in rows], "differences": differences, "losses": told}
        arguments.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
