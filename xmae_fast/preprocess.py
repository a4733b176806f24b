"""From a recorded signal to what the model was trained on: clean, judge, resample, normalise; many segments at once.

The published recipe cleans and judges with neurokit2, segment by segment. The functions here give its numbers for
arrays of segments [B, n]. They need SciPy, and not neurokit2."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from xmae_fast.data import problems
from xmae_fast.data.gather import gather_arrays
from xmae_fast.recipe import Recipe

_LEAST_PULSES = 4  # neurokit2 knows no rate, and so no quality, of fewer
_PEAK_S, _BEAT_S, _BEAT_OFFSET, _DELAY_S = 0.111, 0.667, 0.02, 0.3  # Elgendi 2013: windows, threshold, least distance


class Prepared(NamedTuple):
    """B segments of L samples as the model takes them.

    ppg: [B, L] float32 in [-1, 1]; zeros where `usable` is False. quality: [B], at most 1; NaN where there are fewer
    than four pulses or it was not asked for. pulse_rate: [B] 1/min, NaN likewise. usable: [B], False for a segment that
    is constant or has no finite sample. missing: [B] share of samples that were not finite, and were filled. flat: [B]
    share of samples that keep their value for 0.25 s or longer. clipped: [B] share of samples that stay at the
    segment's minimum or maximum for 40 ms or longer. slope_skewness: [B], above 0 where the signal rises faster than it
    falls, as pulses do (1 or so). fast: [B] share of the recorded power beyond the band-pass's lower end that lies
    beyond its upper end, too; a few percent at most in PPG."""

    ppg: np.ndarray
    quality: np.ndarray
    pulse_rate: np.ndarray
    usable: np.ndarray
    missing: np.ndarray
    flat: np.ndarray
    clipped: np.ndarray
    slope_skewness: np.ndarray
    fast: np.ndarray


def prepare_ppg(segments: np.ndarray, fs: float, recipe: Recipe | None = None, *, quality: bool = True) -> Prepared:
    """Segments as recorded -> segments as the model takes them.

    Args:
        segments: [B, n] numbers in any unit, n = segment_s * fs to the nearest sample; NaN where nothing was recorded.
        fs: Hz. recipe: the published one unless given. quality: whether to judge.

    Raises:
        ValueError: naming the argument. ImportError: SciPy is missing.
    """
    recipe = recipe or Recipe()
    raw = np.asarray(segments, np.float64)
    check_rate(fs, recipe)
    if raw.ndim != 2 or raw.shape[1] != round(recipe.segment_s * fs):
        wanted = f"[B, {round(recipe.segment_s * fs)}], {recipe.segment_s:g} s at {fs:g} Hz"
        raise ValueError(f"segments: expected shape {wanted}, got {list(raw.shape)}")
    raw, missing = fill_missing(raw)
    usable = np.ptp(raw, axis=1) > 0
    flat, clipped = held_shares(raw, fs)
    clean = clean_ppg(raw, fs, recipe) if recipe.clean != "none" else raw
    judged, rate = np.full((2, len(raw)), np.nan)
    if quality:
        judged[usable], rate[usable] = ppg_quality(clean[usable], fs, recipe.quality_percentile)
    slope = np.diff(clean, axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        skewness = (slope * slope * slope).mean(1) / (slope * slope).mean(1) ** 1.5
    fast = _fast_share(raw, fs, recipe)
    ppg, scaled = normalise(resample(clean, recipe.samples), recipe.normalize_dtype)
    usable &= scaled
    ppg[~usable] = 0
    return Prepared(ppg, judged, rate, usable, missing, flat, clipped, skewness, fast)


def check_rate(fs: float, recipe: Recipe) -> None:
    """ValueError unless a signal at `fs` Hz can be prepared."""
    if isinstance(fs, bool) or not isinstance(fs, int | float | np.number) or not (math.isfinite(fs) and fs > 0):
        raise ValueError(f"fs: expected a positive number of Hz, got {fs!r}")
    if recipe.clean != "none" and fs <= 2 * recipe.high_hz:
        least = f"more than {2 * recipe.high_hz:g} Hz, twice the upper end of the band-pass"
        raise ValueError(f"fs: expected {least}, got {fs:g} Hz")


def fill_missing(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """x [B, n] with what is not finite replaced by the last value before it, or else the first behind it, as neurokit2
    does; rows without any become 0. Also the share of each row that was missing, [B]."""
    gone = ~np.isfinite(x)
    missing = gone.mean(1)
    if missing.any():
        x = x.copy()
        for row in np.flatnonzero(missing):
            there = np.flatnonzero(~gone[row])
            if len(there):
                before = np.maximum(np.searchsorted(there, np.arange(x.shape[1]), "right") - 1, 0)
                x[row] = x[row, there[before]]
            else:
                x[row] = 0
    return x, missing


def held_shares(x: np.ndarray, fs: float) -> tuple[np.ndarray, np.ndarray]:
    """Shares of each row of x [B, n] that lie in runs of equal values: of 0.25 s or more anywhere, and of 40 ms or more
    (at least 4 samples) at the row's minimum or maximum; [B] each."""
    same = np.diff(x, axis=1) == 0
    if not same.any():
        return np.zeros(len(x)), np.zeros(len(x))
    extreme = (x == x.min(1, keepdims=True)) | (x == x.max(1, keepdims=True))
    flat = _in_runs(same, max(round(0.25 * fs), 2)) / x.shape[1]
    clipped = _in_runs(same & extreme[:, 1:], max(round(0.04 * fs), 3)) / x.shape[1]
    return flat, clipped


