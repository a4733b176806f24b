"""The simulated population: its truth, its rhythms, and that a segment depends only on the seed and its number."""

import numpy as np
import pytest

from xmae_fast.signals.beats import ecg_beats
from xmae_fast.simulation.population import (
    RHYTHMS,
    CirculationCfg,
    EcgCfg,
    PopulationCfg,
    PopulationStream,
    PpgCfg,
    RhythmCfg,
    simulate_population,
)

SINUS, PVC, PAC, VT, SVT, AF = range(len(RHYTHMS))
QUIET_PPG = PpgCfg(
    noise=(1e-4, 2e-4), wander=(1e-4, 2e-4), breathing=(1e-3, 2e-3), vasomotion=(0, 0), motion=(0, 0),
    contact_loss=0, saturation=0, resampled=0,
)  # fmt: skip
QUIET_ECG = EcgCfg(
    leads=(60.0,), axis=(55.0, 10.0), noise=(1e-4, 2e-4), wander=(1e-4, 2e-4), mains=(1e-5, 2e-5), motion=0,
    inverted=0, block=0, p_height=(0.1, 0.2), t_height=(0.05, 0.2), r_height=(1.0, 1.5),
)  # fmt: skip


def quiet(rhythm: int, **rhythm_settings) -> PopulationCfg:
    shares = tuple(float(rhythm == i) for i in range(len(RHYTHMS)))
    rhythm_cfg = RhythmCfg(**rhythm_settings)
    return PopulationCfg(shares=shares, cleaned_apart=0, ppg=QUIET_PPG, ecg=QUIET_ECG, rhythm=rhythm_cfg)


@pytest.fixture(scope="module")
def all_rhythms() -> dict[str, np.ndarray]:
    return simulate_population(1024, seed=3)


def test_signals_are_scaled_and_truth_is_padded(all_rhythms):
    for name in ("ppg", "ecg"):
        x = all_rhythms[name]
        assert x.shape == (1024, 1000)
        assert x.dtype == np.float32
        assert np.allclose(x.min(1), -1)
        assert np.allclose(x.max(1), 1)
    there = np.isfinite(all_rhythms["r_times"])
    assert (there == (all_rhythms["beat_kind"] >= 0)).all()
    assert (np.isfinite(all_rhythms["foot_times"]) == (all_rhythms["pulse_size"] > 0)).all()
    assert (there.sum(1) >= 5).all()
    assert not there[:, -1].any()
    pat = (all_rhythms["foot_times"] - all_rhythms["r_times"])[all_rhythms["pulse_size"] > 0]
    assert pat.min() > 0.079  # float32
    assert pat.max() < 0.75
    assert (np.nan_to_num(np.diff(all_rhythms["r_times"], axis=1), nan=1) > 0.26).all()


def test_each_segment_shows_the_rhythm_it_is_named_for(all_rhythms):
    kinds, rhythm = all_rhythms["beat_kind"], all_rhythms["rhythm"]
    for name in range(len(RHYTHMS)):
        rows = kinds[rhythm == name]
        assert len(rows) > 40
        assert (rows == name).any(1).all()
    assert (kinds[rhythm == SINUS] <= SINUS).all()


@pytest.mark.parametrize("batch_size", [100, 256, 300])
def test_a_segment_depends_only_on_the_seed_and_its_number(batch_size, all_rhythms):
    stream = PopulationStream(3, batch_size, start=150)
    batches = [next(stream), next(stream)]
    assert stream.position == 150 + 2 * batch_size
    for name, values in all_rhythms.items():
        got = np.concatenate([batch[name] for batch in batches])
        assert np.array_equal(got, values[150 : 150 + 2 * batch_size], equal_nan=got.dtype.kind == "f"), name
    assert not np.array_equal(simulate_population(1, seed=4)["ppg"], all_rhythms["ppg"][:1])


def test_streams_of_workers_share_the_segments():
    streams = [PopulationStream(1, 64, start=64 * worker, step=2) for worker in range(2)]
    index = np.concatenate([next(streams[i % 2])["index"] for i in range(4)])
    assert np.array_equal(index, np.arange(256))


