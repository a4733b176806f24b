"""The mean beat as a reconstruction of ECG, placed where R peaks are expected.

Every sample belongs to one beat: in the last 35 % of an interval between two R peaks to the later one, before that to
the earlier one. The reconstruction is the mean ECG of other subjects at the same time from the *expected* R peak and at
the same distance to the next visible sample. Where the rhythm cannot be continued sharply, the beat is therefore as
blurred as is best for squared error.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from xmae_fast.evaluation.detectors import pair_feet, pulse_feet, r_peaks

TIMINGS = ("ecg", "ppg", "true")
TEMPLATES = ("others", "subject")
_FIRST, _LAST = -0.8, 1.6  # s around the R peak that a template covers
_LEAD = 0.35  # share of an interval that belongs to the beat at its end
_DISTANCES = (0.0, 0.25, 0.5, 1.0, 2.0, 3.0, 5.0)  # s to the next visible sample: the edges of the bins
_FIT_PRIOR = 25  # samples; weight of height 1 and offset 0 when both are fitted to the visible ECG
_OWN_PRIOR = 10  # samples; weight of other subjects' mean in each bin of the subject's own template
_RR, _PAT = 0.85, 0.30  # s; taken where none could be found in other subjects


@dataclass(frozen=True)
class Beats:
    """The beats of S segments of G subjects.

    Attributes:
        ecg: [S, L].
        number: [S], the number of the subject, 0 to G - 1.
        fs: Hz.
        r, feet: S arrays of the times [s] of R peaks and of PPG feet.
        usual: [G, 2], the mean interval between R peaks and the mean arrival time [s] of the other subjects.
    """

    ecg: np.ndarray
    number: np.ndarray
    fs: float
    r: list[np.ndarray]
    feet: list[np.ndarray]
    usual: np.ndarray


def find_beats(ppg: np.ndarray, ecg: np.ndarray, subject: np.ndarray, fs: float) -> Beats:
    """Detect the beats of segments.

    Args:
        ppg, ecg: [S, L].
        subject: [S], the subject of each segment.
        fs: Hz.

    Raises:
        ValueError: there are fewer than two subjects.
    """
    names, number = np.unique(subject, return_inverse=True)
    if len(names) < 2:
        raise ValueError(f"subject: expected at least 2 subjects, got {len(names)}")
    r, feet = r_peaks(ecg, fs), pulse_feet(ppg, fs)
    usual = np.full((len(ecg), 2), np.nan)
    for row in range(len(ecg)):
        paired, their_feet = pair_feet(r[row], feet[row])
        usual[row, 0] = np.median(np.diff(r[row])) if len(r[row]) >= 2 else np.nan
        usual[row, 1] = np.median(their_feet - paired) if len(paired) else np.nan
    sums = np.stack([np.bincount(number, column) for column in np.nan_to_num(usual).T], 1)
    counts = np.stack([np.bincount(number, column) for column in (~np.isnan(usual)).T], 1)
    sums, counts = sums.sum(0) - sums, counts.sum(0) - counts
    usual = np.where(counts > 0, sums / np.maximum(counts, 1), [_RR, _PAT])
    return Beats(ecg, number, fs, r, feet, usual)


def mean_beat(beats: Beats, masked: np.ndarray, *, timing: str = "ecg", template: str = "others") -> np.ndarray:
    """Reconstruct ECG by a mean beat at each expected R peak.

    Height and offset are fitted to the visible ECG, and are drawn towards 1 and 0 with the weight of 25 samples. Beats
    are detected once, on whole signals, but only R peaks at visible samples are used (except by "true").

    Args:
        beats: of all segments.
        masked: [S, L] bool, True where the ECG is hidden.
        timing: how R peaks are expected. "ecg": those of the visible ECG, with gaps between them filled evenly, and
            continued at their median interval (at that of other subjects where no two follow each other). "ppg": the
            feet of the PPG less the median arrival time from visible R peaks to their feet (that of other subjects
            where there is none). "true": all R peaks, the hidden ones too, which makes a bound and no baseline.
        template: "others", the mean of all other subjects; "subject", the mean of the subject's other segments, drawn
            towards that of others with the weight of 10 samples (the model is not given so much).

    Returns:
        [S, L].

    Raises:
        ValueError: an argument is wrong; the message names it.
    """
    for name, value, known in (("timing", timing, TIMINGS), ("template", template, TEMPLATES)):
        if value not in known:
            raise ValueError(f"{name}: expected one of {', '.join(map(repr, known))}, got {value!r}")
    bins = _bins(beats, masked, timing)
    predicted = _others_mean(beats, bins)
    if template == "subject":
        predicted = _own_mean(beats, bins, predicted)
    return _fitted(predicted, beats.ecg, ~masked)


def _bins(beats: Beats, masked: np.ndarray, timing: str) -> np.ndarray:
    """[S, L]: the bin of every sample, by its expected time from its beat and the distance to the next visible one."""
    S, L = masked.shape
    times = round((_LAST - _FIRST) * beats.fs) + 1
    by_time = np.full((S, L), times)  # one more bin: no expected beat
    for row in range(S):
        rhythm = _expected(beats, row, ~masked[row], timing)
        if rhythm is not None:
            by_time[row] = _since_beat(rhythm, L, beats.fs)
    by_distance = np.digitize(_distance(masked) / beats.fs, _DISTANCES, right=True)
    return by_distance * (times + 1) + by_time


def _expected(beats: Beats, row: int, visible: np.ndarray, timing: str) -> np.ndarray | None:
    """Times of R peaks that cover the segment, as `timing` expects them; None where it expects none."""
    end, r, feet = len(visible) / beats.fs, beats.r[row], beats.feet[row]
    usual_rr, usual_pat = beats.usual[beats.number[row]]
    if timing == "true":
        return _complete(r, float(np.median(np.diff(r))), end) if len(r) >= 2 else None
    place = np.clip(np.rint(r * beats.fs).astype(np.int64), 0, len(visible) - 1)
    seen, place = r[visible[place]], place[visible[place]]
    if timing == "ppg" and len(feet) >= 2:
        paired, their_feet = pair_feet(seen, feet)
        delay = np.median(their_feet - paired) if len(paired) else usual_pat
        return _complete(feet - delay, float(np.median(np.diff(feet))), end)
    if not len(seen):
        return None
    hidden = np.cumsum(~visible)
    intervals = np.diff(seen)[hidden[place[1:]] == hidden[place[:-1]]]
    return _complete(seen, float(np.median(intervals) if len(intervals) else usual_rr), end)


def _complete(r: np.ndarray, rr: float, end: float) -> np.ndarray:
    """Fill gaps of about k * rr between rising R peaks with k - 1 beats, and go on by rr beyond 0 and `end`."""
    steps = np.maximum(np.rint(np.diff(r) / rr).astype(np.int64), 1)
    filled = [r[:1], *(np.linspace(a, b, k + 1)[1:] for a, b, k in zip(r[:-1], r[1:], steps, strict=True))]
    inner = np.concatenate(filled)
    before = inner[0] - rr * np.arange(int(max(inner[0], 0) / rr) + 2, 0, -1)
    after = inner[-1] + rr * np.arange(1, int(max(end - inner[-1], 0) / rr) + 3)
    return np.concatenate([before, inner, after])


def _since_beat(r: np.ndarray, L: int, fs: float) -> np.ndarray:
    """[L]: the bin of the time from the beat that each sample belongs to; `r` covers the segment."""
    time = np.arange(L) / fs
    following = np.searchsorted(r, time, "right")
    last, coming = r[following - 1], r[following]
    since = np.where(coming - time < _LEAD * (coming - last), time - coming, time - last)
    return np.rint((np.clip(since, _FIRST, _LAST) - _FIRST) * fs).astype(np.int64)


def _distance(masked: np.ndarray) -> np.ndarray:
    """[S, L]: the distance in samples to the next visible one, 0 at a visible one, L in a row without any."""
    L = masked.shape[1]
    position = np.arange(L)
    last = np.maximum.accumulate(np.where(masked, -L, position), axis=1)
    coming = np.minimum.accumulate(np.where(masked, 2 * L, position)[:, ::-1], axis=1)[:, ::-1]
    return np.minimum(np.minimum(position - last, coming - position), L)


def _others_mean(beats: Beats, bins: np.ndarray) -> np.ndarray:
    """[S, L]: the mean ECG of all other subjects in the bin of each sample; where it is empty, their mean sample."""
    count, subjects = bins.max() + 1, beats.number.max() + 1
    index = (beats.number[:, None] * count + bins).ravel()
    sums = np.bincount(index, beats.ecg.ravel(), subjects * count).reshape(subjects, count)
    counts = np.bincount(index, minlength=subjects * count).reshape(subjects, count)
    sums, counts = sums.sum(0) - sums, counts.sum(0) - counts
    level = sums.sum(1, keepdims=True) / counts.sum(1, keepdims=True)
    means = np.where(counts > 0, sums / np.maximum(counts, 1), level)
    return means[beats.number[:, None], bins]


def _own_mean(beats: Beats, bins: np.ndarray, others: np.ndarray) -> np.ndarray:
    """[S, L]: the mean ECG of the subject's other segments, drawn towards `others` [S, L]."""
    result = np.empty_like(others)
    for subject in np.unique(beats.number):
        rows = np.flatnonzero(beats.number == subject)
        count = bins[rows].max() + 1
        index = (np.arange(len(rows))[:, None] * count + bins[rows]).ravel()
        sums = np.bincount(index, beats.ecg[rows].ravel(), len(rows) * count).reshape(len(rows), count)
        counts = np.bincount(index, minlength=len(rows) * count).reshape(len(rows), count)
        at = np.arange(len(rows))[:, None], bins[rows]
        own, of = (sums.sum(0) - sums)[at], (counts.sum(0) - counts)[at]
        result[rows] = (own + _OWN_PRIOR * others[rows]) / (of + _OWN_PRIOR)
    return result


def _fitted(x: np.ndarray, y: np.ndarray, visible: np.ndarray) -> np.ndarray:
    """a * x + b with the a and b of each row that minimise the squared error, to visible y and to a = 1 and b = 0."""
    w = visible.astype(np.float64)
    residual = y - x
    xx, x1 = (w * x * x).sum(1) + _FIT_PRIOR * np.maximum(x.var(1), 1e-6), (w * x).sum(1)
    n, xe, e = w.sum(1) + _FIT_PRIOR, (w * x * residual).sum(1), (w * residual).sum(1)
    determinant = xx * n - x1**2
    a, b = (n * xe - x1 * e) / determinant, (xx * e - x1 * xe) / determinant
    return (x + a[:, None] * x + b[:, None]).astype(np.float32)
