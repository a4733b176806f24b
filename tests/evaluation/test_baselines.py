"""Baselines on signals whose answer is known."""

import numpy as np
import pytest

from xmae_fast.data import SimulationCfg, simulate
from xmae_fast.evaluation import find_beats, mean_beat, pulse_feet, r_peaks, timing
from xmae_fast.evaluation.baselines import (
    linear_interpolation,
    masked_mse_by_segment,
    others_mean,
    partner_of_other_subject,
    shifted,
    visible_mean,
)

FS = 100.0


def spikes(r_times, L=1000, width=0.02):
    """An ECG that is a Gaussian spike at each time."""
    time = np.arange(L) / FS
    return np.exp(-0.5 * ((time - np.array(r_times)[:, None]) / width) ** 2).sum(0).astype(np.float32)


def pulses(feet, L=1000):
    """A PPG of steep rises and slow falls; the foot of a Gaussian rise is two SDs before its peak."""
    since = np.arange(L) / FS - np.array(feet)[:, None] - 0.16
    return np.where(since < 0, np.exp(-0.5 * (since / 0.08) ** 2), np.exp(-since / 0.25)).sum(0).astype(np.float32)


def test_interpolation_is_exact_on_a_ramp():
    ecg = np.linspace(-1, 1, 200, dtype=np.float32)[None].repeat(3, 0)
    masked = np.zeros((3, 200), bool)
    masked[0, 20:150] = True
    masked[1, 1:199:2] = True
    masked[2] = True
    result = linear_interpolation(ecg, masked, np.array([7, 7, 7.0]))
    np.testing.assert_allclose(result[:2], ecg[:2], atol=1e-6)
    np.testing.assert_array_equal(result[2], 7)


def test_interpolation_is_level_beyond_what_is_visible():
    ecg = np.arange(10, dtype=np.float32)[None]
    masked = np.ones((1, 10), bool)
    masked[0, 3:5] = False
    np.testing.assert_array_equal(linear_interpolation(ecg, masked, np.zeros(1))[0], [3, 3, 3, 3, 4, 4, 4, 4, 4, 4])


def test_means_and_error():
    ecg = np.array([[1, 2, 3, 4], [5, 5, 7, 9]], np.float32)
    masked = np.array([[False, False, True, True], [True, True, True, True]])
    mean = others_mean(ecg, np.array([0, 1]))
    np.testing.assert_allclose(mean, [6.5, 2.5])
    result = visible_mean(ecg, masked, mean)
    np.testing.assert_allclose(result, [[1.5] * 4, [2.5] * 4])
    np.testing.assert_allclose(masked_mse_by_segment(result, ecg, masked), [(1.5**2 + 2.5**2) / 2, 18.75])
    with pytest.raises(ValueError, match="masked: expected hidden samples in every segment"):
        masked_mse_by_segment(result, ecg, np.zeros((2, 4), bool))
    with pytest.raises(ValueError, match="subject: expected at least 2 subjects, got 1"):
        others_mean(ecg, np.zeros(2, int))


def test_shuffled_ppg_is_of_another_subject_and_any_of_them():
    subject = np.array([3, 1, 1, 3, 3, 2, 1, 3])
    drawn = np.stack([partner_of_other_subject(subject, seed) for seed in range(300)])
    assert (subject[drawn] != subject).all()
    for segment in range(8):
        assert set(drawn[:, segment]) == set(np.flatnonzero(subject != subject[segment]))
    np.testing.assert_array_equal(drawn[5], partner_of_other_subject(subject, 5))
    with pytest.raises(ValueError, match="subject: expected at least 2 subjects, got 1"):
        partner_of_other_subject(np.zeros(4, int), 0)


def test_shift_moves_and_keeps_everything():
    x = np.arange(200.0)[None]
    np.testing.assert_array_equal(shifted(x, 0.05, FS)[0, 5:], x[0, :-5])
    np.testing.assert_array_equal(shifted(x, -0.05, FS)[0, :-5], x[0, 5:])
    np.testing.assert_array_equal(np.sort(shifted(x, 0.7, FS)), x)


def test_detectors_find_planted_beats():
    r = np.arange(0.5, 9.8, 0.83)
    for sign in (1, -1):
        np.testing.assert_allclose(r_peaks(sign * spikes(r)[None], FS)[0], r, atol=0.004)
    feet = r + 0.25
    found = pulse_feet(pulses(feet)[None], FS)[0]
    np.testing.assert_allclose(found, feet[feet < 9.8], atol=0.02)
    result = timing(pulses(feet)[None], spikes(r)[None], FS)
    assert abs(result.heart_rate[0] - 60 / 0.83) < 0.1
    assert abs(result.pat[0] - 0.25) < 0.015


