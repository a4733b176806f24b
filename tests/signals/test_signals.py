"""Cleaning, resampling, beats and quality of many segments at once, compared with neurokit2 segment by segment."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from benchmarks.studies.recording_files import FS, windows
from tests.embedding.conftest import pulses
from xmae_fast.signals.beats import Beats, ecg_beats, median_rate, ppg_beats, template_quality
from xmae_fast.signals.clean import clean_ecg, clean_ppg, fill_missing, resample


@pytest.fixture(scope="module")
def nk():
    return pytest.importorskip("neurokit2", reason="neurokit2, the oracle, is not installed")


def hard_windows() -> tuple[np.ndarray, np.ndarray]:
    """PPG and ECG of 40 windows: simulated with little to much noise, noise, a metronome, few beats, spikes, steps."""
    rng = np.random.default_rng(1)
    simulated = windows(5, 4), windows(3, 4, 8, ppg_noise=0.3, ecg_noise=0.3)
    ppg, ecg = (np.concatenate(x) for x in zip(*simulated, strict=True))
    t = np.arange(ppg.shape[1]) / FS
    metronome = [np.exp(-0.5 * (((t - 0.2) % period - 0.1) / 0.02) ** 2) for period in (0.8, 0.768, 1.0)]
    odd = [
        *metronome,
        rng.normal(size=len(t)),
        np.where((t > 4) & (t < 4.1), 1.0, 0.0) + 1e-3 * rng.normal(size=len(t)),
        np.sin(2 * np.pi * 0.3 * t),
        np.where(t > 5, 1.0, 0.0),
        np.cumsum(rng.normal(size=len(t))),
    ]
    return np.concatenate([ppg, odd]), np.concatenate([ecg, odd[::-1]])


def noisy_pulses(fs: float, count: int = 12, noise: float = 0.1) -> np.ndarray:
    """PPG of 10 s, [count, L], each noisier than the one before; the last ones have no pulse, or are white noise."""
    rows = [pulses(10, fs, 50 + 9 * i, seed=i, noise=noise * i) for i in range(count - 2)]
    time = np.arange(len(rows[0])) / fs
    return np.stack([*rows, np.sin(2 * np.pi * 0.05 * time), np.random.default_rng(0).normal(size=len(time))])


def peaks_of(nk, name: str, clean: np.ndarray, fs: float) -> np.ndarray:
    """The peaks that neurokit2 finds in a cleaned segment."""
    try:
        found = getattr(nk, f"{name}_findpeaks")(clean, sampling_rate=fs)
    except IndexError:  # its PPG detector, where nothing rises
        return np.zeros(0, int)
    return np.asarray(next(iter(found.values())))


def test_cleaning_and_beats_are_those_of_neurokit2(nk):
    ppg, ecg = hard_windows()
    for name, x, clean, find in (("ppg", ppg, clean_ppg, ppg_beats), ("ecg", ecg, clean_ecg, ecg_beats)):
        cleaned = clean(x, FS)
        found = find(cleaned, FS)
        for i, row in enumerate(x):
            expected = getattr(nk, f"{name}_clean")(row, sampling_rate=FS)
            np.testing.assert_allclose(cleaned[i], expected, rtol=0, atol=1e-9 * np.abs(expected).max())
            peaks = peaks_of(nk, name, cleaned[i], FS)
            np.testing.assert_array_equal(found.at[found.bounds[i] : found.bounds[i + 1]], peaks)


@pytest.mark.parametrize(("fs", "count"), [(125, 5), (64, 12), (100, 10)])
def test_quality_and_rate_are_those_of_neurokit2(nk, fs, count):
    raw = noisy_pulses(fs, count)
    clean = clean_ppg(raw, fs)
    beats = ppg_beats(clean, fs)
    quality, rate = template_quality(clean, beats, fs)
    tenth, _ = template_quality(clean, beats, fs, 10)
    for row, signal in enumerate(raw):
        expected = nk.ppg_clean(signal, sampling_rate=fs)
        np.testing.assert_allclose(clean[row], expected, atol=1e-9 * np.abs(signal).max())
        peaks = peaks_of(nk, "ppg", expected, fs)
        np.testing.assert_array_equal(beats.at[beats.bounds[row] : beats.bounds[row + 1]], peaks)
        theirs, their_rate = (np.nan, np.nan), np.nan
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                samples = nk.ppg_quality(expected, sampling_rate=fs, method="templatematch")
                theirs = np.percentile(samples, (15, 10))
                their_rate = nk.signal_rate(peaks, sampling_rate=fs, desired_length=len(expected)).mean()
        except (ValueError, IndexError):
            pass  # too few pulses for it
        np.testing.assert_allclose((quality[row], tenth[row]), theirs, rtol=0, atol=1e-9)
        np.testing.assert_allclose(rate[row], their_rate, rtol=1e-9)
    assert 1 <= np.isnan(quality).sum() < count - 1  # a segment without pulses is among them
    for found in template_quality(clean[:, : 4 * fs - 1], ppg_beats(clean[:, : 4 * fs - 1], fs), fs):
        assert np.isnan(found).all()


def test_the_median_rate_forgives_a_missed_and_a_false_peak():
    at = np.arange(0, 1000, 80)
    missed, false = np.delete(at, 5), np.sort(np.append(at, 3 * 80 + 35))
    peaks = np.concatenate([at, missed, false, at[:3]])
    bounds = np.cumsum([0, len(at), len(missed), len(false), 3])
    rates = median_rate(Beats(np.repeat(np.arange(4), np.diff(bounds)), peaks, bounds), 100)
    assert rates[:3].tolist() == [75, 75, 75]
    assert np.isnan(rates[3])


def test_segments_without_beats_and_no_segments():
    for find in (ppg_beats, ecg_beats):
        for x in (np.zeros((3, 1250)), np.zeros((0, 1250))):
            beats = find(x, FS)
            assert len(beats.at) == 0
            assert beats.bounds.tolist() == [0] * (len(x) + 1)
            assert np.isnan(template_quality(x, beats, FS)).all()


def test_ecg_cleaning_at_other_rates_is_that_of_neurokit2(nk):
    for fs in (125, 250, 64):
        ecg = np.random.default_rng(1).normal(size=(3, 10 * fs)).cumsum(1)
        expected = np.stack([nk.ecg_clean(row, sampling_rate=fs) for row in ecg])
        np.testing.assert_allclose(clean_ecg(ecg, fs), expected, atol=1e-9)


def test_resampling_is_that_of_neurokit2(nk):
    for n, samples in ((1250, 1000), (640, 1000), (1000, 500), (625, 1000), (500, 500)):
        x = np.random.default_rng(n).normal(size=(2, n))
        expected = [nk.signal_resample(row, desired_length=samples) for row in x]
        np.testing.assert_allclose(resample(x, samples), expected, atol=1e-12)


def test_missing_values_are_filled_as_by_neurokit2(nk):
    raw = noisy_pulses(100, 5)
    raw[0, [0, 1, 500, 501, 999]] = np.nan
    raw[1, 7] = np.inf
    before = raw.copy()
    filled, missing = fill_missing(raw)
    np.testing.assert_array_equal(raw, before)
    np.testing.assert_array_equal(filled[0], nk.signal_fillmissing(raw[0]))
    assert filled[1, 7] == raw[1, 6]
    np.testing.assert_array_equal(filled[2:], raw[2:])
    np.testing.assert_allclose(missing, [0.005, 0.001, 0, 0, 0])
    assert (fill_missing(np.full((1, 5), np.nan))[0] == 0).all()
