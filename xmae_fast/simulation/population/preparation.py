"""Prepares simulated signals as recordings are prepared: band, resampling, scale."""

from __future__ import annotations

import numpy as np

from xmae_fast.signals.clean import clean_ecg, clean_ppg, resample, scipy
from xmae_fast.simulation.population.config import PopulationCfg
from xmae_fast.simulation.population.random import BLOCK, Random, happens
from xmae_fast.simulation.population.subjects import repeat

_RATES = (1.25, 1.28, 2.5)  # of the recorders, relative to the rate of the segments: 125, 128 and 250 Hz for 100 Hz


def prepare(rng: Random, ppg: np.ndarray, ecg: np.ndarray, cfg: PopulationCfg) -> tuple[np.ndarray, np.ndarray]:
    """Prepare the segments of a block, [256, L] each.

    Args:
        rng: the stream that chooses the subjects whose PPG was resampled by its Fourier transform.
        ppg, ecg: the signals.
        cfg: the settings.

    Returns:
        [256, L] float32 each, scaled to [-1, 1].
    """
    if cfg.clean:
        ppg, ecg = clean_ppg(ppg, cfg.sampling_freq), clean_ecg(ecg, cfg.sampling_freq)
    count = BLOCK // cfg.segments_per_subject
    chosen = repeat(happens(rng, cfg.ppg.resampled, count), cfg)[:, 0]
    which = repeat(rng.integers(0, len(_RATES), (count, 1)), cfg)[:, 0]
    if cfg.clean:
        for i, rate in enumerate(_RATES):
            rows = np.flatnonzero(chosen & (which == i))
            if len(rows):
                ppg[rows] = _through(ppg[rows], rate)
    return _scaled(ppg), _scaled(ecg)


def _through(x: np.ndarray, rate: float) -> np.ndarray:
    """Segments [n, L] that were recorded at `rate` times as many samples and then resampled by a Fourier transform.

    That takes a segment for one period of a signal, so the step from its end to its beginning rings at both ends.
    """
    L = x.shape[1]
    finer = round(L * rate)
    at = np.minimum(np.arange(finer) / rate, L - 1)
    return scipy("signal").resample(resample(x, finer, at).astype(np.float32), L, axis=1)


def _scaled(x: np.ndarray) -> np.ndarray:
    low, span = x.min(1, keepdims=True), np.ptp(x, axis=1, keepdims=True)
    scaled = (x - low) * (2 / np.maximum(span, 1e-12)) - 1
    return np.clip(scaled, -1, 1).astype(np.float32)
