"""Adds faults of recordings to signals: motion, lost contact, saturation, quantisation."""

from __future__ import annotations

import math

import numpy as np

from xmae_fast.simulation.population.canvas import frequencies, samples, segments, times
from xmae_fast.simulation.population.config import PopulationCfg
from xmae_fast.simulation.population.random import BLOCK, Random, happens, log_uniform, normal, uniform
from xmae_fast.simulation.population.ranges import Range


def bursts(
    rng: Random, x: np.ndarray, probability: float, again: float, size: Range, band: Range, cfg: PopulationCfg
) -> np.ndarray:
    """Add bursts of motion to segments [256, samples]: noise around a frequency within `band`, in a smooth window.

    Args:
        rng: the stream.
        x: changed in place.
        probability: of a first burst.
        again: of a second burst, if there was a first one.
        size: amplitudes (log-uniform).
        band: Hz.
        cfg: the settings.

    Returns:
        [256] float32, the share of each segment under bursts.
    """
    share = np.zeros(BLOCK, np.float32)
    first = happens(rng, probability, BLOCK)[:, 0]
    second = first & happens(rng, again, BLOCK)[:, 0]
    for chosen in (first, second):
        rows = np.flatnonzero(chosen)
        window, inside = _window(rng, (0.4, 5.0), cfg)
        amplitude = log_uniform(rng, size, BLOCK)
        centre, spread = log_uniform(rng, band, BLOCK), log_uniform(rng, (0.2, 2.0), BLOCK)
        f = frequencies(cfg)
        parts = normal(rng, BLOCK, f.shape[1], 2).view(np.complex64)[rows, :, 0]
        gain = np.exp(-0.5 * ((f - centre[rows]) / spread[rows]) ** 2)
        noise = np.fft.irfft(parts * gain, samples(cfg), axis=1)
        noise *= amplitude[rows] / np.maximum(noise.std(1, keepdims=True), 1e-6)
        x[rows] += noise * window[rows]
        share[rows] += inside[rows]
    return np.minimum(share, 1)


def contact_loss(rng: Random, x: np.ndarray, probability: float, cfg: PopulationCfg) -> np.ndarray:
    """Weaken the pulse for a while and shift the level, in some segments [256, samples], in place.

    Returns:
        [256] float32, the share of each segment that is so.
    """
    rows = np.flatnonzero(happens(rng, probability, BLOCK))
    window, inside = _window(rng, (0.8, 5.0), cfg)
    left, shift = uniform(rng, (0.05, 0.6), BLOCK), normal(rng, BLOCK, 1)
    flat = np.minimum(2 * window[rows], 1)
    x[rows] = x[rows] * (1 - (1 - left[rows]) * flat) + shift[rows] * flat
    share = np.zeros(BLOCK, np.float32)
    share[rows] = inside[rows]
    return share


def saturate(rng: Random, x: np.ndarray, probability: float) -> None:
    """Cut off the top or the bottom of some segments [256, samples], in place: up to a quarter of their range."""
    rows = np.flatnonzero(happens(rng, probability, BLOCK))
    cut, top = uniform(rng, (0.02, 0.25), BLOCK)[rows], happens(rng, 0.7, BLOCK)[rows]
    low, high = x[rows].min(1, keepdims=True), x[rows].max(1, keepdims=True)
    span = high - low
    x[rows] = np.clip(x[rows], np.where(top, low, low + cut * span), np.where(top, high - cut * span, high))


def quantise(rng: Random, x: np.ndarray, levels: Range) -> None:
    """Round segments [256, samples] to a number of steps over their range (log-uniform), in place."""
    low, span = x.min(1, keepdims=True), np.ptp(x, axis=1, keepdims=True)
    step = np.maximum(span, 1e-6) / log_uniform(rng, levels, BLOCK)
    x -= low
    x /= step
    np.rint(x, out=x)
    x *= step


def _window(rng: Random, length: Range, cfg: PopulationCfg) -> tuple[np.ndarray, np.ndarray]:
    """A squared half sine of random place and length in each segment, [256, samples], and its share of it, [256]."""
    duration = np.minimum(log_uniform(rng, length, BLOCK), cfg.seg_len)
    begin = (cfg.seg_len + duration) * rng.random((BLOCK, 1), np.float32) - duration
    elapsed = times(cfg) - begin
    inside = (elapsed >= 0) & (elapsed < duration)
    window = np.where(inside, np.sin(np.float32(math.pi) * elapsed / duration) ** 2, 0)
    return window.astype(np.float32), segments(inside, cfg).mean(1, dtype=np.float32)