def clean_ppg(x: np.ndarray, fs: float, recipe: Recipe | None = None) -> np.ndarray:
    """x [..., n] cleaned along its last axis, as neurokit2's ppg_clean does each row ("elgendi": 0.5 to 8 Hz)."""
    recipe = recipe or Recipe()
    signal = scipy_signal()
    band = [recipe.low_hz, recipe.high_hz]
    return signal.sosfiltfilt(signal.butter(recipe.filter_order, band, "bandpass", output="sos", fs=fs), x, axis=-1)


def clean_ecg(x: np.ndarray, fs: float) -> np.ndarray:
    """x [..., n] cleaned along its last axis, as neurokit2's ecg_clean does each row: high-pass 0.5 Hz (Butterworth,
    order 5, forwards and backwards), then a moving average over one period of 50 Hz, in both directions too."""
    signal = scipy_signal()
    x = signal.sosfiltfilt(signal.butter(5, 0.5, "highpass", output="sos", fs=fs), x, axis=-1)
    width = int(fs / 50) if fs >= 100 else 2
    return signal.filtfilt(np.ones(width), [width], x, axis=-1)


def resample(x: np.ndarray, samples: int) -> np.ndarray:
    """x [B, n] at another number of samples, first on first and last on last: [B, samples].

    Cubic splines, mirrored at the ends: scipy.ndimage.zoom of each row, which is neurokit2's signal_resample."""
    n = x.shape[-1]
    if n == samples:
        return x
    from scipy.ndimage import spline_filter1d

    place = np.arange(samples) * ((n - 1) / max(samples - 1, 1))
    first = np.minimum(np.floor(place).astype(np.int64), n - 2)
    t = place - first
    weights = ((1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, 3 * (1 - t) ** 3 - 6 * (1 - t) ** 2 + 4, t**3)
    coefficients = spline_filter1d(x, 3, axis=-1, mode="mirror")
    out = np.zeros((*x.shape[:-1], samples))
    for offset, weight in enumerate(weights, -1):
        at = np.abs(first + offset)
        at = np.where(at > n - 1, 2 * (n - 1) - at, at)
        out += coefficients[..., at] * (weight / 6)
    return out


def normalise(x: np.ndarray, dtype: str = "float16") -> tuple[np.ndarray, np.ndarray]:
    """x [B, L] min-max scaled to [-1, 1] per row as a shard stores it and a loader reads it, in `dtype` arithmetic:
    float32 [B, L], and [B] whether the row could be (others are 0)."""
    low, high = x.min(1, keepdims=True), x.max(1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        stored = np.nan_to_num(2 * (x - low) / (high - low) - 1, posinf=0, neginf=0).astype(dtype)
    out = np.zeros((2, *x.shape), np.float32)
    gather, places = gather_arrays(stored, stored)
    found = gather.gather(*places, *out, half=dtype == "float16", threads=1)
    return out[0], (found & problems.relevant(dtype)) == 0


def ppg_quality(clean: np.ndarray, fs: float, percentile: float = 15) -> tuple[np.ndarray, np.ndarray]:
    """Template-matching quality and pulse rate of cleaned PPG [B, n]: [B], at most 1, and [B] in 1/min.

    The percentile over samples of neurokit2's ppg_quality(method="templatematch"): correlation of each pulse with the
    mean pulse. NaN where neurokit2 gives none: fewer than four pulses, fewer than two whole ones, less than 4 s."""
    quality, rate = np.full((2, len(clean)), np.nan)
    n = clean.shape[1]
    if n < 4 * fs:
        return quality, rate
    for row, peaks in enumerate(pulse_peaks(clean, fs)):
        if len(peaks) < _LEAST_PULSES:
            continue
        rate[row] = _mean_rate(peaks, n, fs)
        half = 0.5 * (60 / rate[row]) * fs
        first, width = -math.ceil(half), math.floor(half) + math.ceil(half)
        whole = peaks[(peaks + first >= 0) & (peaks + first + width <= n)]
        if len(whole) < 2:
            continue
        pulses = clean[row, whole[:, None] + (first + np.arange(width))]
        pulses, template = pulses[:-1], pulses.mean(0)
        template = template - template.mean()
        pulses = pulses - pulses.mean(1, keepdims=True)
        with np.errstate(invalid="ignore", divide="ignore"):
            match = pulses @ template / np.sqrt((pulses * pulses).sum(1) * (template @ template))
        starts = whole[:-1].copy()
        starts[0] = 0
        quality[row] = _percentile_of_runs(match.clip(-1, 1), np.diff(starts, append=n), percentile)
    return quality, rate


def pulse_peaks(clean: np.ndarray, fs: float) -> list[np.ndarray]:
    """Systolic peaks of cleaned PPG [B, n], those of neurokit2's ppg_findpeaks ("elgendi"): B arrays of samples."""
    from scipy.ndimage import uniform_filter1d as smooth

    signal = scipy_signal()
    positive = np.maximum(clean, 0)
    squared = positive * positive
    least, delay = int(np.rint(_PEAK_S * fs)), int(np.rint(_DELAY_S * fs))
    beat = smooth(squared, int(np.rint(_BEAT_S * fs)), axis=1, mode="nearest")
    waves = smooth(squared, least, axis=1, mode="nearest") > beat + _BEAT_OFFSET * squared.mean(1, keepdims=True)
    change = np.diff(waves.view(np.int8), axis=1)
    tops = (clean[:, 1:-1] > clean[:, :-2]) & (clean[:, 1:-1] > clean[:, 2:])
    plateaus = (clean[:, 1:] == clean[:, :-1]).any(1)
    found = []
    for row in range(len(clean)):
        begins, ends = np.flatnonzero(change[row] == 1), np.flatnonzero(change[row] == -1)
        if len(begins):
            ends = ends[ends > begins[0]]
        top = np.flatnonzero(tops[row]) + 1
        low, high = np.searchsorted(top, begins + 1), np.searchsorted(top, ends - 1)
        peaks, last = [], 0
        for begin, end, first, behind in zip(begins.tolist(), ends.tolist(), low.tolist(), high.tolist(), strict=False):
            if end - begin < least:
                continue
            local = top[first:behind]
            if plateaus[row]:
                local = begin + signal.find_peaks(clean[row, begin:end])[0]
            if not len(local):
                continue
            best = 0
            if len(local) > 1:
                best = int(signal.peak_prominences(clean[row, begin:end], local - begin)[0].argmax())
            peak = int(local[best])
            if peak - last > delay:
                peaks.append(peak)
                last = peak
        found.append(np.array(peaks, np.int64))
    return found


def scipy_signal():
    """scipy.signal, or an ImportError that says what to install."""
    try:
        from scipy import signal
    except ImportError:
        raise ImportError('Preparing signals needs scipy: pip install "xmae_fast[embed]"') from None
    return signal


def _fast_share(raw: np.ndarray, fs: float, recipe: Recipe) -> np.ndarray:
    """[B]: power above high_hz as a share of that above low_hz; 0 where there is none."""
    power = np.abs(np.fft.rfft(raw - raw.mean(1, keepdims=True), axis=1)) ** 2
    frequency = np.fft.rfftfreq(raw.shape[1], 1 / fs)
    above = power[:, frequency > recipe.low_hz].sum(1)
    return power[:, frequency > recipe.high_hz].sum(1) / np.where(above > 0, above, 1)


def _mean_rate(peaks: np.ndarray, n: int, fs: float) -> float:
    """Mean over n samples of the rate in 1/min: neurokit2's signal_rate, whose period is interpolated between peaks by
    a monotone cubic and kept constant outside."""
    gaps = np.diff(peaks)
    period = np.concatenate([[gaps.mean()], gaps]) / fs
    h, rise = gaps.astype(np.float64), np.diff(period) / gaps
    slope = np.zeros(len(peaks))
    monotone = np.flatnonzero(rise[:-1] * rise[1:] > 0)
    w = 2 * h[1:] + h[:-1], h[1:] + 2 * h[:-1]
    left, right = w[0][monotone] / rise[:-1][monotone], w[1][monotone] / rise[1:][monotone]
    slope[monotone + 1] = 3 * (h[:-1] + h[1:])[monotone] / (left + right)
    slope[0], slope[-1] = _end_slope(*h[:2], *rise[:2]), _end_slope(h[-1], h[-2], rise[-1], rise[-2])
    piece = np.repeat(np.arange(len(gaps)), gaps)
    t = (np.arange(peaks[0], peaks[-1]) - peaks[:-1][piece]) / h[piece]
    tangents = h * slope[:-1], h * slope[1:]
    bend = 3 * np.diff(period) - 2 * tangents[0] - tangents[1], tangents[0] + tangents[1] - 2 * np.diff(period)
    between = period[piece] + t * (tangents[0][piece] + t * (bend[0][piece] + t * bend[1][piece]))
    outside = peaks[0] / period[0] + (n - peaks[-1]) / period[-1]
    return 60 * (np.reciprocal(between).sum() + outside) / n


def _end_slope(h0: float, h1: float, rise0: float, rise1: float) -> float:
    """Of the monotone cubic's first knot (Moler's three-point formula, as SciPy's PchipInterpolator)."""
    slope = ((2 * h0 + h1) * rise0 - h0 * rise1) / (h0 + h1)
    if slope * rise0 <= 0:
        return 0.0
    return 3 * rise0 if rise0 * rise1 <= 0 and abs(slope) > 3 * abs(rise0) else slope


def _percentile_of_runs(values: np.ndarray, lengths: np.ndarray, percentile: float) -> float:
    """numpy.percentile of `values` repeated `lengths` times each."""
    order = np.argsort(values)
    ends = np.cumsum(lengths[order])
    place = percentile / 100 * (ends[-1] - 1)
    below = int(place)
    low, high = values[order[np.searchsorted(ends, [below, min(below + 1, ends[-1] - 1)], "right")]]
    return float(low + (high - low) * (place - below)) if np.isfinite(values).all() else float("nan")


def _in_runs(same: np.ndarray, least: int) -> np.ndarray:
    """[B]: how many samples lie in runs of at least `least` true neighbours in same [B, n - 1]."""
    if same.shape[1] < least:
        return np.zeros(len(same))
    sums = np.cumsum(np.pad(same, ((0, 0), (1, 0))), axis=1, dtype=np.int32)
    begins = sums[:, least:] - sums[:, :-least] == least  # a run begins here
    counts = begins.sum(1)
    runs = (np.diff(begins.view(np.int8), axis=1, prepend=0) == 1).sum(1)
    return counts + runs * least