def test_detected_r_peaks_agree_with_the_truth():
    made = simulate_population(256, seed=5, cfg=quiet(SINUS))
    beats = ecg_beats(made["ecg"].astype(np.float64), 100)
    errors = []
    for row in range(256):
        found = beats.at[beats.bounds[row] : beats.bounds[row + 1]] / 100
        true = made["r_times"][row]
        true = true[(true > 0.5) & (true < 9.5)]
        errors.append(np.abs(found[:, None] - true).min(0))
    errors = np.concatenate(errors)
    assert (errors < 0.02).mean() > 0.98


def test_detected_feet_agree_with_the_truth():
    made = simulate_population(256, seed=6, cfg=quiet(SINUS))
    errors = []
    for ppg, foot in zip(made["ppg"], made["foot_times"], strict=True):
        errors.extend(_foot(ppg, at) - at for at in foot[(foot > 0.5) & (foot < 9.3)])
    assert abs(np.median(errors)) < 0.015
    assert np.quantile(np.abs(errors), 0.9) < 0.03


def _foot(ppg: np.ndarray, near: float) -> float:
    """The intersecting-tangent foot of the upstroke after `near`, in s."""
    first = round((near - 0.1) * 100)
    slope = np.diff(ppg[first : first + 28])
    steepest = int(slope.argmax())
    low = ppg[first : first + steepest + 1].min()
    middle = (ppg[first + steepest] + ppg[first + steepest + 1]) / 2
    return (first + steepest + 0.5 - (middle - low) / slope[steepest]) / 100


def test_a_premature_ventricular_beat_has_a_compensatory_pause_and_a_weak_pulse():
    settings = {"interpolated": 0, "pattern": (1.0, 0.0, 0.0, 0.0, 0.0), "extra_ectopics": (0.0, 0.0)}
    made = simulate_population(512, seed=7, cfg=quiet(PVC, **settings))
    kind, r, size = made["beat_kind"], made["r_times"], made["pulse_size"]
    row, at = np.nonzero(kind == PVC)
    inner = (at >= 2) & (at + 1 < kind.shape[1])
    row, at = row[inner], at[inner]
    inner = kind[row, at + 1] == SINUS
    row, at = row[inner], at[inner]
    usual = r[row, at - 1] - r[row, at - 2]
    assert (r[row, at] - r[row, at - 1] < 0.95 * usual).mean() > 0.97
    around = (r[row, at + 1] - r[row, at - 1]) / usual
    assert abs(np.median(around) - 2) < 0.03  # the sinus node keeps its time
    assert np.median(size[row, at] / size[row, at - 1]) < 0.8
    assert np.median(size[row, at + 1] / size[row, at - 1]) > 1.05


def test_a_premature_atrial_beat_resets_the_sinus_node():
    settings = {"pattern": (1.0, 0.0, 0.0, 0.0, 0.0), "extra_ectopics": (0.0, 0.0)}
    made = simulate_population(512, seed=8, cfg=quiet(PAC, **settings))
    kind, r = made["beat_kind"], made["r_times"]
    row, at = np.nonzero(kind == PAC)
    inner = (at >= 2) & (at + 1 < kind.shape[1])
    row, at = row[inner], at[inner]
    around = (r[row, at + 1] - r[row, at - 1]) / (r[row, at - 1] - r[row, at - 2])
    assert 1.6 < np.nanmedian(around) < 1.95


def test_only_beats_of_the_sinus_node_have_a_p_wave():
    heights = []
    for rhythm in (SINUS, AF):
        made = simulate_population(256, seed=9, cfg=quiet(rhythm, sinus_rate=(60.0, 5.0), af_rate=(60.0, 75.0)))
        row, at = np.nonzero((made["r_times"] > 1) & (made["r_times"] < 9))
        centre = np.rint(100 * made["r_times"][row, at]).astype(int)
        mean = made["ecg"][row[:, None], centre[:, None] + np.arange(-26, -4)].mean(0)
        heights.append(mean[6:16].max() - (mean[0] + mean[-1]) / 2)
    assert heights[0] > 0.05
    assert abs(heights[1]) < 0.2 * heights[0]


