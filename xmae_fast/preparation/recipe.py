"""The published recipe, which makes segments of raw windows: neurokit2 window by window, or the same in batches.

Its steps are cleaning (`ecg_clean`, `ppg_clean`), quality (15th percentile of `ecg_quality` and `ppg_quality`, method
templatematch), resampling (`signal_resample`), scaling to [-1, 1] by minimum and maximum, and conversion to float16.
"""

from __future__ import annotations

import warnings
from typing import NamedTuple

import numpy as np

from xmae_fast._optional import need
from xmae_fast.data.options import check_option
from xmae_fast.preparation.settings import LOWEST_RATE, Recipe
from xmae_fast.signals.beats import ecg_beats, ppg_beats, template_quality
from xmae_fast.signals.clean import clean_ecg, clean_ppg, fill_missing, min_max, resample

_ROWS = 128  # windows that are worked on at a time


class Segments(NamedTuple):
    """What a recipe makes of K windows.

    Args:
        ppg: [K, L] float16, in [-1, 1]; zero for a window that is no segment.
        ecg: [K, L] float16, the same.
        ppg_quality: [K], rounded to three decimals as in the keys of published shards; NaN where it was not computed.
        ecg_quality: [K], the same.
        reason: [K] text, why a window is no segment; "" for a segment.
    """

    ppg: np.ndarray
    ecg: np.ndarray
    ppg_quality: np.ndarray
    ecg_quality: np.ndarray
    reason: np.ndarray


def apply_recipe(
    ppg: np.ndarray,
    ecg: np.ndarray,
    *,
    ppg_fs: float,
    ecg_fs: float,
    seq_len: int = 1000,
    recipe: Recipe = "batched",
    max_missing: float = 0.05,
) -> Segments:
    """Make segments of windows of raw signals.

    Missing samples (NaN or infinite) take the last value before them, or at the start of a window the first value after
    them, as in neurokit2.

    Args:
        ppg: [K, samples], windows of at least 4 s.
        ecg: [K, samples], windows of the same time.
        ppg_fs: the sampling frequency of `ppg`, in Hz.
        ecg_fs: the sampling frequency of `ecg`, in Hz.
        seq_len: L, the samples of a segment.
        recipe: "batched", or "neurokit2", which calls neurokit2 window by window.
        max_missing: a window with a greater share of missing samples is no segment.

    Raises:
        ValueError: an argument has a wrong shape or value; the message names it.
        ImportError: SciPy is missing, or neurokit2 where the recipe needs it.
    """
    check_option("recipe", recipe, ("batched", "neurokit2"))
    need("scipy", "Preparation needs", "prepare")
    ppg, ecg = (np.ascontiguousarray(x, dtype=np.float64) for x in (ppg, ecg))
    for name, x, fs in (("ppg", ppg, ppg_fs), ("ecg", ecg, ecg_fs)):
        if x.ndim != 2 or len(x) != len(ppg):
            raise ValueError(f"{name}: expected windows [K, samples], as many of PPG as of ECG, got shape {x.shape}")
        if not LOWEST_RATE <= fs < np.inf:
            raise ValueError(f"{name}_fs: expected at least {LOWEST_RATE:g} Hz, got {fs:g}")
        if x.shape[1] < 4 * fs:
            raise ValueError(f"{name}: expected windows of at least 4 s, got {x.shape[1]} samples at {fs:g} Hz")
    if not len(ppg):
        empty = np.zeros((0, seq_len), np.float16)
        return Segments(empty, empty, np.zeros(0), np.zeros(0), np.zeros(0, str))
    pieces = [
        _apply(ppg[start : start + _ROWS], ecg[start : start + _ROWS], ppg_fs, ecg_fs, seq_len, recipe, max_missing)
        for start in range(0, len(ppg), _ROWS)
    ]
    return Segments(*map(np.concatenate, zip(*pieces, strict=True)))


def _apply(ppg, ecg, ppg_fs: float, ecg_fs: float, seq_len: int, recipe: Recipe, max_missing: float) -> Segments:
    """`apply_recipe` for a few windows."""
    reason = np.full(len(ppg), "", dtype="U32")
    filled = {}
    for name, x in (("ppg", ppg), ("ecg", ecg)):
        filled[name], missing = fill_missing(x)
        _note(reason, missing > max_missing, f"missing {name}")
        _note(reason, (filled[name] == filled[name][:, :1]).all(1), f"constant {name}")
    good = np.flatnonzero(reason == "")
    quality = np.full((2, len(ppg)), np.nan)
    segments = np.zeros((2, len(ppg), seq_len), np.float16)
    if len(good):
        steps = _batched if recipe == "batched" else _neurokit2
        for k, (name, fs) in enumerate((("ppg", ppg_fs), ("ecg", ecg_fs))):
            resampled, quality[k, good] = steps[name](filled[name][good], fs, seq_len)
            segments[k, good] = min_max(resampled)
    quality = np.round(quality, 3)
    for k, name in enumerate(("ppg", "ecg")):
        _note(reason, np.isnan(quality[k]), f"too few {name} beats")
        flat = ~np.isfinite(segments[k]).all(1) | (segments[k] == segments[k][:, :1]).all(1)
        _note(reason, flat, f"constant {name}")
    segments[:, reason != ""] = 0
    return Segments(segments[0], segments[1], quality[0], quality[1], reason)


def _note(reason: np.ndarray, where: np.ndarray, text: str) -> None:
    """Set the reason of windows that do not have one yet."""
    reason[where & (reason == "")] = text


def _batched_ppg(x: np.ndarray, fs: float, seq_len: int) -> tuple[np.ndarray, np.ndarray]:
    clean = clean_ppg(x, fs)
    return resample(clean, seq_len), template_quality(clean, ppg_beats(clean, fs), fs)[0]


def _batched_ecg(x: np.ndarray, fs: float, seq_len: int) -> tuple[np.ndarray, np.ndarray]:
    clean = clean_ecg(x, fs)
    return resample(clean, seq_len), template_quality(clean, ecg_beats(clean, fs), fs)[0]


def _neurokit2_ppg(x: np.ndarray, fs: float, seq_len: int) -> tuple[np.ndarray, np.ndarray]:
    nk = need("neurokit2", 'recipe="neurokit2" needs', "prepare")
    return _row_by_row(nk, nk.ppg_clean, nk.ppg_quality, x, fs, seq_len)


def _neurokit2_ecg(x: np.ndarray, fs: float, seq_len: int) -> tuple[np.ndarray, np.ndarray]:
    nk = need("neurokit2", 'recipe="neurokit2" needs', "prepare")
    return _row_by_row(nk, nk.ecg_clean, nk.ecg_quality, x, fs, seq_len)


def _row_by_row(nk, clean, quality, x: np.ndarray, fs: float, seq_len: int) -> tuple[np.ndarray, np.ndarray]:
    """The resampled windows, [K, L], and their qualities, [K], by functions of neurokit2."""
    resampled, qualities = np.empty((len(x), seq_len)), np.full(len(x), np.nan)
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        for i, row in enumerate(x):
            cleaned = clean(row, sampling_rate=fs)
            resampled[i] = nk.signal_resample(cleaned, desired_length=seq_len)
            # neurokit2 raises these errors if it finds too few beats.
            try:
                qualities[i] = np.percentile(quality(cleaned, sampling_rate=fs, method="templatematch"), 15)
            except (ValueError, IndexError):
                continue
    return resampled, qualities


_batched = {"ppg": _batched_ppg, "ecg": _batched_ecg}
_neurokit2 = {"ppg": _neurokit2_ppg, "ecg": _neurokit2_ecg}
