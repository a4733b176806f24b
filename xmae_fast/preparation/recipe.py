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
from xmae_fast.preparation.common_times import Spacing, positions
from xmae_fast.preparation.settings import PPG_BAND_HZ, Recipe
from xmae_fast.signals.beats import BEATS, template_quality
from xmae_fast.signals.clean import CLEAN, fill_missing, min_max, resample

_ROWS = 128  # windows that are worked on at a time


class Segments(NamedTuple):
    """What a recipe makes of K windows.

    Args:
        ppg: [K, L] float16, in [-1, 1]; zero for a window that is no segment.
        ecg: [K, L] float16, the same; [K, 0] where there was no ECG.
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
    ecg: np.ndarray | None = None,
    *,
    ppg_fs: float,
    ecg_fs: float | None = None,
    seq_len: int = 1000,
    recipe: Recipe = "batched",
    max_missing: float = 0.05,
    ecg_delay_s: float | np.ndarray = 0.0,
) -> Segments:
    """Make segments of windows of raw signals.

    Missing samples (NaN or infinite) take the last value before them, or at the start of a window the first value after
    them, as in neurokit2.

    Sample j of a segment lies j (n - 1) / (L - 1) samples after the first of the n samples of its window. If PPG and
    ECG have different rates, this would put them at different times. So "batched" takes both at the times that this
    rule gives the slower one; "neurokit2" keeps the published rule for each.

    Args:
        ppg: [K, samples], windows of at least 4 s.
        ecg: [K, samples], windows of the same time; None makes segments of PPG alone.
        ppg_fs: the sampling frequency of `ppg`, in Hz.
        ecg_fs: the sampling frequency of `ecg`, in Hz.
        seq_len: L, the samples of a segment.
        recipe: "batched", or "neurokit2", which calls neurokit2 window by window.
        max_missing: a window with a greater share of missing samples is no segment.
        ecg_delay_s: a number or [K], how much later the first sample of the ECG is than that of the PPG, in seconds;
            only "batched" heeds it, and only if the rates differ.

    Raises:
        ValueError: an argument has a wrong shape or value; the message names it.
        ImportError: SciPy is missing, or neurokit2 where the recipe needs it.
    """
    check_option("recipe", recipe, ("batched", "neurokit2"))
    need("scipy", "Preparation needs", "prepare")
    if (ecg is None) != (ecg_fs is None):
        raise ValueError(f"ecg_fs: expected a rate if and only if there is ECG, got {ecg_fs!r}")
    windows = {"ppg": _checked("ppg", ppg, ppg_fs)}
    rates = {"ppg": float(ppg_fs)}
    if ecg is not None and ecg_fs is not None:
        windows["ecg"], rates["ecg"] = _checked("ecg", ecg, ecg_fs), float(ecg_fs)
        if len(windows["ecg"]) != len(windows["ppg"]):
            got = f"shape {windows['ecg'].shape}"
            raise ValueError(f"ecg: expected windows [K, samples], as many of PPG as of ECG, got {got}")
    K = len(windows["ppg"])
    if not K:
        empty = np.zeros((0, seq_len), np.float16)
        return Segments(empty, empty if ecg is not None else empty[:, :0], np.zeros(0), np.zeros(0), np.zeros(0, str))
    delay = np.broadcast_to(np.asarray(ecg_delay_s, np.float64), (K,))
    at: dict[str, np.ndarray | None] = dict.fromkeys(windows)
    pieces = []
    for start in range(0, K, _ROWS):
        rows = slice(start, start + _ROWS)
        if recipe == "batched" and len(windows) > 1:
            ppg_spacing, ecg_spacing = (Spacing(rates[name], x.shape[1]) for name, x in windows.items())
            at["ppg"], at["ecg"] = positions(ppg_spacing, ecg_spacing, delay[rows], seq_len)
        some = {name: x[rows] for name, x in windows.items()}
        pieces.append(_apply(some, rates, at, seq_len, recipe, max_missing))
    return Segments(*map(np.concatenate, zip(*pieces, strict=True)))


def _checked(name: str, x: np.ndarray, fs: float) -> np.ndarray:
    """Windows as [K, samples] float64; ValueError if they cannot be prepared."""
    x = np.ascontiguousarray(x, dtype=np.float64)
    if x.ndim != 2:
        raise ValueError(f"{name}: expected windows [K, samples], as many of PPG as of ECG, got shape {x.shape}")
    if not 2 * PPG_BAND_HZ < fs < np.inf:
        least = f"more than {2 * PPG_BAND_HZ:g} Hz, twice the upper end of the band-pass"
        raise ValueError(f"{name}_fs: expected {least}, got {fs:g} Hz")
    if x.shape[1] < 4 * fs:
        raise ValueError(f"{name}: expected windows of at least 4 s, got {x.shape[1]} samples at {fs:g} Hz")
    return x


def _apply(
    windows: dict[str, np.ndarray], rates: dict[str, float], at: dict[str, np.ndarray | None], seq_len: int,
    recipe: Recipe, max_missing: float,
) -> Segments:  # fmt: skip
    """`apply_recipe` for a few windows of each signal, by name."""
    K = len(windows["ppg"])
    reason = np.full(K, "", dtype="U32")
    filled = {}
    for name, x in windows.items():
        filled[name], missing = fill_missing(x)
        _note(reason, missing > max_missing, f"missing {name}")
        _note(reason, (filled[name] == filled[name][:, :1]).all(1), f"constant {name}")
    good = np.flatnonzero(reason == "")
    quality = {name: np.full(K, np.nan) for name in ("ppg", "ecg")}
    segments = {name: np.zeros((K, seq_len if name in windows else 0), np.float16) for name in ("ppg", "ecg")}
    for name, x in filled.items() if len(good) else ():
        if recipe == "batched":
            rows = at[name]
            places = rows[good] if rows is not None and rows.ndim == 2 else rows
            resampled, quality[name][good] = _batched(name, x[good], rates[name], seq_len, places)
        else:
            resampled, quality[name][good] = _neurokit2(name, x[good], rates[name], seq_len)
        segments[name][good] = min_max(resampled)
    for name in windows:
        quality[name] = np.round(quality[name], 3)
        _note(reason, np.isnan(quality[name]), f"too few {name} beats")
        flat = ~np.isfinite(segments[name]).all(1) | (segments[name] == segments[name][:, :1]).all(1)
        _note(reason, flat, f"constant {name}")
    for x in segments.values():
        x[reason != ""] = 0
    return Segments(segments["ppg"], segments["ecg"], quality["ppg"], quality["ecg"], reason)


def _note(reason: np.ndarray, where: np.ndarray, text: str) -> None:
    """Set the reason of windows that do not have one yet."""
    reason[where & (reason == "")] = text


def _batched(name: str, x: np.ndarray, fs: float, seq_len: int, at: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """The resampled windows, [K, L], and their qualities, [K]; `at` says where they are resampled, see `resample`."""
    clean = CLEAN[name.upper()](x, fs)
    beats = BEATS[name.upper()](clean, fs)
    return resample(clean, seq_len, at), template_quality(clean, beats, fs)[0]


def _neurokit2(name: str, x: np.ndarray, fs: float, seq_len: int) -> tuple[np.ndarray, np.ndarray]:
    """The resampled windows, [K, L], and their qualities, [K], by functions of neurokit2."""
    nk = need("neurokit2", 'recipe="neurokit2" needs', "neurokit2")
    clean, quality = (nk.ppg_clean, nk.ppg_quality) if name == "ppg" else (nk.ecg_clean, nk.ecg_quality)
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
