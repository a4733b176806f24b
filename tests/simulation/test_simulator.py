import dataclasses
import subprocess
import sys

import numpy as np
import pytest

from xmae_fast.data import SimulationCfg, simulate
from xmae_fast.simulation.rhythm import draw


def beats_of(sim, row):
    known = ~np.isnan(sim.r_times[row])
    return sim.r_times[row, known], sim.foot_times[row, known], sim.is_pvc[row, known]


def intersecting_tangent(ppg, fs, foot):
    """The foot near time `foot` in s, where the tangent at the steepest upslope meets the minimum before it."""
    start = round((foot - 0.15) * fs)
    piece = ppg[start : round((foot + 0.2) * fs)].astype(float)
    slope = np.gradient(piece) * fs
    steepest = slope.argmax()
    return (start + steepest) / fs - (piece[steepest] - piece[: steepest + 1].min()) / slope[steepest]


def test_shapes_types_and_range(sim):
    segments, samples, beats = 480, 1000, sim.cfg.max_beats
    assert sim.ppg.shape == sim.ecg.shape == (segments, samples)
    assert sim.ppg.dtype == sim.ecg.dtype == np.float32
    assert sim.time.shape == (samples,)
    assert sim.time[1] == 0.01
    assert sim.subject.dtype == np.int64
    np.testing.assert_array_equal(sim.subject, np.repeat(np.arange(60), 8))
    for name in ("r_times", "foot_times", "pat", "is_pvc"):
        assert getattr(sim, name).shape == (segments, beats)
    for name in ("heart_rate", "pat_mean", "respiration_rate", "motion", "ppg_quality", "ecg_quality"):
        assert getattr(sim, name).shape == (segments,)
        assert np.isfinite(getattr(sim, name)).all()
    for signal in (sim.ppg, sim.ecg):
        np.testing.assert_array_equal(signal.min(1), -1)
        np.testing.assert_array_equal(signal.max(1), 1)


def test_same_seed_same_bits_other_seed_other_bits():
    a, b, c = simulate(3, 2, seed=1), simulate(3, 2, seed=1), simulate(3, 2, seed=2)
    for field in dataclasses.fields(a):
        if field.name not in ("cfg", "seed"):
            np.testing.assert_array_equal(getattr(a, field.name), getattr(b, field.name))
    assert not np.array_equal(a.ecg, c.ecg)
    assert not np.array_equal(a.ecg[0], a.ecg[1])


@pytest.mark.parametrize("segments", [9, 70])
def test_segment_does_not_depend_on_how_many_there_are(segments):
    few, many = simulate(3, 5, seed=5), simulate(7, segments, seed=5)
    for subject in range(3):
        rows = slice(subject * segments, subject * segments + 5)
        for name in ("ppg", "ecg", "r_times", "pat", "ppg_quality", "heart_rate"):
            expected = getattr(few, name)[subject * 5 : subject * 5 + 5]
            np.testing.assert_array_equal(getattr(many, name)[rows], expected)
    np.testing.assert_array_equal(many.subject_pat[:3], few.subject_pat)


def test_truth_is_consistent(sim):
    known = ~np.isnan(sim.r_times)
    assert (np.diff(known.astype(int), axis=1) <= 0).all()
    assert (sim.r_times[known] >= 0).all()
    assert (sim.r_times[known] < 10).all()
    assert (np.diff(sim.r_times, axis=1)[known[:, 1:]] > 0.2).all()
    np.testing.assert_array_equal(np.isnan(sim.pat), ~known)
    np.testing.assert_array_equal(sim.foot_times, sim.r_times + sim.pat)
    np.testing.assert_allclose(sim.pat_mean, np.nanmean(sim.pat, 1))
    np.testing.assert_array_equal(sim.has_pvc, sim.is_pvc.any(1))
    assert not (sim.is_pvc & ~known).any()
    np.testing.assert_allclose(sim.heart_rate, 60 / np.nanmean(np.diff(sim.r_times, axis=1), 1))


def test_r_peaks_are_where_the_truth_says(sim):
    good = (sim.ecg_quality > 0.9) & (sim.motion == 0)
    errors = []
    for row in np.flatnonzero(good):
        r_times, _, is_pvc = beats_of(sim, row)
        for r in r_times[~is_pvc & (r_times > 0.1) & (r_times < 9.9)]:
            near = round(r * 100)
            errors.append((near - 8 + sim.ecg[row, near - 8 : near + 9].argmax()) / 100 - r)
    assert len(errors) > 3000
    assert np.abs(errors).max() <= 0.016
    assert abs(np.mean(errors)) < 0.001


