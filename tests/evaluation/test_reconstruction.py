"""Errors of reconstruction: what the study computes is what the model computes, on the segments that it names."""

import numpy as np
import pytest
import torch

import xmae_fast
from tests.evaluation.conftest import tiny
from xmae_fast.evaluation import ReconstructionStudy, embed_segments, hand_made_features, load_held_out, random_twin
from xmae_fast.evaluation.baselines import masked_mse_by_segment


@pytest.fixture(scope="module")
def held_out(shards5):
    return load_held_out(shards5, split="all", quality=0)


@pytest.fixture(scope="module")
def study(held_out):
    return ReconstructionStudy(tiny(1), held_out, others={"ecg-only": tiny(2, source="ecg")}, resamples=50)


@pytest.mark.parametrize("ratio", [0.5, 0.8, 1.0])
def test_predictions_are_the_models(study, held_out, ratio):
    mask = study.mask("scatter", ratio)
    ecg = torch.from_numpy(held_out.ecg)
    ids = {"ids_keep_ecg": mask.ids_keep, "ids_restore_ecg": mask.ids_restore}
    with torch.no_grad():
        for name, ppg in (("model", held_out.ppg), ("ppg_zeroed", 0 * held_out.ppg), ("bridge_off", None)):
            ppg = None if ppg is None else torch.from_numpy(ppg)
            expected = study.model(ppg, ecg, **ids)
            torch.testing.assert_close(
                torch.from_numpy(study.predict(name, mask)), expected["ecg_reconstructed"][:, 0], atol=2e-5, rtol=1e-4
            )
        np.testing.assert_array_equal(study.samples(mask), expected["seq_mask_used_ecg"][:, 0].bool())
        alone = tiny(2, source="ecg")(None, ecg, **ids)["ecg_reconstructed"][:, 0]
    np.testing.assert_allclose(study.predict("ecg-only", mask), alone, atol=2e-5)


def test_errors_of_one_setting(study, held_out):
    row = study.errors("anchor", 0.8)
    mask = study.mask("anchor", 0.8)
    expected = masked_mse_by_segment(study.predict("model", mask), held_out.ecg, study.samples(mask)).mean()
    assert row["mse"]["model"][0] == pytest.approx(expected)
    fair = {name: row["mse"][name][0] for name, p in study.predictors.items() if p.fair}
    assert row["best_baseline"] == min(fair, key=fair.get)
    assert {"model", "subject_beat_ppg", "true_beat"}.isdisjoint(fair)
    assert {"mean_beat", "interpolation", "visible_mean", "ppg_shuffled", "ppg_zeroed", "ecg-only"} <= fair.keys()
    for name, (value, low, high) in row["mse"].items():
        assert low <= value <= high
        if name != "model":
            assert row["reduction"][name][0] == pytest.approx(1 - row["mse"]["model"][0] / value)
    assert row["mse"]["true_beat"][0] < row["mse"]["mean_beat"][0]


def test_shift_of_nothing_is_the_model(study):
    rows = study.shift_curve("anchor", 0.8, [-0.1, 0.2])
    assert [row["shift_s"] for row in rows] == [-0.1, 0.0, 0.2]
    assert rows[1]["mse"] == study.errors("anchor", 0.8)["mse"]["model"]
    assert rows[1]["increase"][0] == 0
    assert rows[2]["increase"][0] == pytest.approx(rows[2]["mse"][0] / rows[1]["mse"][0] - 1)
    assert rows[2]["increase"][1] <= rows[2]["increase"][0] <= rows[2]["increase"][2]


def test_same_seed_same_numbers(study, held_out):
    again = ReconstructionStudy(tiny(1), held_out, others={"ecg-only": tiny(2, source="ecg")}, resamples=50)
    assert again.errors("mixed", 0.8) == study.errors("mixed", 0.8)


def test_errors_name_the_argument(study, held_out):
    with pytest.raises(ValueError, match="model: expected one with a bridge"):
        ReconstructionStudy(tiny(source="ecg"), held_out)
    with pytest.raises(ValueError, match="others: expected models that reconstruct ECG, 'x' has source='ppg'"):
        ReconstructionStudy(tiny(), held_out, others={"x": tiny(source="ppg")})
    with pytest.raises(ValueError, match="others: expected patch_len = 50 of 'x' as of the model, got 100"):
        ReconstructionStudy(tiny(), held_out, others={"x": tiny(patch_len=100)})
    with pytest.raises(ValueError, match="others: expected names that are not taken, got 'mean_beat'"):
        ReconstructionStudy(tiny(), held_out, others={"mean_beat": tiny()})
    with pytest.raises(ValueError, match="mode: expected one of"):
        study.mask("x", 0.8)
    with pytest.raises(ValueError, match="ratio: expected one in"):
        study.mask("anchor", 0.01)


