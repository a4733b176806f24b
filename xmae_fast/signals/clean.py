"""From recorded to clean, evenly sampled and scaled rows of PPG and ECG, as neurokit2 0.2.13 makes them one by one."""

from __future__ import annotations

from types import ModuleType

import numpy as np

from xmae_fast._optional import need


def scipy(part: str) -> ModuleType:
    """`scipy.<part>`, or an ImportError that says what to install."""
    return need(f"scipy.{part}", "Preparing signals needs", "embed")


def fill_missing(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """x [B, n] with what is not finite replaced by the last value before it, or else the first behind it, as neurokit2
    does; rows without any become 0. Also the share of each row that was missing, [B]."""
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
    """x [..., n] at `fs` Hz cleaned along its last axis: neurokit2's `ppg_clean`, method "elgendi" (Butterworth
    band-pass over `band` in Hz, forwards and backwards)."""
    signal = scipy("signal")
    return signal.sosfiltfilt(signal.butter(order, band, "bandpass", output="sos", fs=fs), x, axis=-1)


def clean_ecg(x: np.ndarray, fs: float) -> np.ndarray:
    """x [..., n] at `fs` Hz cleaned along its last axis: neurokit2's `ecg_clean`, method "neurokit" (high-pass 0.5 Hz,
    Butterworth of order 5, then a moving average over one period of 50 Hz, each forwards and backwards)."""
    signal = scipy("signal")
    x = signal.sosfiltfilt(signal.butter(5, 0.5, "highpass", output="sos", fs=fs), x, axis=-1)
    width = int(fs / 50) if fs >= 100 else 2
    return signal.filtfilt(np.ones(width), [width], x, axis=-1)


def resample(x: np.ndarray, samples: int) -> np.ndarray:
    """x [B, n] at another number of samples, first on first and last on last: [B, samples].

    Cubic splines, mirrored at the ends: neurokit2's `signal_resample` (scipy.ndimage.zoom), in a fifth of the time."""
    n = x.shape[1]
    if n == samples:
        return x
    knots = scipy("ndimage").spline_filter1d(x, 3, axis=1, mode="mirror")
    knots = np.concatenate([knots[:, 1:2], knots, knots[:, -2:-4:-1]], axis=1)
    at = np.arange(samples) * ((n - 1) / max(samples - 1, 1))
    first = np.minimum(at.astype(int), n - 1)
    t = at - first
    weights = (1 - t) ** 3, 4 - 6 * t**2 + 3 * t**3, 1 + 3 * t + 3 * t**2 - 3 * t**3, t**3
    return sum(knots[:, first + k] * (weight / 6) for k, weight in enumerate(weights))


def min_max(x: np.ndarray) -> np.ndarray:
    """Rows of x [B, n] to [-1, 1]; a constant row to NaN."""
    low, high = x.min(1, keepdims=True), x.max(1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        return 2 * (x - low) / (high - low) - 1
