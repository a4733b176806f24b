"""SimulationCfg.pat_coupling: how much the shape of the pulse tells about its arrival time."""

import dataclasses

import numpy as np
import pytest

from xmae_fast.cli import main
from xmae_fast.data import SimulationCfg, simulate
from xmae_fast.simulation.rhythm import draw, make_rhythm
from xmae_fast.simulation.waveforms import ppg_waveform

FINE = {"sampling_freq": 500, "heart_rate_mean": 45, "heart_rate_sd": 0, "heart_rate_drift": 0, "rr_jitter": 0}


def test_no_coupling_is_the_simulator_without_it():
    """Without coupling the numbers are those of version 0.1.0, which had none."""
    sim = simulate(3, 2, seed=5, cfg=SimulationCfg(pvc_probability=0.05))
    sums = [469.65970308, 500.63117391, 505.15203565, 436.41802883, 424.17225051, 477.28992486]
    np.testing.assert_allclose(np.abs(sim.ppg).sum(1, dtype=np.float64), sums, rtol=1e-5)
    np.testing.assert_allclose(sim.ppg[1, ::250], [-0.6948683, -0.8139047, 0.23166287, 0.610196], atol=1e-5)


def test_coupling_changes_the_pulse_alone():
    free, tied = (simulate(4, 3, seed=5, cfg=SimulationCfg(pat_coupling=c)) for c in (0.0, 0.7))
    for field in dataclasses.fields(free):
        if field.name not in ("cfg", "seed", "ppg", "ppg_quality"):
            np.testing.assert_array_equal(getattr(free, field.name), getattr(tied, field.name))
    assert not np.array_equal(free.ppg, tied.ppg)


@pytest.mark.parametrize("coupling", [0.0, 0.5, 1.0])
def test_coupling_is_the_share_of_variance_that_pat_explains(coupling):
    """The steepest upslope of a pulse lies half its crest time after the foot."""
    cfg = SimulationCfg(pat_coupling=coupling, ppg_wander=0, ppg_noise=0, motion_probability=0, **FINE)
    sim = simulate(400, 1, seed=21, cfg=cfg)
    half_crest = np.empty(400)
    for row, feet in enumerate(sim.foot_times):
        foot = feet[(feet > 0.3) & (feet < 9)][0]
        half_crest[row] = np.diff(sim.ppg[row, round(foot * 500) : round((foot + 0.2) * 500)]).argmax() / 500
    correlation = np.corrcoef(np.log(half_crest), sim.subject_pat)[0, 1]
    assert abs(correlation - np.sqrt(coupling)) < (0.12 if coupling == 0 else 0.05)


@pytest.mark.parametrize("coupling", [0.0, 0.6])
def test_reflected_wave_moves_with_pat_within_a_subject(coupling):
    """It moves by `pat_coupling` seconds per second. The reflected wave is made the higher one, so that it is found."""
    cfg = SimulationCfg(pat_coupling=coupling, pat_within_sd=0.05, **FINE)
    draws = draw(22, [(0, 0, 30)], cfg)
    normal = draws.subject_normal.copy()
    normal[:, 14] = 15
    draws = draws._replace(subject_normal=normal)
    rhythm = make_rhythm(draws, cfg)
    ppg, feet = ppg_waveform(rhythm, draws, cfg), rhythm.r_times + rhythm.pat
    inside = np.argwhere((feet > 0.3) & (feet < 9))
    starts = [round(feet[row, k] * 500) for row, k in inside]
    delay = [start / 500 + ppg[row, start : start + 400].argmax() / 500 - feet[row, k]
             for start, (row, k) in zip(starts, inside, strict=True)]  # fmt: skip
    slope = np.polyfit(rhythm.pat[tuple(inside.T)], delay, 1)[0]
    assert abs(slope - coupling) < 0.05


def test_command_line_writes_the_truth_of_every_record(tmp_path, capsys):
    arguments = ["simulate", "-o", str(tmp_path), "--subjects", "3", "--segments", "2", "--pat-coupling"]
    assert main([*arguments, "0.8"]) == 0
    assert capsys.readouterr().out.strip().endswith("sim_0000.h5")
    with np.load(tmp_path / "sim_0000.truth.npz") as truth:
        assert "'pat_coupling': 0.8" in str(truth["cfg"])
        assert len(truth["key"]) == len(truth["pat_mean"]) == len(truth["has_pvc"]) == 6
    assert main([*arguments, "1.1"]) == 2
    assert "pat_coupling: expected a number in [0, 1], got 1.1" in capsys.readouterr().err
