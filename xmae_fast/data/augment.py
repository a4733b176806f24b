"""Augmentation and normalisation of one signal, as published, with the random numbers drawn apart from their use."""

from typing import Literal, NamedTuple

import numpy as np

NormalizeDtype = Literal["float16", "float32"]


class AugmentDraw(NamedTuple):
    """One signal's augmentation: `scale` 1.0 when it is shifted, `shift` 0 when it is scaled; `flip` counts for ECG."""

    scale: float
    shift: int
    flip: bool


def draw_augmentation(rng: np.random.Generator) -> AugmentDraw:
    """Half the time scale by U(0.8, 1.2), else shift by int(U(-7, 7)) samples, truncated towards zero; flip with
    probability one half. Always takes four numbers of `rng.random()`, in the order choice, scale, shift, flip."""
    choice, scale, shift, flip = rng.random(4)
    if choice < 0.5:
        return AugmentDraw(float(0.8 + 0.4 * scale), 0, bool(flip < 0.5))
    return AugmentDraw(1.0, int(14 * shift - 7), bool(flip < 0.5))


def apply_augmentation(x: np.ndarray, draw: AugmentDraw, is_ecg: bool) -> np.ndarray:
    """`x` (L,) scaled, shifted (positive: later, edge value repeated) and, if ECG, flipped; same dtype, new array.
    `min_max` afterwards undoes the scale up to rounding; the published pipeline has both."""
    if draw.shift:
        x = x[np.clip(np.arange(len(x)) - draw.shift, 0, len(x) - 1)]
    factor = -draw.scale if is_ecg and draw.flip else draw.scale
    return x * x.dtype.type(factor)


def augmented(x: np.ndarray, draw: AugmentDraw, is_ecg: bool) -> np.ndarray:
    """`apply_augmentation`, or `x` itself where that would leave nothing to normalise: a signal whose only change is
    shifted out, or one whose scaled values overflow."""
    with np.errstate(over="ignore", invalid="ignore"):
        changed = apply_augmentation(x, draw, is_ecg)
    return x if segment_problem(changed[:, None], x.dtype.name) else changed


def min_max(x: np.ndarray) -> np.ndarray:
    """2 (x - min) / (max - min) - 1 of `x` (L,), computed in its own dtype, as float32. Published: float16."""
    low, high = x.min(), x.max()
    return (2 * (x - low) / (high - low) - 1).astype(np.float32)


def segment_problem(signals: np.ndarray, normalize_dtype: NormalizeDtype = "float16") -> str:
    """Why `signals` (L, C) cannot be normalised in that arithmetic: "non-finite" (or so wide that augmenting and
    normalising overflows it), "constant" (any column), or "" when they can."""
    rows = signals.T.astype(np.float32, order="C")  # reducing strided float16 takes ten times as long
    low, high = rows.min(1), rows.max(1)
    with np.errstate(over="ignore", invalid="ignore"):
        too_wide = 2.5 * (high - low) > np.float32(np.finfo(normalize_dtype).max)
    if not (np.isfinite(low) & np.isfinite(high)).all() or too_wide.any():
        return "non-finite"
    return "constant" if (low == high).any() else ""
