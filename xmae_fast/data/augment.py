"""Augmentation and normalisation of one signal, as in the published code; random numbers are drawn apart."""

from typing import Literal, NamedTuple

import numpy as np

NormalizeDtype = Literal["float16", "float32"]


class AugmentDraw(NamedTuple):
    """The random numbers of one signal's augmentation, which either scales or shifts it.

    Args:
        scale: the factor; 1.0 for a signal that is shifted.
        shift: samples; 0 for a signal that is scaled.
        flip: whether the sign changes; only ECG is flipped.
    """

    scale: float
    shift: int
    flip: bool


def draw_augmentation(rng: np.random.Generator) -> AugmentDraw:
    """Draw an augmentation: with probability 1/2 a scale from U(0.8, 1.2), else a shift of int(U(-7, 7)) samples.

    The shift is truncated towards zero. A flip is drawn with probability 1/2. Four numbers of `rng.random()` are always
    taken, in the order choice, scale, shift, flip.
    """
    choice, scale, shift, flip = rng.random(4)
    if choice < 0.5:
        return AugmentDraw(float(0.8 + 0.4 * scale), 0, bool(flip < 0.5))
    return AugmentDraw(1.0, int(14 * shift - 7), bool(flip < 0.5))


def apply_augmentation(x: np.ndarray, draw: AugmentDraw, is_ecg: bool) -> np.ndarray:
    """Scale or shift a signal, and flip it if it is ECG.

    `min_max`, which follows, undoes the scale except for rounding; the published pipeline has both steps.

    Args:
        x: [L].
        draw: the random numbers. A positive shift moves the signal to later samples; the edge value is repeated.
        is_ecg: whether `draw.flip` applies.

    Returns:
        [L], a new array of the same dtype.
    """
    if draw.shift:
        x = x[np.clip(np.arange(len(x)) - draw.shift, 0, len(x) - 1)]
    factor = -draw.scale if is_ecg and draw.flip else draw.scale
    return x * x.dtype.type(factor)


def augmented(x: np.ndarray, draw: AugmentDraw, is_ecg: bool) -> np.ndarray:
    """Augment a signal unless that would make it unusable; arguments and result are those of `apply_augmentation`.

    `x` itself is returned where the augmented signal would be constant (its only change is shifted out) or not finite
    (its scaled values overflow).
    """
    with np.errstate(over="ignore", invalid="ignore"):
        changed = apply_augmentation(x, draw, is_ecg)
    return x if segment_problem(changed[:, None], x.dtype.name) else changed


def min_max(x: np.ndarray) -> np.ndarray:
    """2 (x - min) / (max - min) - 1.

    Args:
        x: [L]. The arithmetic is that of its dtype; the published code has float16.

    Returns:
        [L] float32.
    """
    low, high = x.min(), x.max()
    return (2 * (x - low) / (high - low) - 1).astype(np.float32)


def segment_problem(signals: np.ndarray, normalize_dtype: str = "float16") -> str:
    """Why signals cannot be augmented and normalised.

    Args:
        signals: [L, C], a signal in each column.
        normalize_dtype: the dtype of the arithmetic.

    Returns:
        "non-finite" if a value is infinite or NaN, or would become so in this arithmetic; "constant" if a column is
        constant; "" if the signals can be used.
    """
    rows = signals.T.astype(np.float32, order="C")  # reducing strided float16 takes ten times as long
    low, high = rows.min(1), rows.max(1)
    with np.errstate(over="ignore", invalid="ignore"):
        too_wide = 2.5 * (high - low) > np.float32(np.finfo(normalize_dtype).max)
    if not (np.isfinite(low) & np.isfinite(high)).all() or too_wide.any():
        return "non-finite"
    return "constant" if (low == high).any() else ""
