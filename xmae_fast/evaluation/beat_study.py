"""Whether reconstructed ECG shows the beats: R peaks in hidden spans against the true ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from xmae_fast.evaluation.detectors import r_peaks

TOLERANCE = 0.05  # s
_REACH = 0.3  # s; a constant delay of a recording is looked for within this


@dataclass(frozen=True)
class BeatScores:
    """How well R peaks of reconstructed ECG agree with the true ones, in hidden spans.

    Attributes:
        f1: of beats within the tolerance.
        recall: the share of true beats that have a reconstructed one.
        precision: the share of reconstructed beats that have a true one.
        error_ms: the median of the absolute differences of beats that agree.
        beats: how many true beats there are.
        delays_ms: by subject, the constant delay that was taken off; empty where none was.
    """

    f1: float
    recall: float
    precision: float
    error_ms: float
    beats: int
    delays_ms: dict[str, float]


def beat_scores(
    predicted: np.ndarray,
    true: Sequence[np.ndarray],
    hidden: np.ndarray,
    subject: np.ndarray,
    fs: float,
    *,
    tolerance: float = TOLERANCE,
    one_delay: bool = False,
) -> BeatScores:
    """Compare the R peaks of reconstructed ECG with the true ones.

    Peaks are found by `r_peaks`. Those within `tolerance` of a visible sample or of an end of the segment count
    neither as true nor as reconstructed. Each true beat agrees with at most one reconstructed beat.

    Args:
        predicted: [S, L], the reconstructed ECG.
        true: S arrays of times in s.
        hidden: [S, L] bool, the samples of the ECG that the model was not shown.
        subject: [S].
        fs: Hz.
        tolerance: s.
        one_delay: take one constant delay off all beats of a subject first, the median difference of nearest beats:
            monitors shift PPG against ECG by an unknown constant.

    Raises:
        ImportError: SciPy is missing.
    """
    subject = np.asarray(subject)
    found = r_peaks(predicted, fs)
    inner = _inner(hidden, round(tolerance * fs))
    delays: dict[str, float] = {}
    if one_delay:
        for name in np.unique(subject):
            rows = np.flatnonzero(subject == name).tolist()
            nearest = np.concatenate([nearest_differences(found[row], true[row]) for row in rows])
            nearest = nearest[np.abs(nearest) <= _REACH]
            delay = float(np.median(nearest)) if len(nearest) else 0.0
            delays[str(name)] = 1000 * delay
            for row in rows:
                found[row] = found[row] - delay
    agreed, of_true, of_found = [], 0, 0
    for row in range(len(predicted)):
        own, theirs = (_within(times, inner[row], fs) for times in (found[row], true[row]))
        of_found, of_true = of_found + len(own), of_true + len(theirs)
        agreed.append(_matched(own, theirs, tolerance))
    errors = np.concatenate(agreed)
    recall, precision = len(errors) / max(of_true, 1), len(errors) / max(of_found, 1)
    f1 = 2 * len(errors) / max(of_true + of_found, 1)
    error = float(1000 * np.median(np.abs(errors))) if len(errors) else float("nan")
    return BeatScores(f1, recall, precision, error, of_true, delays)


def _inner(hidden: np.ndarray, margin: int) -> np.ndarray:
    """The hidden samples [S, L] whose neighbours up to `margin` are hidden too and inside the segment."""
    padded = np.pad(hidden, ((0, 0), (margin, margin)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, 2 * margin + 1, axis=1)
    return np.asarray(windows.all(-1))


def _within(times: np.ndarray, inner: np.ndarray, fs: float) -> np.ndarray:
    at = np.rint(times * fs).astype(np.int64)
    inside = (at >= 0) & (at < len(inner))
    return times[inside][inner[at[inside]]]


def nearest_differences(times: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Of each reference time, the nearest of `times` minus it; nothing where there are no times."""
    if not len(times) or not len(reference):
        return np.empty(0)
    differences = times[None] - reference[:, None]
    return np.take_along_axis(differences, np.abs(differences).argmin(1)[:, None], 1)[:, 0]


def _matched(found: np.ndarray, true: np.ndarray, tolerance: float) -> np.ndarray:
    """Differences of beats that agree, nearest pairs first, no beat twice."""
    pairs = [(abs(f - t), i, j) for i, f in enumerate(found) for j, t in enumerate(true) if abs(f - t) <= tolerance]
    used_found: set[int] = set()
    used_true: set[int] = set()
    matched = []
    for _, i, j in sorted(pairs):
        if i not in used_found and j not in used_true:
            used_found.add(i)
            used_true.add(j)
            matched.append(found[i] - true[j])
    return np.array(matched)
