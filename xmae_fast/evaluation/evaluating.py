"""`evaluate`: all measurements of what a checkpoint has learned, and their report."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from xmae_fast._files import atomic_path
from xmae_fast._optional import need
from xmae_fast._version import __version__
from xmae_fast.backend.explaining import note_implementations
from xmae_fast.config import ModelCfg
from xmae_fast.data.index.segment_index import Paths
from xmae_fast.data.options import Quality
from xmae_fast.evaluation.attention import lag_profile
from xmae_fast.evaluation.held_out import HeldOut, load_held_out
from xmae_fast.evaluation.pages import RESULTS, check_report_folder, need_packages
from xmae_fast.evaluation.probes.linear import ProbeResult
from xmae_fast.evaluation.probes.targets import FEATURES, METRIC, TARGETS, labels_of, run_probes
from xmae_fast.evaluation.reconstruction_study import RATIOS, SHIFTS, ReconstructionStudy
from xmae_fast.evaluation.report import write_report
from xmae_fast.model.pretrained import from_pretrained
from xmae_fast.model.xmae import xMAE
from xmae_fast.ops.random_masking import MODES
from xmae_fast.reports import run_facts
from xmae_fast.workers.progress import Progress

LAG_SHOWN = 2.0  # s; the report shows attention up to this lag
_LAG_SEGMENTS = 256


def evaluate(
    checkpoint: str | os.PathLike | xMAE,
    data: Paths,
    output: str | os.PathLike | None = None,
    *,
    truth=None,
    split: str = "test",
    baseline_checkpoints: Mapping[str, str | os.PathLike | xMAE] | None = None,
    cfg: ModelCfg | Mapping[str, Any] | None = None,
    mode: str = "anchor",
    ratio: float = 0.8,
    max_segments: int | None = 1000,
    quality: Quality = 0.9,
    resamples: int = 1000,
    seed: int = 77,
    progress: Progress | None = None,
) -> dict:
    """Evaluate a pretrained model: reconstruction against baselines, attention by lag, linear probes, and a report.

    Args:
        checkpoint: what `from_pretrained` takes, or a model, which is put into evaluation mode; with a bridge.
        data, truth, split, max_segments, quality: as for `load_held_out`. The subjects of "test" were not pretrained on
            if pretraining had the same shards, and the same seed for its split.
        output: folder of report.md, report.html, results.json and pictures, which is made if it is not there; None for
            the results alone.
        baseline_checkpoints: further models by name, such as one trained on ECG alone.
        cfg: for checkpoints that do not hold their configuration.
        mode, ratio: of the mask, as in pretraining, for the comparison of modes, the shifted PPG and the pictures.
        resamples: of the bootstrap over subjects.
        seed: of the split, masks, shuffling, folds and resamples.
        progress: called with (stage, steps done, steps in all).

    Returns:
        What results.json holds: "about", "predictors", "by_ratio", "by_mode", "shift", "lag", "probes".

    Raises:
        ValueError, FileNotFoundError: an argument is wrong; the message names it.
        FileExistsError: a file in `output` has the name of one of a report's, and no report wrote it.
        ImportError: scikit-learn, SciPy, matplotlib or markdown-it-py is missing.
    """
    need("sklearn", "Evaluations need", "eval")
    if output is not None:
        need_packages()
        from xmae_fast.evaluation.pictures import PICTURES

        output = check_report_folder(output, PICTURES)
    if mode not in MODES:
        raise ValueError(f"mode: expected one of {', '.join(map(repr, MODES))}, got {mode!r}")
    model = checkpoint if isinstance(checkpoint, xMAE) else from_pretrained(checkpoint, cfg=cfg)
    others = {
        name: other if isinstance(other, xMAE) else from_pretrained(other, cfg=cfg)
        for name, other in (baseline_checkpoints or {}).items()
    }
    note_implementations(model)
    held_out = load_held_out(
        data, split=split, truth=truth, max_segments=max_segments, quality=quality, seed=seed,
        sampling_freq=model.cfg.sampling_freq,
    )  # fmt: skip
    _check_fits(held_out, model)
    tell = progress or (lambda *_: None)
    study = ReconstructionStudy(model, held_out, others=others, seed=seed, resamples=resamples)
    study.mask(mode, ratio)  # refuses a wrong ratio before anything is computed
    ratios = sorted({r for r in RATIOS if round(r * model.cfg.num_patches)} | {ratio})
    settings = [(mode, r) for r in ratios] + [(other, ratio) for other in MODES if other != mode]
    rows = []
    for done, setting in enumerate(settings):
        tell("reconstruction", done, len(settings))
        rows.append(study.errors(*setting))
    tell("reconstruction", len(settings), len(settings))
    results: dict[str, Any] = {
        "about": _about(checkpoint, model, held_out, mode, ratio, resamples, seed),
        "predictors": {name: vars(predictor) for name, predictor in study.predictors.items()},
        "by_ratio": rows[: len(ratios)],
        "by_mode": [row for row in rows if row["ratio"] == ratio],
        "shift": study.shift_curve(mode, ratio, SHIFTS),
        "lag": _lag(model, held_out, study, mode, ratio),
    }
    probes: dict[str, dict[str, ProbeResult | str]] = {target: {} for target in TARGETS}
    for done, (target, features, result) in enumerate(run_probes(model, held_out, seed=seed, resamples=resamples)):
        tell("probes", done, len(TARGETS) * len(FEATURES))
        probes[target][features] = result
    tell("probes", 1, 1)
    results["probes"] = _probe_rows(probes, labels_of(held_out)[1])
    if output is not None:
        from xmae_fast.evaluation.pictures import draw_all

        output.mkdir(parents=True, exist_ok=True)
        with atomic_path(output / RESULTS) as temporary:
            temporary.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
        draw_all(output, results, study, probes)
        write_report(output)
    return results


def _about(checkpoint, model: xMAE, held_out: HeldOut, mode: str, ratio: float, resamples: int, seed: int) -> dict:
    import sklearn

    name = "a model in memory" if isinstance(checkpoint, xMAE) else Path(checkpoint).name
    versions = {"xmae_fast": __version__, "torch": torch.__version__, "numpy": np.__version__}
    return {
        "checkpoint": name, "model": model.cfg.to_dict(),
        "parameters": sum(p.numel() for p in model.parameters()),
        "data": held_out.about, "mode": mode, "ratio": ratio, "resamples": resamples, "seed": seed,
        "run": run_facts("evaluate(...)"),
        "versions": versions | {"scikit-learn": sklearn.__version__, "python": platform.python_version()},
    }  # fmt: skip


def _lag(model: xMAE, held_out: HeldOut, study: ReconstructionStudy, mode: str, ratio: float) -> dict:
    """Attention of hidden ECG patches by lag, as results.json has it: "lags_s" [2N - 1], "mass" [depth, H, 2N - 1]."""
    rows = np.unique(np.linspace(0, len(held_out) - 1, _LAG_SEGMENTS).astype(np.int64))
    place = model.mask_token
    ppg, ecg = (torch.from_numpy(x[rows]).to(place) for x in (held_out.ppg, held_out.ecg))
    keep = study.mask(mode, ratio).ids_keep[torch.from_numpy(rows).to(place.device)]
    profile = lag_profile(model, ppg, ecg, ids_keep_ecg=keep, queries="masked")
    preference = (profile.mass / profile.uniform.clamp_min(1e-12)).cpu()
    preference[..., profile.lags.abs().cpu() > LAG_SHOWN] = 0  # only few pairs are so far apart
    strongest = [
        {"block": block, "head": head, "lag_s": float(profile.lags[by_lag.argmax()]), "preference": by_lag.max().item()}
        for block, heads in enumerate(preference)
        for head, by_lag in enumerate(heads)
    ]
    return {
        "segments": len(rows), "shown_s": LAG_SHOWN, "patch_s": model.cfg.patch_seconds,
        "lags_s": profile.lags.tolist(), "mass": profile.mass.tolist(), "uniform": profile.uniform.tolist(),
        "strongest": strongest,
    }  # fmt: skip


def _probe_rows(probes: dict[str, dict[str, ProbeResult | str]], sources: dict[str, str]) -> list[dict]:
    rows = []
    for target, by_features in probes.items():
        for features, result in by_features.items():
            row: dict[str, Any] = {"target": target, "features": features, "labels": sources.get(target)}
            if isinstance(result, str):
                rows.append(row | {"skipped": result})
                continue
            random = by_features["random"]
            gain = None
            if features != "random" and isinstance(random, ProbeResult):
                gain = list(result.gain_over(random, METRIC[result.task]))
            rows.append(row | result.to_dict() | {"gain_over_random": gain})
    return rows


def _check_fits(held_out: HeldOut, model: xMAE) -> None:
    if held_out.ppg.shape[1] != model.cfg.seq_len:
        raise ValueError(f"data: expected segments of {model.cfg.seq_len} samples, got {held_out.ppg.shape[1]}")
    if held_out.fs != model.cfg.sampling_freq:
        raise ValueError(f"data: expected {model.cfg.sampling_freq:g} Hz as the model, got {held_out.fs:g} Hz")
