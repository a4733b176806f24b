"""What embeddings tell of the rhythm of real people: probes on labelled PPG of subjects that they have not seen."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np

from xmae_fast.evaluation.features import embed_segments, random_twin
from xmae_fast.evaluation.features_of_paper import paper_features
from xmae_fast.evaluation.labelled import LabelledPPG
from xmae_fast.evaluation.probes.bootstrap import Interval, interval
from xmae_fast.evaluation.probes.linear import ProbeResult, few_subjects_auroc, probe, subjects_of
from xmae_fast.model.pretrained import from_pretrained
from xmae_fast.model.xmae import xMAE
from xmae_fast.reports.blocks import Table

HAND_MADE, RANDOM = "hand-made, 35 features", "random weights"
SHARES = (0.01, 0.03, 0.1, 0.3, 1.0)
_CLEAN = 0.9  # quality of the segments whose pulse rate is predicted


@dataclass(frozen=True, eq=False)
class RhythmRow:
    """One set of features.

    Attributes:
        name: of the features.
        width: how many there are.
        auroc: by rhythm, one against the rest, with its interval over subjects.
        mean: the mean over the rhythms.
        gain: that mean less the one of the hand-made features, paired; None for themselves.
        subjects: how many have labels.
        by_share: by share of the subjects whose labels the probe is given, the mean AUROC over rhythms and draws.
        rate_error: mean absolute error of the pulse rate of clean segments in 1/min, by ridge regression; None where
            there are too few.
    """

    name: str
    width: int
    auroc: dict[str, Interval]
    mean: Interval
    gain: Interval | None
    subjects: int
    by_share: dict[float, float]
    rate_error: Interval | None
    resampled: np.ndarray = field(repr=False)

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "name": self.name, "width": self.width, "subjects": self.subjects, "mean": list(self.mean),
            "auroc": {name: list(value) for name, value in self.auroc.items()},
            "gain": None if self.gain is None else list(self.gain),
            "by_share": {f"{share:g}": value for share, value in self.by_share.items()},
            "rate_error": None if self.rate_error is None else list(self.rate_error),
        }  # fmt: skip


def rhythm_study(
    data: LabelledPPG,
    models: Mapping[str, xMAE | str | os.PathLike[str]],
    embeddings: Mapping[str, np.ndarray] | None = None,
    *,
    shares: tuple[float, ...] = SHARES,
    draws: int = 5,
    resamples: int = 1000,
    seed: int = 77,
    progress: Callable[[str], object] | None = None,
) -> list[RhythmRow]:
    """Compare features by what a linear probe reads from them: each rhythm against the rest, and the pulse rate.

    Args:
        data: the labelled segments.
        models: by name, models or what `from_pretrained` takes. Of each, mean and standard deviation of the tokens
            are probed, and the mean alone (`pooled`).
        embeddings: by name, further features [n, D] of the same segments in their order.
        shares: of the subjects whose labels a probe is given.
        draws: how often those subjects are drawn, where they are not all.
        resamples: of the bootstrap over subjects.
        seed: of folds, draws, resamples and random weights.
        progress: called with the name of each set of features.

    Returns:
        A row for the hand-made features, for random weights of the first model's architecture, for the models, and for
        the embeddings, in this order.

    Raises:
        ValueError: an argument is wrong, or there are fewer than two labels or subjects; the message says what.
        ImportError: scikit-learn or SciPy is missing.
    """
    kinds = sorted(set(data.label.tolist()), key=lambda kind: (-int((data.label == kind).sum()), kind))
    if len(kinds) < 2 or len(set(data.subject.tolist())) < 2:
        raise ValueError(f"data: expected at least 2 rhythms and 2 subjects, got {len(kinds)} rhythms: {kinds}")
    for share in shares:
        if not 0 < share <= 1:
            raise ValueError(f"shares: expected numbers above 0 and up to 1, got {share}")
    for name, values in (embeddings or {}).items():
        if np.ndim(values) != 2 or len(values) != len(data.ppg):
            expected = f"features [{len(data.ppg)}, D] of the segments in their order"
            raise ValueError(f"embeddings: {name}: expected {expected}, got shape {list(np.shape(values))}")
    rows: list[RhythmRow] = []
    for name, features in _all_features(data, models, embeddings or {}, seed):
        if progress is not None:
            progress(name)
        first = rows[0] if rows else None
        rows.append(_row(name, features, data, kinds, first, shares, draws, resamples, seed))
    return rows


def _all_features(data, models, embeddings, seed):
    yield HAND_MADE, paper_features(data.ppg, data.fs)
    for number, (name, given) in enumerate(models.items()):
        model = given if isinstance(given, xMAE) else from_pretrained(given)
        if model.cfg.seq_len != data.ppg.shape[1]:
            expected = f"a model for segments of {data.ppg.shape[1]} samples"
            raise ValueError(f"models: {name}: expected {expected}, got one for {model.cfg.seq_len}")
        if number == 0:
            yield RANDOM, _statistics(random_twin(model, seed), data.ppg)
        both = _statistics(model, data.ppg)
        yield name, both
        yield f"{name}, pooled", both[:, : both.shape[1] // 2]
    yield from embeddings.items()


def _statistics(model: xMAE, ppg: np.ndarray) -> np.ndarray:
    """Mean and standard deviation of the tokens of each segment, [n, 2 D]."""
    parts = []
    for first in range(0, len(ppg), 256):
        tokens = embed_segments(model, ppg[first : first + 256], output="tokens")
        parts.append(np.concatenate([tokens.mean(1), tokens.std(1)], 1))
    return np.concatenate(parts)


def _row(
    name: str, features: np.ndarray, data: LabelledPPG, kinds: list[str], first: RhythmRow | None,
    shares: tuple[float, ...], draws: int, resamples: int, seed: int,
) -> RhythmRow:  # fmt: skip
    options: dict[str, Any] = {"resamples": resamples, "seed": seed}
    results: dict[str, ProbeResult] = {
        kind: probe(features, data.label == kind, data.subject, "classification", **options) for kind in kinds
    }
    resampled = np.nanmean([result.resampled["AUROC"] for result in results.values()], 0)
    value = float(np.mean([result.metrics["AUROC"].value for result in results.values()]))
    gain = None
    if first is not None:
        gain = interval(value - first.mean.value, resampled - first.resampled, data.subject)

    subjects = len(set(data.subject.tolist()))

    @cache
    def with_few(count: int) -> float:
        share = count / subjects
        found = [
            few_subjects_auroc(features, data.label == kind, data.subject, share, draws=draws, seed=seed)
            for kind in kinds
        ]
        return float(np.mean(found))

    by_share = {share: value if share == 1 else with_few(subjects_of(share, subjects)) for share in shares}
    auroc = {kind: result.metrics["AUROC"] for kind, result in results.items()}
    mean, error = interval(value, resampled, data.subject), _rate_error(features, data, resamples, seed)
    return RhythmRow(name, features.shape[1], auroc, mean, gain, subjects, by_share, error, resampled)


def _rate_error(features: np.ndarray, data: LabelledPPG, resamples: int, seed: int) -> Interval | None:
    chosen = data.quality >= _CLEAN
    if chosen.sum() < 20 or len(set(data.subject[chosen].tolist())) < 3:
        return None
    told = probe(features[chosen], data.pulse_rate[chosen], data.subject[chosen], resamples=resamples, seed=seed)
    return told.metrics["MAE"]


def table_of(rows: list[RhythmRow]) -> Table:
    """The rows as a table: every AUROC of one rhythm against the rest, their mean, its gain, and few labels."""
    kinds, by_count = list(rows[0].auroc), {}
    for share in sorted(rows[0].by_share):
        if share < 1:
            by_count[subjects_of(share, rows[0].subjects)] = share  # of shares that are as many subjects, the largest
    shares = list(by_count.values())
    header = ["features", "AUROC, mean", "less hand-made", *kinds, *(f"labels of {share:.0%}" for share in shares),
              "pulse rate, error [1/min]"]  # fmt: skip
    lines = []
    for row in rows:
        gain = "" if row.gain is None else f"{row.gain.value:+.3f} [{row.gain.low:+.3f}, {row.gain.high:+.3f}]"
        error = "" if row.rate_error is None or math.isnan(row.rate_error.value) else f"{row.rate_error.value:.1f}"
        cells = [
            f"{row.name} ({row.width})", f"{row.mean.value:.3f} [{row.mean.low:.3f}, {row.mean.high:.3f}]", gain,
            *(f"{row.auroc[kind].value:.3f}" for kind in kinds),
            *(f"{row.by_share[share]:.3f}" for share in shares), error,
        ]  # fmt: skip
        lines.append(cells)
    return Table(header, lines)
