"""Recordings to embeddings: windows, outputs, warnings, scikit-learn, reconstruction."""

from __future__ import annotations

import copy
import gc
import warnings

import numpy as np
import pytest
import torch

import xmae_fast
from tests.embedding.conftest import CFG, pulses
from xmae_fast import Embedder, Recipe
from xmae_fast.embedding import Embeddings, SignalWarning, batches, reconstruct
from xmae_fast.embedding.preprocess import prepare_ppg
from xmae_fast.ops import _frozen

FS = 125


@pytest.fixture
def signal() -> np.ndarray:
    return pulses(52.4, FS, seed=3)


def test_every_window_is_prepared_and_encoded_by_itself(model, signal):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = Embedder(model.train(), batch_size=4)(signal, FS)
    assert isinstance(found, Embeddings)
    assert model.training
    assert (len(found), found.segment_s) == (10, 5)
    np.testing.assert_allclose(found.times, np.arange(10) * 5.0)
    assert found.unused_s == pytest.approx(2.4)
    raw = signal[: 10 * 625].reshape(10, 625)
    prepared = prepare_ppg(raw, FS, Recipe.for_model(CFG))
    tokens = model.ppg_path.encode(torch.from_numpy(prepared.ppg)[:, None], None, inference=True)
    np.testing.assert_allclose(found.embeddings, tokens.mean(1).detach(), atol=1e-5)
    np.testing.assert_array_equal(found.quality, prepared.quality)
    np.testing.assert_array_equal(found.good(), found.quality >= 0.9)
    assert found.good(0.5).all()
    assert not found.good(1.01).any()
    projected = model.embed(signal, fs=FS, output="projected")
    np.testing.assert_allclose(projected.embeddings, model.embed(torch.from_numpy(prepared.ppg)), atol=1e-5)
    by_token = Embedder(model, output="tokens")(signal, FS).embeddings
    assert by_token.shape == (10, CFG.num_patches, CFG.d_model)
    np.testing.assert_allclose(by_token.mean(1), found.embeddings, atol=1e-5)
    np.testing.assert_allclose(Embedder(model).segments(prepared.ppg), found.embeddings, atol=1e-5)


def test_hops_tails_and_several_recordings(model, signal):
    embedder = Embedder(model, fs=FS, hop=2.5, tail="align")
    found = embedder(signal)
    np.testing.assert_allclose(found.times, [*np.arange(0, 47.4, 2.5), 47.4], atol=0.5 / FS + 1e-9)
    assert found.unused_s == 0
    side_by_side = Embedder(model)(signal, FS)
    np.testing.assert_allclose(found.embeddings[:20:2], side_by_side.embeddings, atol=1e-5)
    both = Embedder(model)([signal, signal[:1000]], FS)
    assert both.record.tolist() == [0] * 10 + [1]
    np.testing.assert_allclose(both.embeddings[10], both.embeddings[0], atol=1e-5)
    odd = Embedder(model)(pulses(30, 62.4725, seed=1), 62.4725)
    assert len(odd) == 6
    assert (odd.quality > 0.8).all()


