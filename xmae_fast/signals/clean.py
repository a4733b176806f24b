"""Fills gaps in PPG and ECG, filters, resamples and scales them, as neurokit2 0.2.13 does segment by segment."""

from __future__ import annotations

from types import ModuleType

import numpy as np

from xmae_fast._optional import need


def scipy(part: str) -> ModuleType:
    """The module `scipy.<part>`; ImportError says what to install."""
    return need(f"scipy.{part}", "Preparing signals needs", "embed")


def fill_missing(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Replace missing samples by the last value before them, or else by the first value after them, as neurokit2 does.

    Args:
        x: [n, L]; a sample that is not finite is missing.

    Returns:
        [n, L] without missing samples; a row that has nothing else becomes 0. And [n], the share of each row that was
        missing.
    """
    gone = ~np.isfinite(x)
    missing = gone.mean(1)
    rows = np.flatnonzero(missing)
    if len(rows):
        there = ~gone[rows]
        source = np.maximum.accumulate(np.where(there, np.arange(x.shape[1]), -1), axis=1)
        source = np.where(source < 0, there.argmax(1)[:, None], source)
        x = x.copy()
        x[rows] = np.where(there.any(1, keepdims=True), np.take_along_axis(x[rows], source, 1), 0)
    return x, missing


def clean_ppg(x: np.ndarray, fs: float, band: tuple[float, float] = (0.5, 8.0), order: int = 2) -> np.ndarray:
    """Clean PPG along the last axis, as `ppg_clean` of neurokit2 does with the method "elgendi".

    A Butterworth band-pass runs forwards and backwards.

    Args:
        x: [..., L].
        fs: the sampling frequency in Hz.
        band: the lower and the upper end of the band in Hz.
        order: of the filter.
    """
    signal = scipy("signal")
    return signal.sosfiltfilt(signal.butter(order, band, "bandpass", output="sos", fs=fs), x, axis=-1)


def clean_ecg(x: np.ndarray, fs: float) -> np.ndarray:
    """Clean ECG along the last axis, as `ecg_clean` of neurokit2 does with the method "neurokit".

    A Butterworth high-pass of order 5 at 0.5 Hz is followed by a moving average over one period of 50 Hz. Both run
    forwards and backwards.

    Args:
        x: [..., L].
        fs: the sampling frequency in Hz.
    """
    signal = scipy("signal")
    x = signal.sosfiltfilt(signal.butter(5, 0.5, "highpass", output="sos", fs=fs), x, axis=-1)
    width = int(fs / 50) if fs >= 100 else 2
    return signal.filtfilt(np.ones(width), [width], x, axis=-1)


CLEAN = {"PPG": clean_ppg, "ECG": clean_ecg}  # by kind: clean(x, fs)


def resample(x: np.ndarray, samples: int, at: np.ndarray | None = None) -> np.ndarray:
    """Give signals another number of samples.

    Cubic splines, mirrored at the ends, give what `signal_resample` of neurokit2 gives (scipy.ndimage.zoom), in a fifth
    of the time.

    Args:
        x: [n, L].
        samples: the new number.
        at: [samples] for all rows, or [n, samples], the positions of the new samples, 0 to L - 1; None lets the first
            and the last sample keep their times.

    Returns:
        [n, samples].
    """
    L = x.shape[1]
    if samples == L and at is None:
        return x
    knots = scipy("ndimage").spline_filter1d(x, 3, axis=1, mode="mirror")
    knots = np.concatenate([knots[:, 1:2], knots, knots[:, -2:-4:-1]], axis=1)
    position = np.arange(samples) * ((L - 1) / max(samples - 1, 1)) if at is None else at
    first = np.minimum(position.astype(int), L - 1)
    t = position - first
    weights = (1 - t) ** 3, 4 - 6 * t**2 + 3 * t**3, 1 + 3 * t + 3 * t**2 - 3 * t**3, t**3
    if position.ndim == 1:
        return np.asarray(sum(knots[:, first + k] * (weight / 6) for k, weight in enumerate(weights)))
    parts = (np.take_along_axis(knots, first + k, axis=1) * (weight / 6) for k, weight in enumerate(weights))
    return np.asarray(sum(parts))


def min_max(x: np.ndarray) -> np.ndarray:
    """Scale each row of x [n, L] to [-1, 1]; a constant row becomes NaN."""
    low, high = x.min(1, keepdims=True), x.max(1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        return 2 * (x - low) / (high - low) - 1
