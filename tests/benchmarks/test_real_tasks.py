"""The study of real tasks, on simulated patients in place of real ones."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
import torch

from benchmarks.studies import real_tasks
from benchmarks.studies.real_tasks import ARRIVAL, aligned, population_of
from xmae_fast import ModelCfg, xMAE
from xmae_fast.evaluation import HeldOut, load_held_out
from xmae_fast.evaluation.detectors import pulse_feet
from xmae_fast.simulation.population import PopulationCfg, simulate_population, write_population

for module in ("sklearn", "scipy", "lightning", "yaml"):
    pytest.importorskip(module)


def test_it_runs_on_a_folder(tmp_path, monkeypatch, capsys):
    torch.set_num_threads(1)
    torch.manual_seed(1)
    tiny = ModelCfg(patch_len=50, d_model=16, nhead=2, depth_ppg=1, stem_ch=4, proj_dim=8, dropout=0.0)
    xMAE(tiny).save_pretrained(tmp_path / "model")
    data = tmp_path / "data"
    write_population(data, 24, seed=3, cfg=PopulationCfg(segments_per_subject=4))
    made = simulate_population(96, seed=5, cfg=PopulationCfg(shares=(0.5, 0, 0, 0, 0, 0.5)))
    np.savez(data / "labelled.npz", ppg=made["ppg"], rhythm=made["rhythm"], subject=made["subject"])
    study = real_tasks.evaluate_rhythm
    monkeypatch.setattr(real_tasks, "evaluate_rhythm", lambda *x: study(*x, resamples=10, draws=1))
    load_held_out(str(data / "patients_0000.h5"), split="all")  # leaves an index beside the shard
    arguments = [str(data), "--model", f"tiny={tmp_path / 'model'}", "--simulated", "64"]
    monkeypatch.setattr(sys, "argv", ["real_tasks", *arguments, "--output", str(tmp_path / "told.json")])
    real_tasks.main()
    told = json.loads((tmp_path / "told.json").read_text())
    assert set(told) == {"labelled.npz", "patients_0000.h5", "simulated"}
    for part in ("patients_0000.h5", "simulated"):
        beats = told[part]["tiny"]["beats"]
        assert beats["mean_beat_ppg"]["f1"] > beats["model"]["f1"]  # the model is untrained
    assert "| hand-made, 35 features (35) |" in capsys.readouterr().out


def test_the_recipe_of_a_model_says_what_it_was_trained_on():
    assert population_of("xmae-sim-base").circulation.monitor_delay == (0, 0)
    assert population_of("nothing").circulation.monitor_delay == PopulationCfg().circulation.monitor_delay


def test_one_constant_is_taken_off_each_subject():
    cfg = PopulationCfg(shares=(1, 0, 0, 0, 0, 0), segments_per_subject=8)
    made = simulate_population(16, seed=6, cfg=cfg)
    subject = made["subject"].astype(int)
    ppg = made["ppg"].copy()
    ppg[subject == 1] = np.roll(ppg[subject == 1], -25, axis=1)  # a monitor that shows PPG 250 ms early
    found = aligned(HeldOut(ppg, made["ecg"], subject, ["0", "1"], 100.0, {}, {}))
    for number in (0, 1):
        rows = np.flatnonzero(subject == number)
        later = []
        for row in rows:
            feet, r = pulse_feet(found.ppg[row : row + 1], 100.0)[0], made["r_times"][row]
            nearest = feet[:, None] - r[np.isfinite(r)][None]
            later += np.take_along_axis(nearest, np.abs(nearest - ARRIVAL).argmin(1)[:, None], 1)[:, 0].tolist()
        assert np.median(later) == pytest.approx(ARRIVAL, abs=0.03)
