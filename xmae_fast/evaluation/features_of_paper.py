"""The 35 features of a segment of PPG that are the hand-made baseline of the xMAE paper (arXiv 2605.00973).

The paper names groups of features and how many each has; this module says what each of them is here.
"""

from __future__ import annotations

import numpy as np

from xmae_fast._optional import need
from xmae_fast.signals.beats import ppg_beats
from xmae_fast.signals.clean import clean_ppg

_SHAPE = (
    "mean", "sd", "least", "most", "range", "median", "interquartile_range", "rms", "skewness", "kurtosis",
    "percentile_10", "percentile_90", "entropy",
)  # fmt: skip
_DERIVATIVES = ("mean_absolute_slope", "sd_of_slope", "sd_of_second_derivative")
_PEAKS = ("mean_peak_height", "sd_of_peak_height", "mean_peak_prominence")
_OF_INTERVALS = ("mean", "median", "sd", "least", "most")
_INTERVALS = (
    "beats", "pulse_rate", *(f"{name}_interval" for name in _OF_INTERVALS),
    *(f"{name}_heart_rate" for name in _OF_INTERVALS), "rmssd", "sdnn", "pnn50",
)  # fmt: skip
PAPER_FEATURES = (*_SHAPE, *_DERIVATIVES, "zero_crossings", *_PEAKS, *_INTERVALS)
"""Names of the 35 features, in order: 13 of amplitude and shape, 3 of derivatives, the zero crossings, 3 of peaks and
15 of intervals."""
_BINS = 20  # of the histogram of the entropy


def paper_features(ppg: np.ndarray, fs: float) -> np.ndarray:
    """The 35 features of the paper's hand-made baseline.

    Features of amplitude, shape and derivatives are of the segment as it is. Peaks are the systolic peaks that
    `xmae_fast.signals` finds in the PPG after the band-pass of 0.5 to 8 Hz. Intervals between peaks are in seconds,
    heart rates in 1/min; `rmssd` is the root mean square of successive differences of intervals, `sdnn` the standard
    deviation of the intervals around their median within 20 % of it, which leaves out missed and early beats, and
    `pnn50` the share of successive differences above 50 ms. Where a segment has too few peaks for a feature, it takes
    the median of the other segments.

    Args:
        ppg: [S, L].
        fs: Hz.

    Returns:
        [S, 35] float64, in the order of `PAPER_FEATURES`.

    Raises:
        ValueError: `ppg` has another shape, or is not finite.
        ImportError: SciPy is missing.
    """
    x = np.asarray(ppg, np.float64)
    if x.ndim != 2 or not np.isfinite(x).all():
        raise ValueError(f"ppg: expected finite segments [S, L], got shape {list(x.shape)}")
    slope, curve = (np.diff(x, n, axis=1) * fs**n for n in (1, 2))
    centred = x - x.mean(1, keepdims=True)
    crossings = (np.diff(np.signbit(centred), axis=1)).sum(1)
    columns = [*_shape(x, centred), np.abs(slope).mean(1), slope.std(1), curve.std(1), crossings]
    clean = clean_ppg(x, fs)
    beats = ppg_beats(clean, fs)
    prominences = need("scipy.signal", "Features made by hand need", "eval").peak_prominences
    pulses = np.full((len(x), len(_PEAKS) + len(_INTERVALS)), np.nan)
    for row in range(len(x)):
        at = beats.at[beats.bounds[row] : beats.bounds[row + 1]]
        pulses[row, len(_PEAKS)] = len(at)
        if len(at):
            height = x[row, at]
            depth = prominences(clean[row], at)[0].mean()
            pulses[row, : len(_PEAKS)] = height.mean(), height.std(), depth
        if len(at) >= 3:
            pulses[row, len(_PEAKS) + 1 :] = _intervals(np.diff(at) / fs)
    known = np.where(np.isfinite(pulses).any(0), np.nanmedian(_safe(pulses), axis=0), 0)
    return np.column_stack([*columns, np.where(np.isfinite(pulses), pulses, known)])


def _safe(values: np.ndarray) -> np.ndarray:
    """The values, with zeros in columns that have none at all."""
    return np.where(np.isfinite(values).any(0), values, 0)


def _shape(x: np.ndarray, centred: np.ndarray) -> list[np.ndarray]:
    """The 13 features of amplitude and shape of x [S, L]; `centred` is x without its mean."""
    sd = centred.std(1)
    scale = np.where(sd > 0, sd, 1)
    low, least, median, most, high = np.quantile(x, [0.1, 0.25, 0.5, 0.75, 0.9], axis=1)
    moments = [(centred**power).mean(1) / scale**power for power in (3, 4)]
    bottom, span = x.min(1), np.ptp(x, axis=1)
    place = ((x - bottom[:, None]) / np.where(span > 0, span, 1)[:, None] * _BINS).astype(int).clip(0, _BINS - 1)
    counts = np.stack([(place == k).sum(1) for k in range(_BINS)], 1) / x.shape[1]
    entropy = -(counts * np.log(np.where(counts > 0, counts, 1))).sum(1)
    rms = np.sqrt((x * x).mean(1))
    return [x.mean(1), sd, bottom, x.max(1), span, median, most - least, rms, *moments, low, high, entropy]


def _intervals(interval: np.ndarray) -> tuple[float, ...]:
    """The features of at least two intervals between peaks, from `pulse_rate` on."""
    rate, change = 60 / interval, np.diff(interval)
    middle = np.median(interval)
    normal = interval[np.abs(interval - middle) <= 0.2 * middle]
    of_both = [f(values) for values in (interval, rate) for f in (np.mean, np.median, np.std, np.min, np.max)]
    rmssd = float(np.sqrt((change**2).mean()))
    return (
        float(60 / interval.mean()),
        *map(float, of_both),
        rmssd,
        float(normal.std()) if len(normal) else 0.0,
        float((np.abs(change) > 0.05).mean()),
    )