def test_atrial_fibrillation_has_irregular_intervals_and_pulses_that_follow_them():
    made = simulate_population(512, seed=10, cfg=quiet(AF, af_paroxysm=0))
    r, size = made["r_times"], made["pulse_size"]
    interval = np.diff(r, axis=1)
    spread = np.nanstd(interval, axis=1) / np.nanmean(interval, axis=1)
    assert 0.1 < np.median(spread) < 0.3
    there = np.isfinite(interval)
    correlation = np.corrcoef(interval[there], size[:, 1:][there])[0, 1]
    assert correlation > 0.5
    one, two = interval[:, :-1], interval[:, 1:]
    both = np.isfinite(one) & np.isfinite(two)
    centred = interval - np.nanmean(interval, axis=1, keepdims=True)
    assert abs(np.corrcoef(centred[:, :-1][both], centred[:, 1:][both])[0, 1]) < 0.15
    missing = (size == 0) & np.isfinite(r)
    early = interval < 0.75 * np.nanmean(interval, axis=1, keepdims=True)
    assert 0.002 < missing.sum() / np.isfinite(r).sum() < 0.2  # the pulse deficit
    assert missing[:, 1:][early].mean() > 5 * missing[:, 1:][there & ~early].mean()


def test_tachycardia_is_fast_and_that_of_the_ventricles_less_regular():
    jitter = []
    for rhythm in (VT, SVT):
        made = simulate_population(512, seed=11, cfg=quiet(rhythm))
        run = (made["beat_kind"][:, 1:] == rhythm) & (made["beat_kind"][:, :-1] == rhythm)
        interval = np.where(run, np.diff(made["r_times"], axis=1), np.nan)
        interval = interval[run.sum(1) >= 5]
        rate = 60 / np.nanmean(interval, axis=1)
        assert rate.min() > 85
        assert rate.max() < 225
        jitter.append(np.median(np.nanstd(interval, axis=1)))
    assert jitter[0] > 1.3 * jitter[1]


def test_age_and_pressure_bring_the_pulse_early():
    cfg = PopulationCfg(circulation=CirculationCfg(monitor_delay=(0, 0)))
    made = simulate_population(2048, seed=12, cfg=cfg)
    pat = np.nanmedian(made["foot_times"] - made["r_times"], axis=1)
    finger = (made["rhythm"] == SINUS) & (made["site"] == 0) & np.isfinite(pat)
    assert np.corrcoef(made["age"][finger], pat[finger])[0, 1] < -0.1
    assert np.corrcoef(made["pressure"][finger], pat[finger])[0, 1] < -0.1
    ear = (made["rhythm"] == SINUS) & (made["site"] == 2) & np.isfinite(pat)
    assert np.median(pat[ear]) < np.median(pat[finger]) - 0.02


def test_other_lengths_and_rates():
    made = simulate_population(256, seed=13, cfg=PopulationCfg(sampling_freq=64, seg_len=8.0))
    assert made["ppg"].shape == (256, 512)
    assert np.isfinite(made["ppg"]).all()
    assert np.nanmax(made["r_times"]) < 8


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"shares": (0.5, 0.5, 0.5, 0, 0, 0)}, "PopulationCfg.shares"),
        ({"segments_per_subject": 3}, "segments_per_subject"),
        ({"ppg": PpgCfg(rise=(0.2, 0.1))}, "PpgCfg.rise"),
        ({"ppg": PpgCfg(contact_loss=1.5)}, "PpgCfg.contact_loss"),
        ({"sampling_freq": 10}, "PopulationCfg.sampling_freq"),
    ],
)
def test_settings_out_of_range_are_named(settings, name):
    with pytest.raises(ValueError, match=name):
        PopulationCfg(**settings)


@pytest.mark.parametrize(("arguments", "name"), [((0,), "count"), ((True,), "count"), ((1.5,), "count")])
def test_counts_out_of_range_are_named(arguments, name):
    with pytest.raises(ValueError, match=name):
        simulate_population(*arguments)
    with pytest.raises(ValueError, match="seed"):
        PopulationStream(-1, 8)
