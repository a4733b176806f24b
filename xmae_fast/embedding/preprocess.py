"""Preparing recorded segments as those of pretraining: clean, judge, resample, normalise, many at once.

The published recipe cleans and judges with neurokit2, segment by segment. `xmae_fast.signals` computes the same numbers
for arrays of segments [B, n] with SciPy alone.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from xmae_fast.data import problems
from xmae_fast.data.gather import gather_arrays
from xmae_fast.model.recipe import Recipe
from xmae_fast.signals.beats import median_rate, ppg_beats, template_quality
from xmae_fast.signals.clean import clean_ppg, fill_missing, min_max, resample
from xmae_fast.signals.shape import fast_share, held_shares, slope_skewness


class Prepared(NamedTuple):
    """B segments of L samples as the model takes them.

    Attributes:
        ppg: [B, L] float32 in [-1, 1]; zeros where `usable` is False.
        quality: [B], at most 1; NaN where there are fewer than four pulses, or where it was not asked for.
        pulse_rate: [B] 1/min, from the median interval between pulses; NaN where quality is.
        usable: [B], False for a segment that is constant or has no finite sample.
        missing: [B] share of the samples that were not finite, and are filled.
        flat: [B] share of the samples that keep their value for 0.25 s or longer.
        clipped: [B] share of the samples that stay at the minimum or maximum of the segment for 40 ms or longer.
        slope_skewness: [B], above 0 where the signal rises faster than it falls, as pulses do (about 1).
        fast: [B] power above the band-pass as a share of the power above its lower end; a few percent at most in PPG.
    """

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
    """Prepare recorded segments of PPG for the model.

    Args:
        segments: [B, n] numbers in any unit, n = segment_s * fs to the nearest sample; NaN where nothing was recorded.
        fs: Hz.
        recipe: None for the published one.
        quality: whether to judge the segments.

    Raises:
        ValueError: an argument is wrong; the message names it.
        ImportError: SciPy is missing.
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
    clean = raw
    if recipe.clean != "none":
        clean = clean_ppg(raw, fs, (recipe.low_hz, recipe.high_hz), recipe.filter_order)
    judged, rate = np.full((2, len(raw)), np.nan)
    if quality and usable.any():
        varying = clean[usable]
        beats = ppg_beats(varying, fs)
        judged[usable], mean_rate = template_quality(varying, beats, fs, recipe.quality_percentile)
        rate[usable] = np.where(np.isnan(mean_rate), np.nan, median_rate(beats, fs))
    skewness = slope_skewness(clean)
    fast = fast_share(raw, fs, recipe.low_hz, recipe.high_hz)
    ppg, scaled = normalise(resample(clean, recipe.samples), recipe.normalize_dtype)
    usable &= scaled
    ppg[~usable] = 0
    return Prepared(ppg, judged, rate, usable, missing, flat, clipped, skewness, fast)


def check_rate(fs: float, recipe: Recipe) -> None:
    """Raise ValueError unless a signal at `fs` Hz can be prepared."""
    if isinstance(fs, bool) or not isinstance(fs, int | float | np.number) or not (math.isfinite(fs) and fs > 0):
        raise ValueError(f"fs: expected a positive number of Hz, got {fs!r}")
    if recipe.clean != "none" and fs <= 2 * recipe.high_hz:
        least = f"more than {2 * recipe.high_hz:g} Hz, twice the upper end of the band-pass"
        raise ValueError(f"fs: expected {least}, got {fs:g} Hz")


def normalise(x: np.ndarray, dtype: str = "float16") -> tuple[np.ndarray, np.ndarray]:
    """Scale each row of x [B, L] to [-1, 1] by its minimum and maximum, as a shard stores it and a loader reads it.

    Args:
        x: [B, L].
        dtype: in whose arithmetic it is scaled.

    Returns:
        The rows, [B, L] float32, and whether each could be scaled, [B] bool; rows that could not are 0.
    """
    stored = np.nan_to_num(min_max(x), posinf=0, neginf=0).astype(dtype)
    out = np.zeros((2, *x.shape), np.float32)
    gather, places = gather_arrays(stored, stored)
    found = gather.gather(*places, *out, half=dtype == "float16", threads=1)
    return out[0], (found & problems.relevant(dtype)) == 0
