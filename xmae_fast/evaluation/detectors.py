"""R peaks of ECG, feet of PPG, and the heart rate and pulse arrival time that follow from them.

The detectors are simple and meant for clean segments of ten seconds. Arrays have S segments of L samples; times are in
seconds from the first sample.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from xmae_fast._optional import need

PAT_RANGE = (0.05, 0.60)  # s; a foot that comes so long after an R peak belongs to it
_ECG_BAND = (5.0, 20.0)  # Hz; the band of the QRS complex
_PPG_CUTOFF = 8.0  # Hz
_REFRACTORY = 0.30  # s; R peaks are at least so far apart
_PULSE_GAP = 0.35  # s; upstrokes are at least so far apart
_LEAST_BEATS = 3


class Timing(NamedTuple):
    """Heart rate and pulse arrival time as the signals of S segments tell them.

    Attributes:
        heart_rate: [S] 1/min, 60 / mean interval between R peaks; NaN where fewer than three beats were found.
        pat: [S] s, the median of PPG foot minus R peak; NaN where fewer than three pairs were found.
        beats: [S], how many R peaks were found.
        pairs: [S], how many R peaks have a foot in PAT_RANGE after them.
    """

    heart_rate: np.ndarray
    pat: np.ndarray
    beats: np.ndarray
    pairs: np.ndarray


def r_peaks(ecg: np.ndarray, fs: float) -> list[np.ndarray]:
    """Find R peaks, whichever way they point; a wide premature beat counts as one.

    The signal is filtered by a band-pass of 5-20 Hz (Butterworth, order 2, zero phase), and its energy is averaged over
    100 ms. Beats are maxima of the energy that are at least 0.3 s apart and reach 30 % of its 98th percentile. Each R
    peak is the largest deviation of the filtered signal within 80 ms of such a maximum, refined by a parabola.

    Args:
        ecg: [S, L].
        fs: Hz.

    Returns:
        S arrays of rising times.

    Raises:
        ImportError: SciPy is missing.
    """
    signal = need("scipy.signal", "Detectors of beats need", "eval")
    filtered = signal.sosfiltfilt(signal.butter(2, _ECG_BAND, "bandpass", fs=fs, output="sos"), ecg, axis=1)
    size = np.abs(filtered)
    width = max(round(0.1 * fs), 1)
    energy = need("scipy.ndimage", "Detectors of beats need", "eval").uniform_filter1d(filtered**2, width, axis=1)
    reach = max(round(0.08 * fs), 1)
    found = []
    for row in range(len(ecg)):
        height = 0.3 * np.quantile(energy[row], 0.98)
        near, _ = signal.find_peaks(energy[row], distance=max(_REFRACTORY * fs, 1), height=max(height, 1e-12))
        peaks = [max(at - reach, 0) + size[row, max(at - reach, 0) : at + reach + 1].argmax() for at in near]
        found.append(_refined(size[row], np.unique(np.array(peaks, np.int64))) / fs)
    return found


def pulse_feet(ppg: np.ndarray, fs: float) -> list[np.ndarray]:
    """Find the feet of pulses, by intersecting tangents.

    The signal is filtered by a low-pass of 8 Hz (Butterworth, order 3, zero phase). Pulses are maxima of its slope that
    are at least 0.35 s apart and reach 40 % of the 95th percentile of all such maxima. The foot is where the tangent
    there meets the lowest level of the 0.35 s before it.

    Args:
        ppg: [S, L].
        fs: Hz.

    Returns:
        S arrays of rising times.

    Raises:
        ImportError: SciPy is missing.
    """
    signal = need("scipy.signal", "Detectors of beats need", "eval")
    smooth = signal.sosfiltfilt(signal.butter(3, _PPG_CUTOFF, "lowpass", fs=fs, output="sos"), ppg, axis=1)
    slope = np.gradient(smooth, axis=1) * fs
    before = round(0.35 * fs)
    found = []
    for row in range(len(ppg)):
        tops, _ = signal.find_peaks(slope[row], distance=max(_PULSE_GAP * fs, 1), height=1e-6)
        if len(tops):
            tops = tops[slope[row, tops] >= 0.4 * np.quantile(slope[row, tops], 0.95)]
        tops = tops[tops >= before]
        base = np.array([smooth[row, top - before : top + 1].min() for top in tops])
        found.append((tops - (smooth[row, tops] - base) / slope[row, tops] * fs) / fs if len(tops) else np.empty(0))
    return found


def pair_feet(r: np.ndarray, feet: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The R peaks that have a foot in PAT_RANGE after them, and the first such foot of each."""
    if not len(r) or not len(feet):
        return np.empty(0), np.empty(0)
    at = np.searchsorted(feet, r + PAT_RANGE[0])
    there = at < len(feet)
    there[there] = feet[at[there]] <= r[there] + PAT_RANGE[1]
    return r[there], feet[at[there]]


def timing(ppg: np.ndarray, ecg: np.ndarray, fs: float) -> Timing:
    """Heart rate and pulse arrival time of ppg, ecg [S, L] at `fs` Hz, by `r_peaks` and `pulse_feet`."""
    rate, pat = np.full((2, len(ecg)), np.nan)
    beats, pairs = np.zeros((2, len(ecg)), np.int64)
    for row, (r, feet) in enumerate(zip(r_peaks(ecg, fs), pulse_feet(ppg, fs), strict=True)):
        paired, their_feet = pair_feet(r, feet)
        beats[row], pairs[row] = len(r), len(paired)
        if len(r) >= _LEAST_BEATS:
            rate[row] = 60 * (len(r) - 1) / (r[-1] - r[0])
        if len(paired) >= _LEAST_BEATS:
            pat[row] = np.median(their_feet - paired)
    return Timing(rate, pat, beats, pairs)


def _refined(x: np.ndarray, peaks: np.ndarray) -> np.ndarray:
    """Positions, in samples, of the vertices of parabolas through each peak and its neighbours."""
    inner = peaks[(peaks > 0) & (peaks < len(x) - 1)]
    left, middle, right = x[inner - 1], x[inner], x[inner + 1]
    bend = left - 2 * middle + right
    shift = np.where(bend < 0, 0.5 * (left - right) / np.where(bend < 0, bend, -1), 0)
    return inner + np.clip(shift, -0.5, 0.5)