def test_rates_agree():
    """The same pulses recorded at two rates are almost the same, except where the filter begins and ends."""
    recipe = Recipe.for_model(CFG)
    fine, coarse = (
        prepare_ppg(pulses(50, fs, seed=1, noise=0).reshape(10, -1), fs, recipe).ppg[:, 50:-50] for fs in (500, 100)
    )
    other = prepare_ppg(pulses(50, 100, rate=95, seed=2, noise=0).reshape(10, -1), 100, recipe).ppg[:, 50:-50]
    for row in range(10):
        assert np.corrcoef(fine[row], coarse[row])[0, 1] > 0.98 > 0.9 > np.corrcoef(fine[row], other[row])[0, 1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: np.where(np.arange(len(x)) // 625 == 2, 7.0, x), "1 of 10 windows are constant"),
        (lambda x: np.where(np.arange(len(x)) % 5000 == 9, np.nan, x), "2 of 10 windows are with missing samples"),
        (lambda x: np.minimum(x, np.quantile(x, 0.8)), "windows are clipped"),
        (lambda x: np.where(np.arange(len(x)) % 625 < 200, 2000.0, x), "10 of 10 windows are flat"),
        (lambda x: -x, "upside down"),
        (lambda x: np.random.default_rng(0).normal(size=len(x)), "8.% of the signal's power lies above the band"),
        (lambda x: np.random.default_rng(0).normal(size=len(x)).cumsum(), "the median quality is 0.[345]"),
        (lambda x: np.sin(np.arange(len(x)) / 400), "windows have fewer than four pulses; is fs = 125 Hz right"),
        (lambda x: np.tile(x[:625], 10), "embeddings: those of 10 windows are all but the same"),
    ],
    ids=["constant", "missing", "clipped", "flat", "upside-down", "noise", "walk", "slow", "repeated"],
)
def test_what_looks_wrong_is_said(model, signal, change, message):
    with pytest.warns(SignalWarning, match=message) as told:
        found = Embedder(model)(change(signal.copy()), FS)
    assert all(one.filename == __file__ for one in told)
    assert len(found) == 10
    assert np.isnan(found.embeddings).all(1).tolist() == found.issues["unusable"].tolist()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Embedder(model, check=False)(change(signal.copy()), FS)


def test_a_wrong_rate_is_noticed(model, signal):
    with pytest.warns(SignalWarning, match=r"fs: 4.% of the signal's power lies above .*; is fs = 1000 Hz right"):
        Embedder(model)(np.tile(signal, 8), FS * 8)
    with pytest.warns(SignalWarning, match=r"fewer than four pulses; is fs = 62.5 Hz right|fs: it makes the pulse"):
        Embedder(model)(signal, FS / 2)
    with pytest.warns(SignalWarning, match="fs: 2500 Hz is an unusual rate"):
        Embedder(model)(np.repeat(signal, 20), FS * 20)


def test_segments_in_other_units_are_noticed(model):
    prepared = np.random.default_rng(0).uniform(-1, 1, (6, 500)).astype(np.float32)
    prepared[:, :2] = -1, 1
    with pytest.warns(SignalWarning, match=r"segments: expected values scaled to \[-1, 1\] per segment"):
        Embedder(model).segments(1000 * prepared)
    with pytest.warns(SignalWarning, match="segments: expected segments that reach from -1 to 1 each"):
        Embedder(model).segments(0.1 * prepared)
    with pytest.raises(ValueError, match=r"segments: expected shape \[S, 500\], got \[500\]"):
        Embedder(model).segments(prepared[0])


@pytest.mark.parametrize(
    ("options", "signal", "fs", "error", "message"),
    [
        ({}, np.zeros(624), FS, ValueError, "signal: expected at least one window of 5 s, got 624 samples, 4.992 s"),
        ({}, np.zeros((2, 2, 900)), FS, ValueError, r"signal: expected shape \[T\] or \[R, T\]"),
        ({}, np.zeros(900, complex), FS, TypeError, "signal: expected real numbers, got dtype complex128"),
        ({}, np.zeros(900), None, ValueError, "fs: expected the recording's rate in Hz"),
        ({}, np.zeros(900), -1, ValueError, "fs: expected a positive number of Hz, got -1"),
        ({}, np.zeros(90), 10, ValueError, "fs: expected more than 16 Hz"),
        ({"output": "x"}, np.zeros(900), FS, ValueError, "output: expected one of 'pooled', 'projected', 'tokens'"),
        ({"hop": 0}, np.zeros(900), FS, ValueError, "hop: expected a positive number of seconds or None, got 0"),
        ({"hop": 0.001}, np.zeros(900), FS, ValueError, "hop: expected at least one sample"),
        ({"tail": "x"}, np.zeros(900), FS, ValueError, "tail: expected 'drop' or 'align', got 'x'"),
        ({"batch_size": 0}, np.zeros(900), FS, ValueError, "batch_size: expected at least 1, got 0"),
        ({"recipe": Recipe()}, np.zeros(900), FS, ValueError, "recipe: expected one with segments of 500 samples"),
        ({"model": 3}, np.zeros(900), FS, TypeError, "model: expected an xMAE or what from_pretrained takes, got int"),
    ],
)
def test_errors_name_the_argument(model, options, signal, fs, error, message):
    with pytest.raises(error, match=message):
        Embedder(**({"model": model} | options))(signal, fs)