def test_detectors_against_the_simulator():
    sim = simulate(30, 3, seed=41, cfg=SimulationCfg(pat_coupling=0.5))
    good = (sim.ppg_quality > 0.9) & (sim.ecg_quality > 0.9)
    result = timing(sim.ppg[good], sim.ecg[good], FS)
    assert np.isfinite(result.pat).all()
    assert np.quantile(np.abs(result.heart_rate - sim.heart_rate[good]), 0.95) < 0.5
    error = result.pat - sim.pat_mean[good]
    assert abs(np.median(error)) < 0.008
    assert np.quantile(np.abs(error), 0.95) < 0.02


def test_flat_and_beatless_signals_have_no_beats():
    flat = np.zeros((2, 1000), np.float32)
    result = timing(flat, flat, FS)
    assert np.isnan(result.heart_rate).all()
    assert np.isnan(result.pat).all()
    assert all(len(r) == 0 for r in r_peaks(flat, FS) + pulse_feet(flat, FS))


@pytest.fixture
def regular():
    """Six subjects with the same spike-shaped beats, exactly regular, each at its own rate and arrival time."""
    subject = np.repeat(np.arange(6), 4)
    rng = np.random.default_rng(0)
    rr = np.linspace(0.7, 1.0, 6)[subject]
    pat = np.linspace(0.15, 0.4, 6)[rng.permutation(6)][subject]
    first = rng.uniform(0.1, 0.6, 24)
    r = [np.arange(a - 2 * step, 12, step) for a, step in zip(first, rr, strict=True)]
    ecg = np.stack([spikes(times) for times in r])
    ppg = np.stack([pulses(times + delay) for times, delay in zip(r, pat, strict=True)])
    masked = np.ones((24, 1000), bool)
    masked[:, 400:650] = False
    return ppg, ecg, subject, masked


@pytest.mark.parametrize("timing", ["ecg", "ppg", "true"])
@pytest.mark.parametrize("template", ["others", "subject"])
def test_mean_beat_rebuilds_a_regular_ecg(regular, timing, template):
    ppg, ecg, subject, masked = regular
    beats = find_beats(ppg, ecg, subject, FS)
    error = masked_mse_by_segment(mean_beat(beats, masked, timing=timing, template=template), ecg, masked)
    constant = masked_mse_by_segment(visible_mean(ecg, masked, others_mean(ecg, subject)), ecg, masked)
    assert error.mean() < 0.25 * constant.mean()


def test_mean_beat_follows_an_irregular_rhythm_by_the_ppg_alone(regular):
    _, _, subject, masked = regular
    rng = np.random.default_rng(1)
    r = [np.cumsum(rng.uniform(0.6, 1.2, 18)) - 2 for _ in range(24)]
    ecg, ppg = np.stack([spikes(x) for x in r]), np.stack([pulses(x + 0.3) for x in r])
    beats = find_beats(ppg, ecg, subject, FS)
    by_ecg, by_ppg = (
        masked_mse_by_segment(mean_beat(beats, masked, timing=how), ecg, masked).mean() for how in ("ecg", "ppg")
    )
    constant = masked_mse_by_segment(visible_mean(ecg, masked, others_mean(ecg, subject)), ecg, masked).mean()
    assert by_ppg < 0.4 * constant
    assert 0.8 * constant < by_ecg < 1.1 * constant  # blurred: a guess does not cost more than a constant


def test_mean_beat_does_not_look_at_the_hidden_ecg(regular):
    """If the hidden ECG of one subject is another, its reconstruction stays as it was, except by true R peaks."""
    ppg, ecg, subject, masked = regular
    changed = ecg.copy()
    changed[:4][masked[:4]] *= 0.5
    results = [mean_beat(find_beats(ppg, x, subject, FS), masked, timing="ppg")[:4] for x in (ecg, changed)]
    np.testing.assert_allclose(*results, atol=1e-3)


def test_all_hidden_gives_a_finite_guess(regular):
    ppg, ecg, subject, masked = regular
    beats = find_beats(ppg, ecg, subject, FS)
    for how in ("ecg", "ppg"):
        result = mean_beat(beats, np.ones_like(masked), timing=how)
        assert np.isfinite(result).all()
    np.testing.assert_allclose(mean_beat(beats, np.ones_like(masked))[:4].std(1), 0, atol=1e-6)


def test_errors_name_the_argument(regular):
    ppg, ecg, subject, masked = regular
    with pytest.raises(ValueError, match="subject: expected at least 2 subjects, got 1"):
        find_beats(ppg[:4], ecg[:4], subject[:4], FS)
    beats = find_beats(ppg, ecg, subject, FS)
    with pytest.raises(ValueError, match="timing: expected one of 'ecg', 'ppg', 'true', got 'x'"):
        mean_beat(beats, masked, timing="x")
    with pytest.raises(ValueError, match="template: expected one of"):
        mean_beat(beats, masked, template="x")