def test_there_are_no_other_beats(clean_sim):
    """QRS complexes, found by their curvature without the truth, are those of the truth."""
    for row in range(0, 240, 7):
        curvature = -np.diff(clean_sim.ecg[row], 2)
        sharp = np.flatnonzero(curvature > 0.5 * curvature.max()) + 1
        found = np.array([g.mean() for g in np.split(sharp, np.flatnonzero(np.diff(sharp) > 10) + 1)]) / 100
        r_times, _, _ = beats_of(clean_sim, row)
        inside, found = (t[(t > 0.05) & (t < 9.94)] for t in (r_times, found))
        np.testing.assert_allclose(found, inside, atol=0.012)


def test_feet_are_where_the_truth_says(clean_sim):
    errors = []
    for row in np.flatnonzero(clean_sim.heart_rate < 75):
        _, feet, _ = beats_of(clean_sim, row)
        inside = feet[(feet > 0.3) & (feet < 9.6)]
        errors += [intersecting_tangent(clean_sim.ppg[row], 100, foot) - foot for foot in inside]
    assert len(errors) > 800
    assert abs(np.median(errors)) < 0.008
    assert np.quantile(np.abs(errors), 0.95) < 0.02


def test_foot_of_an_isolated_pulse_is_exact():
    """With long intervals between beats and a fine grid the foot is exactly where it is defined."""
    cfg = SimulationCfg(
        sampling_freq=1000, heart_rate_mean=45, heart_rate_sd=0, heart_rate_drift=0, ppg_wander=0, ppg_noise=0,
        powerline_amplitude=0, motion_probability=0,
    )  # fmt: skip
    sim = simulate(20, 1, seed=8, cfg=cfg)
    errors = []
    for row in range(20):
        _, feet, _ = beats_of(sim, row)
        errors += [intersecting_tangent(sim.ppg[row], 1000, f) - f for f in feet[(feet > 0.3) & (feet < 9.6)]]
    assert abs(np.median(errors)) < 0.002
    assert np.quantile(np.abs(errors), 0.9) < 0.006


def test_pat_distribution():
    cfg = SimulationCfg(pvc_probability=0)
    sim = simulate(1200, 3, seed=9, cfg=cfg)
    low, middle, high = np.quantile(sim.subject_pat, [0.05, 0.5, 0.95])
    assert abs(low - 0.092) < 0.012
    assert abs(middle - 0.276) < 0.018
    assert abs(high - 0.448) < 0.012
    within = sim.pat - sim.subject_pat[sim.subject, None]
    assert abs(np.nanstd(within) - cfg.pat_within_sd) < 0.001
    assert abs(np.nanmean(within)) < 0.001
    assert (
        np.corrcoef(within.ravel()[~np.isnan(within.ravel())], sim.heart_rate[np.nonzero(~np.isnan(within))[0]])[0, 1]
        < 0
    )


def test_pat_cannot_be_told_from_shape_or_rate():
    """Rank correlation of the subjects' PAT with the spectra, moments and heart rates of each signal."""
    sim = simulate(600, 2, seed=10)
    features = [sim.heart_rate, sim.respiration_rate]
    for signal in (sim.ppg, sim.ecg):
        features += [signal.mean(1), signal.std(1), np.abs(np.diff(signal, axis=1)).mean(1)]
        spectrum = np.log(np.abs(np.fft.rfft(signal, axis=1)[:, 1:201]).reshape(len(signal), 20, 10).mean(2))
        features += list(spectrum.T)
    pat = sim.subject_pat.argsort().argsort()
    for feature in features:
        rank = feature.reshape(600, 2).mean(1).argsort().argsort()
        assert abs(np.corrcoef(rank, pat)[0, 1]) < 0.18


def test_physiological_ranges(sim):
    rr = np.diff(np.where(sim.has_pvc[:, None], np.nan, sim.r_times), axis=1)
    assert np.nanmin(rr) > 0.4
    assert np.nanmax(rr) < 1.6
    assert 0.01 < np.nanmean(np.nanstd(rr[~sim.has_pvc], axis=1)) < 0.06
    assert 60 < sim.heart_rate.mean() < 85
    assert sim.heart_rate.min() > 40
    assert ((sim.respiration_rate >= 8) & (sim.respiration_rate <= 25)).all()


def test_quality_share_and_its_causes():
    sim = simulate(200, 5, seed=11)
    for quality in (sim.ppg_quality, sim.ecg_quality):
        assert ((quality >= 0) & (quality <= 1)).all()
    passed = (sim.ppg_quality >= 0.9) & (sim.ecg_quality >= 0.9)
    assert 0.84 < passed.mean() < 0.94
    moved = sim.motion > 0
    assert 0.05 < moved.mean() < 0.12
    assert np.median(sim.ppg_quality[moved]) < 0.8 < np.quantile(sim.ppg_quality[~moved], 0.05)


def test_no_disturbance_gives_quality_one(clean_sim):
    np.testing.assert_array_equal(clean_sim.ppg_quality, 1)
    np.testing.assert_array_equal(clean_sim.ecg_quality, 1)
    np.testing.assert_array_equal(clean_sim.motion, 0)


