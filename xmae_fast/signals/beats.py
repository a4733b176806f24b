"""Finds beats in many segments at once, and judges how alike they are.

The results are those of `ecg_peaks` (method "neurokit"), `ppg_peaks` ("elgendi"), `signal_rate` and `signal_quality`
("templatematch") of neurokit2 0.2.13, which works segment by segment. The operations and their order are the same, so
that decisions agree even where the length of a window is a whole number of samples.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from xmae_fast.signals.clean import scipy

_FEWEST = 4  # how many beats a heart rate needs


class Beats(NamedTuple):
    """The peaks of n segments, in order.

    Args:
        row: [peaks] int64, the segment of each peak.
        at: [peaks] int64, the sample of each peak in its segment.
        bounds: [n + 1]; the peaks of segment i are those from bounds[i] to bounds[i + 1] - 1.
    """

    row: np.ndarray
    at: np.ndarray
    bounds: np.ndarray


def ecg_beats(x: np.ndarray, fs: float) -> Beats:
    """The R peaks of cleaned ECG: the most prominent maximum in each steep stretch.

    Args:
        x: [n, L].
        fs: the sampling frequency in Hz.
    """
    uniform_filter1d = scipy("ndimage").uniform_filter1d
    slope = np.abs(np.gradient(x, axis=1))
    smooth = uniform_filter1d(slope, int(np.rint(0.1 * fs)), axis=1, mode="nearest")
    average = uniform_filter1d(smooth, int(np.rint(0.75 * fs)), axis=1, mode="nearest")
    row, start, stop = _stretches(smooth > 1.5 * average)
    count = np.bincount(row, minlength=len(x))
    with np.errstate(invalid="ignore", divide="ignore"):
        shortest = np.bincount(row, stop - start, minlength=len(x)) / count * 0.4
    return _peaks(x, row, start, stop, shortest, int(np.rint(fs * 0.3)))


def ppg_beats(x: np.ndarray, fs: float) -> Beats:
    """The systolic peaks of cleaned PPG: the most prominent maximum in each stretch where a short moving average of the
    squared signal exceeds a long one.

    Args:
        x: [n, L].
        fs: the sampling frequency in Hz.
    """
    uniform_filter1d = scipy("ndimage").uniform_filter1d
    squared = np.maximum(x, 0) ** 2
    short = uniform_filter1d(squared, int(np.rint(0.111 * fs)), axis=1, mode="nearest")
    long = uniform_filter1d(squared, int(np.rint(0.667 * fs)), axis=1, mode="nearest")
    row, start, stop = _stretches(short > long + 0.02 * squared.mean(1, keepdims=True))
    shortest = np.full(len(x), int(np.rint(0.111 * fs)))
    return _peaks(x, row, start, stop, shortest, int(np.rint(0.3 * fs)))


BEATS = {"PPG": ppg_beats, "ECG": ecg_beats}  # by kind: beats(cleaned, fs)


def template_quality(x: np.ndarray, beats: Beats, fs: float, percentile: float = 15) -> tuple[np.ndarray, np.ndarray]:
    """The quality and the mean heart rate of cleaned segments.

    Each sample of a segment has the correlation of its beat with the mean beat; the quality is a percentile of these
    correlations.

    Args:
        x: [n, L].
        beats: the beats of the segments.
        fs: the sampling frequency in Hz.
        percentile: 0 to 100.

    Returns:
        [n] the quality, at most 1, and [n] the rate in beats per minute. They are NaN where neurokit2 gives none: both
        in segments with fewer than four beats or of less than 4 s, and the quality also if fewer than two beats lie
        wholly within the segment.
    """
    quality, rate = np.full((2, len(x)), np.nan)
    rows = np.flatnonzero(np.diff(beats.bounds) >= _FEWEST)
    if len(rows) and x.shape[1] >= 4 * fs:
        rate[rows] = _mean_rate(beats, rows, x.shape[1], fs)
        for row in rows.tolist():
            peaks = beats.at[beats.bounds[row] : beats.bounds[row + 1]]
            quality[row] = _of_segment(x[row], peaks, 60 / float(rate[row]), fs, percentile / 100)
    return quality, rate


def median_rate(beats: Beats, fs: float) -> np.ndarray:
    """The rate of each segment from its median interval, [n] in beats per minute; NaN with fewer than four beats. A
    missed or a false peak moves it far less than the mean rate.

    Args:
        beats: the beats of the segments.
        fs: the sampling frequency in Hz.
    """
    rate = np.full(len(beats.bounds) - 1, np.nan)
    for row in np.flatnonzero(np.diff(beats.bounds) >= _FEWEST).tolist():
        rate[row] = 60 * fs / np.median(np.diff(beats.at[beats.bounds[row] : beats.bounds[row + 1]]))
    return rate


def _stretches(above: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The stretches of True that begin and end within their rows: for each its row, the last sample before it, and its
    last sample, [stretches] each.

    Args:
        above: [n, L] bool.
    """
    row, start = np.nonzero(~above[:, :-1] & above[:, 1:])
    row_stop, stop = np.nonzero(above[:, :-1] & ~above[:, 1:])
    first = np.full(len(above), above.shape[1])
    first[row[::-1]] = start[::-1]
    ends = stop > first[row_stop]
    row_stop, stop = row_stop[ends], stop[ends]
    begun = np.bincount(row, minlength=len(above))
    open_rows = begun > np.bincount(row_stop, minlength=len(above))
    closed = np.ones(len(row), bool)
    closed[np.cumsum(begun)[open_rows] - 1] = False
    return row[closed], start[closed], stop


