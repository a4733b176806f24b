"""The studies of what each part of the recipe is worth, and of how real simulated patients look."""

from __future__ import annotations

import json
import sys
from functools import partial

import numpy as np
import pytest
import torch

from xmae_fast.simulation.population import RHYTHMS, PopulationCfg, simulate_population

pytest.importorskip("sklearn")
pytest.importorskip("lightning")

from benchmarks.studies import ablations, realism
from benchmarks.studies.ablations import RECIPE, VARIANTS, batches, configured, encoder_of_ppg
from xmae_fast.evaluation import read_labelled
from xmae_fast.model.outputs import encode
from xmae_fast.training import read_train_cfg
from xmae_fast.training.feed import make_feed

SMALL = """\
data: "simulation:3"
simulation:
  segments: 2048
  val_segments: 8
  workers: 0
  stages: [{segments: 999, population: {ecg: {inverted: 0}}}, {segments: 999, population: {ecg: {block: 0}}}]
model_params:
  {patch_len: 40, d_model: 16, nhead: 2, depth_ecg: 1, depth_ppg: 2, stem_ch: 4, latent_dim: 8, lag: gaussian}
truth_weight: 0.1
batch_size: 16
epochs: 9
precision: float32
"""


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    path = tmp_path_factory.mktemp("ablations") / "small.yaml"
    path.write_text(SMALL)
    return path


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    made = simulate_population(512, seed=1)
    path = tmp_path_factory.mktemp("labelled") / "people.npz"
    np.savez(path, **{name: made[name] for name in ("ppg", "rhythm", "subject")})
    return path


def test_variants_differ_in_what_they_name_alone(config):
    recipe = read_train_cfg(config)
    made = {name: configured(recipe, variant, 100) for name, variant in VARIANTS.items()}
    whole = made[RECIPE]
    assert [stage["segments"] for stage in whole.simulation["stages"]] == [640, 480]  # of 1,600
    assert (whole.max_steps, whole.truth_weight, whole.seed) == (100, 0.1, recipe.seed)
    assert made["no stages"].simulation["stages"] == []
    assert made["no lag"].model_cfg().lag is None
    assert whole.model_cfg().lag is not None
    assert made["truth alone"].mask_ratio_ecg == 0
    assert made["PPG alone, masked"].model_cfg().depth_ecg == whole.model_cfg().depth_ppg
    assert recipe.simulation["stages"][0]["segments"] == 999  # of the caller's


def test_other_ecg_is_that_of_another_patient(config):
    feed = make_feed(configured(read_train_cfg(config), VARIANTS[RECIPE], 100), torch.device("cpu"), 0, 1)
    subjects = feed.train.read(0, 0)["subject"]
    assert (subjects != subjects.roll(1)).all()
    (ppg, ecg, truth), (same_ppg, other_ecg, same_truth) = next(batches(feed, False)), feed_again(feed)
    assert torch.equal(ppg, same_ppg)
    assert torch.equal(truth, same_truth)
    assert torch.equal(ecg.roll(1, 0), other_ecg)


def feed_again(feed):
    feed.train.set_epoch(0)
    return next(batches(feed, True))


def test_the_autoencoder_of_ppg_becomes_an_encoder_of_ppg(config):
    cfg = configured(read_train_cfg(config), VARIANTS["PPG alone, masked"], 3)
    model, losses = ablations.train(cfg, VARIANTS["PPG alone, masked"], 3, print)
    assert losses == []  # fewer steps than a row has
    assert model.cfg.source == "ppg"
    torch.manual_seed(cfg.seed)
    x = torch.randn(2, 1000)
    original = type(model)(cfg.model_cfg()).eval()
    original.ecg_path.load_state_dict(model.ppg_path.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(encode(model, x, "tokens"), original.ecg_path.encode(x[:, None]))
    assert encoder_of_ppg(model) is model


def test_the_command_trains_once_and_compares(config, tmp_path, monkeypatch, capsys):
    made = simulate_population(64, seed=5, cfg=PopulationCfg(shares=(0.5, 0, 0, 0, 0, 0.5)))
    labelled = tmp_path / "people.npz"
    np.savez(labelled, **{name: made[name] for name in ("ppg", "rhythm", "subject")})
    monkeypatch.setattr(ablations, "_EVERY", 2)
    quick = partial(ablations.rhythm_study, shares=(1.0,), resamples=20)
    monkeypatch.setattr(ablations, "rhythm_study", quick)
    arguments = ["ablations", str(labelled), str(tmp_path), "--config", str(config), "--steps", "2", "--only"]
    monkeypatch.setattr(sys, "argv", [*arguments, RECIPE, "no lag", "--output", str(tmp_path / "r.json")])
    ablations.main()
    out = capsys.readouterr().out
    assert "no lag less recipe: " in out
    told = json.loads((tmp_path / "r.json").read_text())
    assert [row["name"] for row in told["rows"]][2:] == [RECIPE, "recipe, pooled", "no lag", "no lag, pooled"]
    assert told["losses"][RECIPE][0].keys() == {"step", "loss", "truth_loss"}
    value, low, high = told["differences"]["no lag less recipe"]
    assert low <= value <= high
    weights = (tmp_path / "recipe" / "model.safetensors").stat().st_mtime_ns
    ablations.main()
    assert (tmp_path / "recipe" / "model.safetensors").stat().st_mtime_ns == weights


def test_simulated_people_look_simulated_only_where_they_differ(labelled, tmp_path, monkeypatch):
    monkeypatch.setattr(realism, "_TREES", 60)
    data = read_labelled(labelled)
    found = realism.study(data, PopulationCfg(), tmp_path)
    assert found["all"]["auroc"] < 0.62  # both are simulated
    assert set(found) == {"all", *RHYTHMS}
    assert {path.name for path in tmp_path.glob("*.png")} == {f"{name}.png" for name in RHYTHMS}
    rng = np.random.default_rng(0)
    one, other = rng.normal(size=(60, 35)), rng.normal(size=(60, 35))
    other[:, 3] += 3
    auroc, best = realism.told_apart(one, other, np.arange(120) // 2)
    assert auroc > 0.95
    assert next(iter(best)) == realism.PAPER_FEATURES[3]