def test_premature_beats_come_early_wide_and_weak():
    quiet = dict.fromkeys(("ppg_wander", "ecg_wander", "ppg_noise", "ecg_noise", "powerline_amplitude"), 0.0)
    cfg = SimulationCfg(pvc_probability=0.06, motion_probability=0, heart_rate_mean=62, heart_rate_sd=4, **quiet)
    sim = simulate(60, 2, seed=12, cfg=cfg)
    ratios, widths, pulses = [], [], []
    for row in np.flatnonzero(sim.has_pvc):
        r, feet, pvc = beats_of(sim, row)
        for n in np.flatnonzero(pvc[3:-2]) + 3:
            if pvc[n - 3 : n].any() or pvc[n + 1 : n + 3].any() or feet[n + 1] > 9:
                continue
            usual = r[n - 1] - r[n - 2]
            ratios.append(((r[n] - r[n - 1]) / usual, (r[n + 1] - r[n - 1]) / usual))
            wide, narrow = (half_width(sim.ecg[row], round(t * 100)) for t in (r[n], r[n - 1]))
            widths.append((narrow, wide))
            rise = [np.ptp(sim.ppg[row, round(f * 100) : round((f + 0.3) * 100)]) for f in (feet[n - 1], feet[n + 1])]
            tail = sim.ppg[row, round((feet[n] + 0.1) * 100) : round((feet[n] + 0.25) * 100)].max()
            pulses.append((tail - sim.ppg[row].min()) / max(rise))
    early, pair = np.array(ratios).T
    assert len(early) > 20
    assert early.max() < 0.8
    assert np.abs(pair - 2).max() < 0.25
    assert all(wide > 1.5 * narrow for narrow, wide in widths)
    assert np.median(pulses) < 0.7
    assert not (sim.is_pvc[:, 1:] & sim.is_pvc[:, :-1]).any()


def half_width(ecg, peak):
    """How many samples around `peak` are above half of its height over the median."""
    level = (ecg[peak] + np.median(ecg)) / 2
    below = np.flatnonzero(ecg < level)
    return below[below > peak].min() - below[below < peak].max()


def test_no_pvc_unless_asked():
    assert not simulate(20, 3).has_pvc.any()


@pytest.mark.parametrize(("fs", "seconds"), [(125, 30.0), (64, 8.0), (100, 5.0)])
def test_other_rates_and_lengths(fs, seconds):
    sim = simulate(4, 3, cfg=SimulationCfg(sampling_freq=fs, seg_len=seconds))
    assert sim.ppg.shape == (12, round(fs * seconds))
    assert np.nanmax(sim.r_times) > seconds - 2
    assert np.isfinite(sim.ppg).all()


@pytest.mark.parametrize("rate", [36.0, 139.0])
def test_extreme_rates_fit_the_padding(rate):
    cfg = SimulationCfg(heart_rate_mean=rate, heart_rate_sd=0, heart_rate_drift=0, heart_rate_range=(35, 140))
    sim = simulate(5, 2, cfg=dataclasses.replace(cfg, pvc_probability=0.1, lf_amplitude=0.1, hf_amplitude=0.1))
    assert np.isnan(sim.r_times[:, -1]).all()
    assert np.isfinite(sim.ppg).all()
    assert np.isfinite(sim.heart_rate).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sampling_freq": 10}, "sampling_freq: expected a number in .40, 2000., got 10"),
        ({"ppg_noise": float("nan")}, "ppg_noise: expected a number"),
        ({"pat_coupling": 1.5}, "pat_coupling: expected a number in .0, 1., got 1.5"),
        ({"heart_rate_range": (90, 60)}, "heart_rate_range"),
        ({"pat_quantiles": ((0, 0.3), (1, 0.2))}, "pat_quantiles"),
    ],
)
def test_bad_configuration_is_named(change, message):
    with pytest.raises(ValueError, match=message):
        SimulationCfg(**change)


@pytest.mark.parametrize("bad", [{"num_subjects": 0}, {"segments_per_subject": 0}, {"seed": -1}])
def test_bad_arguments_are_named(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        simulate(**bad)


def test_draws_do_not_depend_on_grouping():
    cfg = SimulationCfg()
    together = draw(1, [(0, 0, 64), (0, 1, 3), (1, 0, 2)], cfg)
    alone = draw(1, [(0, 1, 3)], cfg)
    for many, one in zip(together, alone, strict=True):
        np.testing.assert_array_equal(many[64:67], one)
    for name in ("uniform", "normal", "beat", "noise"):
        rows = getattr(together, name).reshape(69, -1)
        assert len({row.tobytes() for row in rows}) == 69


def test_package_import_is_light():
    code = "import sys, xmae_fast.data.splits, xmae_fast.data as d; assert 'write_shard' in dir(d); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    assert not {"h5py", "sklearn", "scipy", "xmae_fast.simulation.simulator"} & set(loaded)
