"""The probes of an evaluation: their targets, the features they start from, and where the labels come from."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from xmae_fast.evaluation.detectors import timing
from xmae_fast.evaluation.features import embed_segments, hand_made_features, random_twin
from xmae_fast.evaluation.held_out import HeldOut
from xmae_fast.evaluation.probes.linear import ProbeResult, probe
from xmae_fast.model.xmae import xMAE

FEATURES = {
    "pretrained": "encoder, pooled tokens",
    "projected": "encoder, ppg_embedding (its projection is random: pretraining does not train it)",
    "random": "same encoder, random initial weights, pooled tokens",
    "hand_made": "20 features made by hand from PPG",
}
TARGETS = {
    "heart_rate": "heart rate across subjects [bpm]",
    "pat_across": "pulse arrival time across subjects [ms]",
    "pat_within": "pulse arrival time within subjects [ms]",
    "pvc": "premature beats in the segment",
}
METRIC = {"regression": "R2", "classification": "AUROC"}
_SOURCES = {  # target -> name in the truth, and the factor to the unit of the target
    "heart_rate": ("heart_rate", 1), "pat_across": ("pat", 1000), "pat_within": ("pat", 1000), "pvc": ("pvc", 1),
}  # fmt: skip


def labels_of(held_out: HeldOut) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Labels [S] by target, NaN where there is none, and their source by target, "truth" or "signals" (`timing`)."""
    known, source = dict(held_out.truth), dict.fromkeys(held_out.truth, "truth")
    if not {"heart_rate", "pat"} <= known.keys():
        found = timing(held_out.ppg, held_out.ecg, held_out.fs)
        for name in ("heart_rate", "pat"):
            if name not in known:
                known[name], source[name] = getattr(found, name), "signals"
    labels = {
        target: known[name].astype(np.float64) * scale for target, (name, scale) in _SOURCES.items() if name in known
    }
    return labels, {target: source[_SOURCES[target][0]] for target in labels}


def run_probes(
    model: xMAE, held_out: HeldOut, *, seed: int = 77, resamples: int = 1000, folds: int = 5
) -> Iterator[tuple[str, str, ProbeResult | str]]:
    """Run a probe for every pair of TARGETS and FEATURES.

    Args:
        model: with a PPG encoder.
        held_out: the segments.
        seed, resamples, folds: as for `probe`.

    Yields:
        (target, features, result); in place of a result, a text that says why there is none.
    """
    features = {
        "pretrained": embed_segments(model, held_out.ppg),
        "projected": embed_segments(model, held_out.ppg, output="projected"),
        "random": embed_segments(random_twin(model, seed), held_out.ppg),
        "hand_made": hand_made_features(held_out.ppg, held_out.fs),
    }
    labels, _ = labels_of(held_out)
    for target in TARGETS:
        task = "classification" if target == "pvc" else "regression"
        reason = _impossible(target, labels.get(target), held_out.subject)
        for name, values in features.items():
            yield target, name, reason or probe(
                values, labels[target], held_out.subject, task, within=target == "pat_within", seed=seed,
                resamples=resamples, folds=folds,
            )  # fmt: skip


def _impossible(target: str, labels: np.ndarray | None, subject: np.ndarray) -> str:
    """Why a target cannot be probed, or ''."""
    if labels is None:
        return "no labels: they cannot be had from the signals, and no truth holds them"
    known = ~np.isnan(labels)
    if len(np.unique(subject[known])) < 2:
        return "fewer than two subjects have a label"
    if target == "pat_within" and np.bincount(subject[known]).max() < 2:
        return "no subject has two segments with a label"
    if target == "pvc":
        counts = [len(np.unique(subject[known & (labels == value)])) for value in (0, 1)]
        if min(counts) < 3:
            return f"segments with premature beats are of {counts[1]} subjects, without of {counts[0]}; 3 are needed"
    elif np.ptp(labels[known]) == 0:
        return "all labels are the same"
    return ""