def _peaks(
    x: np.ndarray, row: np.ndarray, start: np.ndarray, stop: np.ndarray, shortest: np.ndarray, delay: int
) -> Beats:
    """The most prominent maximum of each stretch; maxima that are too close to the one before them are left out.

    Args:
        x: [n, L].
        row, start, stop: the stretches, as `_stretches` gives them.
        shortest: [n], how many samples a stretch must have in each segment.
        delay: a peak must come more than this many samples after the one before it.
    """
    long_enough = stop - start >= shortest[row]
    row, start, stop = row[long_enough], start[long_enough], stop[long_enough]
    size = stop - start + 1  # a wall follows each stretch: no search for maxima and their bases crosses it
    place = np.cumsum(size) - size
    wave = np.repeat(np.arange(len(row)), size)
    within = np.arange(size.sum()) - place[wave]
    walled = np.full(size.sum(), np.inf)
    inside = within < size[wave] - 1
    walled[inside] = x[row[wave], start[wave] + within][inside]
    signal = scipy("signal")
    maxima = signal.find_peaks(walled)[0]
    maxima = maxima[np.isfinite(walled[maxima])]
    prominence = signal.peak_prominences(walled, maxima)[0]
    order = np.lexsort((maxima, -prominence, wave[maxima]))
    found, best = np.unique(wave[maxima][order], return_index=True)
    at = start[found] + within[maxima[order][best]]
    row = row[found]
    keep = _apart(row, at, delay)
    return Beats(row[keep], at[keep], np.searchsorted(row[keep], np.arange(len(x) + 1)))


def _apart(row: np.ndarray, at: np.ndarray, delay: int) -> np.ndarray:
    """Which peaks remain if each must come more than `delay` samples after the last one that remains, and the first one
    more than `delay` samples after sample 0; [peaks] bool."""
    previous = np.where(np.diff(row, prepend=-1) != 0, 0, np.roll(at, 1))
    close = at - previous <= delay
    keep = np.ones(len(at), bool)
    for crowded in np.unique(row[close]).tolist():
        last = 0
        for i in range(*np.searchsorted(row, [crowded, crowded + 1]).tolist()):
            keep[i] = at[i] - last > delay
            last = at[i] if keep[i] else last
    return keep


def _mean_rate(beats: Beats, rows: np.ndarray, L: int, fs: float) -> np.ndarray:
    """Beats per minute: the mean over all samples of 60 / period, where monotone cubics interpolate the periods between
    beats.

    Args:
        beats: the beats of all segments.
        rows: [k], the segments that are wanted.
        L: samples of a segment.
        fs: the sampling frequency in Hz.

    Returns:
        [k].
    """
    count = np.diff(beats.bounds)[rows]
    width = int(count.max())
    column = np.arange(width)
    last = count[:, None] - 1
    at = beats.at[beats.bounds[rows][:, None] + np.minimum(column, last)] + np.maximum(column - last, 0)
    period = np.empty(at.shape)
    period[:, 1:] = np.diff(at) / fs
    period[:, 0] = [values[1:k].mean() for values, k in zip(period, count.tolist(), strict=True)]
    gap = np.diff(at).astype(float)
    slope = np.diff(period) / gap
    tangent = _tangents(gap, slope, count)
    bend = (tangent[:, :-1] + tangent[:, 1:] - 2 * slope) / gap
    powers = bend / gap, (slope - tangent[:, :-1]) / gap - bend, tangent[:, :-1], period[:, :-1]
    begun = np.zeros((len(rows), L), np.int32)
    begun[np.repeat(np.arange(len(rows)), count), at[column < count[:, None]]] = 1
    interval = np.clip(np.cumsum(begun, axis=1) - 1, 0, count[:, None] - 2)
    sample = np.clip(np.arange(L), at[:, :1], np.take_along_axis(at, last, 1))
    cubic, square, linear, constant = (np.take_along_axis(power, interval, 1) for power in powers)
    t = (sample - np.take_along_axis(at, interval, 1)).astype(float)
    value = constant + linear * t
    power = t * t
    value += square * power
    power *= t
    value += cubic * power
    return (60 / value).mean(1)


