"""Prepares simulated signals as recordings are prepared: band, resampling, scale."""

from __future__ import annotations

import numpy as np

from xmae_fast.signals.clean import clean_ecg, clean_ppg, resample, scipy
from xmae_fast.simulation.population.canvas import frequencies, segments
from xmae_fast.simulation.population.config import PopulationCfg
from xmae_fast.simulation.population.random import BLOCK, Random, happens
from xmae_fast.simulation.population.subjects import repeat

_RATES = (1.25, 1.28, 2.5)  # of the recorders, relative to the rate of the segments: 125, 128 and 250 Hz for 100 Hz


def prepare(rng: Random, ppg: np.ndarray, ecg: np.ndarray, cfg: PopulationCfg) -> tuple[np.ndarray, np.ndarray]:
    """Prepare the signals of a block, [256, samples] each over the times of the canvas.

    Args:
        rng: the stream that chooses how the recordings of each subject were prepared.
        ppg, ecg: the signals.
        cfg: the settings.

    Returns:
        [256, L] float32 each, the segments, scaled to [-1, 1].
    """
    count = BLOCK // cfg.segments_per_subject
    apart, resampled = (
        repeat(happens(rng, share, count), cfg)[:, 0] for share in (cfg.cleaned_apart, cfg.ppg.resampled)
    )
    which = repeat(rng.integers(0, len(_RATES), (count, 1)), cfg)[:, 0]
    cut = []
    for x, clean, gain in ((ppg, clean_ppg, _ppg_gain(cfg)), (ecg, clean_ecg, _ecg_gain(cfg))):
        segment = np.ascontiguousarray(segments(x, cfg))
        if cfg.clean:
            if apart.any():
                segment[apart] = clean(segment[apart], cfg.sampling_freq)
            rows = np.flatnonzero(~apart)
            segment[rows] = segments(np.fft.irfft(np.fft.rfft(x[rows], axis=1) * gain, x.shape[1], axis=1), cfg)
        cut.append(segment)
    for i, rate in enumerate(_RATES):
        rows = np.flatnonzero(resampled & (which == i) & cfg.clean)
        if len(rows):
            cut[0][rows] = _through(cut[0][rows], rate)
    return _scaled(cut[0]), _scaled(cut[1])


def _ppg_gain(cfg: PopulationCfg) -> np.ndarray:
    """The gain of `clean_ppg` in the middle of a long recording, [1, frequencies] float32."""
    signal = scipy("signal")
    sos = signal.butter(2, (0.5, 8.0), "bandpass", output="sos", fs=cfg.sampling_freq)
    return _both_ways(sos, cfg)


def _ecg_gain(cfg: PopulationCfg) -> np.ndarray:
    """The gain of `clean_ecg` in the middle of a long recording, [1, frequencies] float32."""
    signal = scipy("signal")
    sos = signal.butter(5, 0.5, "highpass", output="sos", fs=cfg.sampling_freq)
    width = int(cfg.sampling_freq / 50) if cfg.sampling_freq >= 100 else 2
    average = np.abs(signal.freqz(np.ones(width) / width, worN=frequencies(cfg)[0], fs=cfg.sampling_freq)[1]) ** 2
    return _both_ways(sos, cfg) * average.astype(np.float32)


def _both_ways(sos: np.ndarray, cfg: PopulationCfg) -> np.ndarray:
    response = scipy("signal").sosfreqz(sos, worN=frequencies(cfg)[0], fs=cfg.sampling_freq)[1]
    return (np.abs(response) ** 2).astype(np.float32)[None]


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
