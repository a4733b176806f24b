"""Draws waves at exact times on the samples of many segments, and filters them by their spectra."""

from __future__ import annotations

import math

import numpy as np

from xmae_fast.simulation.population.beats import LEAD, TAIL
from xmae_fast.simulation.population.config import PopulationCfg
from xmae_fast.simulation.population.random import BLOCK, Random, normal

_REACH = 3.6  # standard deviations; what is left out of a Gaussian is below 0.2 % of its height


class Canvas:
    """Collects the Gaussian waves of the segments of a block, from `LEAD` s before to `TAIL` s after the segments."""

    def __init__(self, cfg: PopulationCfg) -> None:
        self.fs = cfg.sampling_freq
        self.width = samples(cfg)
        self._at: list[np.ndarray] = []
        self._value: list[np.ndarray] = []

    def add(
        self,
        row: np.ndarray,
        centre: np.ndarray,
        width: np.ndarray,
        height: np.ndarray,
        slope: float | np.ndarray | None = None,
    ) -> None:
        """Add waves, each argument [m]: height * exp(-(t - centre)^2 / (2 width^2)).

        With `slope` the wave is its derivative plus `slope` times itself, which is what flows into a vessel that holds
        the wave and empties with the rate `slope`; [m], in 1/s.
        """
        if not len(row):
            return
        reach = math.ceil(_REACH * float(width.max()) * self.fs)
        place = (centre + LEAD) * self.fs
        first = np.clip(np.floor(place).astype(np.int64), -reach - 1, self.width + reach + 1)
        step = np.arange(-reach, reach + 2)
        away = ((step + (first - place)[:, None]) / self.fs).astype(np.float32)  # s
        z = away / width[:, None]
        value = np.exp(np.float32(-0.5) * z * z)
        value *= height[:, None]
        if slope is not None:
            value *= np.asarray(slope)[:, None] - away / (width * width)[:, None]
        at = first[:, None] + step
        inside = (at >= 0) & (at < self.width)
        self._at.append((at + (row * self.width)[:, None])[inside])
        self._value.append(value[inside])

    def spectrum(self) -> np.ndarray:
        """The Fourier transform of the sum of the waves, [256, frequencies] complex64."""
        size = BLOCK * self.width
        at, value = np.concatenate(self._at), np.concatenate(self._value)
        drawn = np.bincount(at, weights=value, minlength=size).astype(np.float32)
        return np.fft.rfft(drawn.reshape(BLOCK, self.width), axis=1)


def samples(cfg: PopulationCfg) -> int:
    """The samples from `LEAD` s before a segment to `TAIL` s after it, rounded up to a multiple of 40 for the FFT."""
    return -(-math.ceil((LEAD + cfg.seg_len + TAIL) * cfg.sampling_freq) // 40) * 40


def frequencies(cfg: PopulationCfg) -> np.ndarray:
    """[1, frequencies] float32 in Hz; that at 0 is replaced by half of the first one."""
    f = np.fft.rfftfreq(samples(cfg), 1 / cfg.sampling_freq).astype(np.float32)[None]
    f[0, 0] = f[0, 1] / 2
    return f


def in_time(spectrum: np.ndarray, cfg: PopulationCfg) -> np.ndarray:
    """The samples from `LEAD` s before to `TAIL` s after the segments, [256, samples] float32."""
    return np.fft.irfft(spectrum, samples(cfg), axis=1)


def times(cfg: PopulationCfg) -> np.ndarray:
    """The times of these samples in s from the first sample of the segment, [1, samples] float32."""
    return (np.arange(samples(cfg), dtype=np.float32) / cfg.sampling_freq - np.float32(LEAD))[None]


def segments(x: np.ndarray, cfg: PopulationCfg) -> np.ndarray:
    """The samples of the segments themselves, [256, L], of [256, samples]."""
    first = round(LEAD * cfg.sampling_freq)
    return x[:, first : first + cfg.seq_len]


def noise_spectrum(rng: Random, cfg: PopulationCfg, white: np.ndarray, wander: np.ndarray) -> np.ndarray:
    """The spectrum of white noise plus noise with the power spectrum 1/f^2.

    Args:
        rng: the stream.
        cfg: the settings.
        white, wander: the standard deviations of both, [256, 1].

    Returns:
        [256, frequencies] complex64.
    """
    f = frequencies(cfg)
    count = samples(cfg)
    fall = f[0, 1] / f
    fall[0, 0] = 0
    fall *= math.sqrt(count / 2 / float((fall**2).sum()))  # of unit variance in time
    parts = normal(rng, BLOCK, f.shape[1], 2).view(np.complex64)[..., 0]
    scale = np.sqrt(white**2 * (count / 2) + (wander * fall) ** 2 * (count / 2))
    return parts * scale.astype(np.float32)


def low_pass(f: np.ndarray, cutoff: np.ndarray) -> np.ndarray:
    """The gain of a second-order Butterworth low-pass without delay."""
    return 1 / np.sqrt(1 + (f / cutoff) ** 4)


def high_pass(f: np.ndarray, cutoff: np.ndarray) -> np.ndarray:
    """The transfer function of a first-order high-pass."""
    return (1 / (1 + (-1j) * (cutoff / f))).astype(np.complex64)