def test_held_out_segments_and_their_truth(sim5, shards5):
    whole = load_held_out(shards5, split="all", quality=0)
    assert len(whole) == 72
    assert whole.about["truth"] == ["sim_0000.truth.npz", "sim_0001.truth.npz"]
    for row in (0, 39, 40, 71):
        at = np.abs(sim5.ppg - whole.ppg[row]).sum(1).argmin()  # shards hold float16
        assert np.abs(sim5.ppg[at] - whole.ppg[row]).max() < 0.01
        assert whole.subjects[whole.subject[row]] == f"sim_{sim5.subject[at]:06d}"
        assert whole.truth["pat"][row] == sim5.pat_mean[at]
        assert whole.truth["heart_rate"][row] == sim5.heart_rate[at]
        assert whole.truth["pvc"][row] == sim5.has_pvc[at]
    few = load_held_out(shards5, split="all", quality=0, max_segments=25)
    np.testing.assert_array_equal(np.sort(np.bincount(few.subject)), [2] * 11 + [3])
    assert len(load_held_out(shards5, split="train", quality=0).subjects) == 10


def test_held_out_errors(shards5, tmp_path):
    with pytest.raises(ValueError, match="split: expected one of 'test', 'val', 'train', 'all', got 'x'"):
        load_held_out(shards5, split="x")
    with pytest.raises(ValueError, match="split: expected at least 2 subjects, got 1 of 1 in 'test'"):
        load_held_out(shards5, split="test", quality=0)
    with pytest.raises(ValueError, match="max_segments: expected at least 2 or None, got 1"):
        load_held_out(shards5, max_segments=1)
    with pytest.raises(FileNotFoundError):
        load_held_out(shards5, split="all", truth=tmp_path / "none.npz")
    with pytest.raises(ValueError, match="truth: expected a row for every segment, .* of 72 lack one"):
        load_held_out(shards5, split="all", quality=0, truth=shards5[0].with_suffix(".truth.npz"))
    for name, arrays, message in (
        ("a.npz", {"x": np.zeros(2)}, "truth: expected an array 'key'"),
        ("b.npz", {"key": np.array(["k"])}, "truth: expected any of heart_rate, pat_mean, has_pvc"),
    ):
        np.savez(tmp_path / name, **arrays)
        with pytest.raises(ValueError, match=message):
            load_held_out(shards5, split="all", truth=tmp_path / name)


def test_embeddings(model, held_out):
    ppg = torch.from_numpy(held_out.ppg)
    with torch.no_grad():
        tokens = model.ppg_path.encode(ppg[:, None], None, inference=True)
    close = {"atol": 1e-5, "rtol": 1e-4}
    np.testing.assert_allclose(embed_segments(model, held_out.ppg, output="tokens", batch_size=7), tokens, **close)
    np.testing.assert_allclose(embed_segments(model, ppg), tokens.mean(1), **close)
    np.testing.assert_allclose(embed_segments(model, ppg, output="projected"), model.embed(ppg), **close)
    batches = [{"ppg": part} for part in ppg.split(20)]
    np.testing.assert_allclose(embed_segments(model.train(), batches), tokens.mean(1), **close)
    assert model.training
    with pytest.raises(ValueError, match="output: expected one of 'pooled', 'projected', 'tokens', got 'x'"):
        embed_segments(model, ppg, output="x")
    with pytest.raises(ValueError, match="model: expected one with a PPG encoder"):
        embed_segments(tiny(source="ecg"), ppg)
    with pytest.raises(ValueError, match=r"segments: expected shape \[S, 500\], got \[500\]"):
        embed_segments(model, ppg[0])
    with pytest.raises(ValueError, match="segments: expected at least one, got none"):
        embed_segments(model, [])


def test_random_twin_is_another_and_always_the_same(model):
    state = torch.get_rng_state()
    twins = [random_twin(model, seed) for seed in (1, 1, 2)]
    assert torch.equal(torch.get_rng_state(), state)
    weights = [xmae.ppg_path.patcher.proj.weight for xmae in (*twins, model)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert not torch.equal(weights[0], weights[3])
    assert isinstance(twins[0], xmae_fast.xMAE)
    assert not twins[0].training


def test_hand_made_features_are_finite_whatever_comes(held_out):
    found = hand_made_features(held_out.ppg, held_out.fs)
    assert found.shape == (72, 20)
    assert np.isfinite(found).all()
    ranks = [x.argsort().argsort() for x in (found[:, 15], held_out.truth["heart_rate"])]
    assert np.corrcoef(*ranks)[0, 1] > 0.7
    assert np.isfinite(hand_made_features(np.zeros((3, 500), np.float32), 100)).all()