def _tangents(gap: np.ndarray, slope: np.ndarray, count: np.ndarray) -> np.ndarray:
    """The derivatives at the knots by Fritsch and Butland, as in scipy's PchipInterpolator.

    Args:
        gap: [k, knots - 1], the distances between knots.
        slope: [k, knots - 1], the slopes between knots.
        count: [k], how many knots each row has.

    Returns:
        [k, knots].
    """
    tangent = np.zeros((len(gap), gap.shape[1] + 1))
    before, after = slope[:, :-1], slope[:, 1:]
    flat = (np.sign(before) != np.sign(after)) | (before == 0) | (after == 0)
    near, far = 2 * gap[:, 1:] + gap[:, :-1], gap[:, 1:] + 2 * gap[:, :-1]
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = (near / before + far / after) / (near + far)
        tangent[:, 1:-1] = np.where(flat, 0, 1 / mean)
    tangent[:, 0] = _edge(gap[:, 0], gap[:, 1], slope[:, 0], slope[:, 1])
    rows = np.arange(len(gap))
    final = [array[rows, count - k] for array, k in ((gap, 2), (gap, 3), (slope, 2), (slope, 3))]
    tangent[rows, count - 1] = _edge(*final)
    return tangent


def _edge(h0: np.ndarray, h1: np.ndarray, m0: np.ndarray, m1: np.ndarray) -> np.ndarray:
    """The one-sided derivative of three points that keeps the shape."""
    d = ((2 * h0 + h1) * m0 - h0 * m1) / (h0 + h1)
    turned = np.sign(d) != np.sign(m0)
    steep = (np.sign(m0) != np.sign(m1)) & (np.abs(d) > 3 * np.abs(m0))
    return np.where(turned, 0, np.where(steep, 3 * m0, d))


def _of_segment(x: np.ndarray, peaks: np.ndarray, window: float, fs: float, share: float) -> float:
    """The quality of one segment.

    Args:
        x: [L].
        peaks: [peaks], the samples of its beats.
        window: how long a beat lasts, in seconds.
        fs: the sampling frequency in Hz.
        share: the percentile, 0 to 1.
    """
    half = 0.5 * window
    margin = int((half + half) * fs)
    start, stop = ((peaks + margin + side * fs).astype(int) - margin for side in (-half, half))
    width = stop[0] - start[0]
    if width <= 0 or (stop - start != width).any():  # then neurokit2 finds no common time axis, and no beat
        return np.nan
    whole = (start >= 0) & (stop <= len(x))
    peaks = peaks[whole]
    if len(peaks) < 2:
        return np.nan
    cycles = x[start[whole][:, None] + np.arange(width)]
    template = cycles.mean(0)
    cycles, template = cycles[:-1] - cycles[:-1].mean(1, keepdims=True), template - template.mean()
    with np.errstate(invalid="ignore", divide="ignore"):
        alike = cycles @ template / np.sqrt((cycles**2).sum(1) * (template @ template))
    alike = np.clip(alike, -1, 1)
    samples = np.diff(peaks[1:-1], prepend=0, append=len(x))  # each beat's value holds until the next beat
    return _percentile(alike, samples, share)


def _percentile(values: np.ndarray, times: np.ndarray, share: float) -> float:
    """numpy.quantile at `share` of `values`, each repeated as often as `times` says; NaN if a value is NaN."""
    if np.isnan(values).any():
        return np.nan
    order = np.argsort(values)
    rank = np.cumsum(times[order])
    position = (rank[-1] - 1) * share
    low = int(position)
    below, above = values[order][np.searchsorted(rank, [low, min(low + 1, rank[-1] - 1)], side="right")]
    return below + (above - below) * (position - low)
