"""What the shape of a signal tells: held values, its slope, fast parts; and the limits beyond which it looks wrong."""

from __future__ import annotations

import numpy as np

FLAT, CLIPPED = 0.2, 0.02  # a window counts as flat, or as clipped, if this share of its samples is
PULSE_RATES = (30.0, 200.0)  # 1/min
LOW_QUALITY = 0.7  # white noise has 0.5
FAST = 0.15  # share of the power above 8 Hz; in the PPG of monitors it is below 0.01
UPSIDE_DOWN = -0.3  # skewness of the slope of PPG


def held_shares(x: np.ndarray, fs: float) -> tuple[np.ndarray, np.ndarray]:
    """Shares of each row of x [B, n] that lie in runs of equal values.

    Returns:
        The share in runs of 0.25 s or longer, and the share in runs of 40 ms or longer (at least 4 samples) at the
        minimum or maximum of the row; [B] each.
    """
    same = np.diff(x, axis=1) == 0
    if not same.any():
        return np.zeros(len(x)), np.zeros(len(x))
    extreme = (x == x.min(1, keepdims=True)) | (x == x.max(1, keepdims=True))
    flat = _in_runs(same, max(round(0.25 * fs), 2)) / x.shape[1]
    clipped = _in_runs(same & extreme[:, 1:], max(round(0.04 * fs), 3)) / x.shape[1]
    return flat, clipped


def slope_skewness(clean: np.ndarray) -> np.ndarray:
    """The skewness of the slope of each row of clean [B, n], [B]: above 0 where it rises faster than it falls, as the
    pulses of PPG do (about 1)."""
    slope = np.diff(clean, axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return (slope * slope * slope).mean(1) / (slope * slope).mean(1) ** 1.5


def fast_share(raw: np.ndarray, fs: float, low_hz: float = 0.5, high_hz: float = 8.0) -> np.ndarray:
    """The power above `high_hz` as a share of that above `low_hz`, [B]; 0 where there is none.

    Args:
        raw: [B, n], without missing samples.
        fs: in Hz.
        low_hz: the lower end of the band of PPG.
        high_hz: its upper end.
    """
    power = np.abs(np.fft.rfft(raw - raw.mean(1, keepdims=True), axis=1)) ** 2
    frequency = np.fft.rfftfreq(raw.shape[1], 1 / fs)
    above = power[:, frequency > low_hz].sum(1)
    return power[:, frequency > high_hz].sum(1) / np.where(above > 0, above, 1)


def _in_runs(same: np.ndarray, least: int) -> np.ndarray:
    """[B]: how many samples lie in runs of at least `least` true neighbours in same [B, n - 1]."""
    if same.shape[1] < least:
        return np.zeros(len(same))
    sums = np.cumsum(np.pad(same, ((0, 0), (1, 0))), axis=1, dtype=np.int32)
    begins = sums[:, least:] - sums[:, :-least] == least  # a run begins here
    counts = begins.sum(1)
    runs = (np.diff(begins.view(np.int8), axis=1, prepend=0) == 1).sum(1)
    return counts + runs * least