def test_embed_of_tensors_is_as_it_was(model):
    ppg = torch.rand(3, 500) * 2 - 1
    expected = model.ppg_path.embedding(model.ppg_path.encode(ppg[:, None], None, inference=True)).detach()
    torch.testing.assert_close(model.embed(ppg), expected)
    with pytest.raises(TypeError, match="ppg: expected a tensor, got ndarray"):
        model.embed(ppg.numpy())


def test_scikit_learn(model, tmp_path):
    """An Embedder works in a pipeline, cloned and cross-validated: embeddings of raw rows predict the pulse rate."""
    pytest.importorskip("sklearn")
    from sklearn.base import clone
    from sklearn.linear_model import Ridge
    from sklearn.model_selection import cross_val_score
    from sklearn.pipeline import make_pipeline

    model.save_pretrained(tmp_path)
    rates = np.random.default_rng(0).uniform(50, 120, 40)
    X = np.stack([pulses(10.5, FS, rate, seed) for seed, rate in enumerate(rates)])
    embedder = Embedder(tmp_path, fs=FS, check=False)
    features = embedder.fit_transform(X)
    names = embedder.get_feature_names_out()
    assert features.shape == (40, 16)
    assert names[0] == "xmae_pooled_0"
    assert len(names) == 16
    one = embedder(X[7])
    np.testing.assert_allclose(features[7], one.embeddings.mean(0), atol=1e-6)
    pipeline = make_pipeline(embedder, Ridge(1e-3))
    expected = Ridge(1e-3).fit(features[:30], rates[:30]).predict(features[30:])
    np.testing.assert_allclose(pipeline.fit(X[:30], rates[:30]).predict(X[30:]), expected, rtol=1e-4)
    assert cross_val_score(pipeline, X, rates, cv=4).max() > 0.5
    copy = clone(pipeline).set_params(embedder__output="projected")
    assert copy.fit(X, rates)[:-1].transform(X).shape == (40, 8)
    assert clone(Embedder(model, fs=FS)).fit().transform(X[:2]).shape == (2, 16)
    with pytest.raises(ValueError, match="outputs: expected one of model, fs"):
        embedder.set_params(outputs="tokens")
    with pytest.raises(ValueError, match=r"X: expected shape \[S, T\]"):
        embedder.transform(X[0])


def test_reconstruct(model, tmp_path):
    rng = np.random.default_rng(1)
    ppg, ecg = rng.uniform(-1, 1, (2, 3, 500)).astype(np.float32)
    model.ppg_path.eval(), model.ecg_path.train()
    modes = [module.training for module in model.modules()]
    found = reconstruct(model, ppg, ecg, visible=[(0, 1), (4.5, 5)])
    assert [module.training for module in model.modules()] == modes
    keep = torch.tensor([0, 1, 9]).expand(3, -1)
    restore = torch.argsort(torch.tensor([0, 1, 9, 2, 3, 4, 5, 6, 7, 8])).expand(3, -1)
    with torch.no_grad():
        out = model.eval()(
            torch.from_numpy(ppg), torch.from_numpy(ecg), ids_keep_ecg=keep, ids_restore_ecg=restore.contiguous()
        )
    np.testing.assert_allclose(found.reconstructed, out["ecg_reconstructed"][:, 0], atol=1e-5)
    np.testing.assert_array_equal(~found.visible, out["seq_mask_used_ecg"][0, 0] == 1)
    assert found.error.shape == (3,)
    blind = reconstruct(model, ppg[0])
    np.testing.assert_allclose(blind.reconstructed, reconstruct(model, ppg[:1], ecg[:1]).reconstructed, atol=1e-5)
    assert blind.error is None
    pytest.importorskip("matplotlib")
    found.draw(tmp_path / "x.png", rows=[0, 2])
    blind.draw(tmp_path / "y.png")
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.png", "y.png"]
    raw = reconstruct(model, pulses(5, FS), pulses(5, FS, seed=1), visible=[(1, 2)], fs=FS)
    assert raw.visible.sum() == 100
    assert np.abs(raw.ecg).max() == 1
    for arguments, options, message in (
        ((ppg,), {"visible": [(0, 1)]}, "visible: expected none without ecg"),
        ((ppg, ecg), {"visible": [(1, 6)]}, r"visible: expected \(begin, end\) within 0 to 5 s, got \(1, 6\)"),
        ((ppg, ecg[:2]), {}, r"ecg: expected the shape of ppg, \[3, 500\], got \[2, 500\]"),
        ((100 * ppg,), {}, r"ppg: expected values in \[-1, 1\]"),
        ((ppg[:, :9],), {}, r"ppg: expected shape \[500\] or \[B, 500\], got \[3, 9\]"),
        ((np.ones(625),), {"fs": FS}, "ppg: expected signals that vary, row 0 is constant or empty"),
    ):
        with pytest.raises(ValueError, match=message):
            reconstruct(model, *arguments, **options)
    with pytest.raises(ValueError, match="rows: expected some of 0 to 2"):
        found.draw(tmp_path / "x.png", rows=[3])
    with pytest.raises(ValueError, match="model: expected one with a bridge"):
        reconstruct(xmae_fast.xMAE(xmae_fast.ModelCfg(**(CFG.to_dict() | {"source": "ppg"}))), ppg)


@pytest.fixture
def frozen_weights(need_impl):
    """The versions of all frozen weights by id; the test must leave none."""
    need_impl("conv_stem", "cpu")
    yield _frozen._versions
    gc.collect()
    assert not _frozen._versions


def test_a_model_of_the_callers_is_frozen_while_a_call_embeds(model, frozen_weights, monkeypatch):
    segments = prepare_ppg(pulses(25, FS, seed=3).reshape(5, -1), FS, Recipe.for_model(CFG)).ppg
    embedder, seen = Embedder(model, batch_size=2), []
    encode = batches.encode
    monkeypatch.setattr(batches, "encode", lambda *args: seen.append(len(frozen_weights)) or encode(*args))
    first = embedder.segments(segments)
    assert seen[0] == 0  # a batch alone does not pay for it
    assert min(seen[1:]) > 30
    assert not frozen_weights
    model.ppg_path.patcher.proj.weight.data.neg_()
    second = embedder.segments(segments)
    assert not np.allclose(first, second, atol=1e-3)
    np.testing.assert_array_equal(second, Embedder(copy.deepcopy(model), batch_size=2).segments(segments))
    work = batches.encode_batches(model, ((None, segments[:1]) for _ in range(3)), "pooled")
    next(work)
    next(work)
    assert frozen_weights
    work.close()  # as when the loop around it fails
    assert not frozen_weights
    model.freeze()
    embedder.segments(segments)
    assert model.is_frozen
    model.unfreeze()


def test_a_model_that_the_embedder_loaded_stays_frozen(model, frozen_weights, tmp_path):
    model.save_pretrained(tmp_path / "mine")
    segments = prepare_ppg(pulses(10, FS, seed=3).reshape(2, -1), FS, Recipe.for_model(CFG)).ppg
    embedder = Embedder(tmp_path / "mine")
    assert not frozen_weights
    np.testing.assert_array_equal(embedder.segments(segments), Embedder(model).segments(segments))
    assert len(frozen_weights) > 30
    embedder.set_params(batch_size=1)
    gc.collect()
    assert not frozen_weights
    with torch.inference_mode():  # weights that cannot be frozen
        np.testing.assert_allclose(embedder.segments(segments), Embedder(model).segments(segments), atol=1e-6)
    assert not frozen_weights
