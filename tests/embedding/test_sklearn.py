"""Embeddings in scikit-learn: its own checks of transformers, pipelines, searches, tables."""

from __future__ import annotations

import atexit
import functools
import os
import pickle
import shutil
import tempfile
import warnings

import numpy as np
import pytest
import torch

import xmae_fast
from tests.embedding.conftest import CFG, pulses

pytest.importorskip("sklearn", minversion="1.6")
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from xmae_fast.embedding.preprocess import prepare_ppg
from xmae_fast.sklearn import EmbeddingTransformer

FS = 125
NOT_HERE = {"check_array_api_input": "scikit-learn runs it only with SCIPY_ARRAY_API=1"}


class Tiny(os.PathLike):
    """The folder of a tiny model. As an argument of an estimator it stays the same when it is copied: scikit-learn
    compares the hashes of copies, which PyTorch's modules do not keep."""

    def __fspath__(self) -> str:
        return tiny_folder()

    def __repr__(self) -> str:  # for the names of the tests
        return "tiny"


@functools.cache
def tiny_folder() -> str:
    folder = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, folder)
    torch.manual_seed(0)
    model = xmae_fast.xMAE(xmae_fast.ModelCfg(seq_len=100, patch_len=20, d_model=16, nhead=2, stem_ch=4, proj_dim=8))
    model.eval().save_pretrained(folder)
    return folder


@parametrize_with_checks(
    [EmbeddingTransformer(Tiny(), check=False, output=output) for output in ("pooled", "projected", "tokens")]
)
def test_the_checks_of_scikit_learn(estimator, check):
    """All of them, with no failure expected."""
    check(estimator)


def test_all_checks_have_run():
    """`parametrize_with_checks` marks what it leaves out as skipped: nothing but what is named here is."""
    from sklearn.utils.estimator_checks import check_estimator

    found = check_estimator(EmbeddingTransformer(Tiny(), check=False), on_skip=None)
    assert {one["check_name"]: one["status"] for one in found if one["status"] != "passed"} == dict.fromkeys(
        NOT_HERE, "skipped"
    )
    assert len(found) > 40


@pytest.fixture
def recordings() -> tuple[np.ndarray, np.ndarray]:
    """40 recordings [40, T] of 10.5 s, two windows each, and their pulse rates."""
    rates = np.random.default_rng(0).uniform(50, 120, 40)
    return np.stack([pulses(10.5, FS, rate, seed) for seed, rate in enumerate(rates)]), rates


def test_recordings(model, recordings):
    X, _ = recordings
    transformer = EmbeddingTransformer(model, fs=FS)
    found = transformer.fit_transform(X)
    assert (found.shape, found.dtype) == ((40, 16), np.float32)
    np.testing.assert_array_equal(found, xmae_fast.Embedder(model, fs=FS).transform(X))
    unequal = transformer.transform([X[0], X[1][:800]])  # whole, and with one window instead of two
    np.testing.assert_allclose(unequal[0], found[0], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(
        unequal[1], xmae_fast.Embedder(model)(X[1][:625], FS).embeddings[0], rtol=1e-4, atol=1e-5
    )
    assert not hasattr(EmbeddingTransformer(model, fs=FS).fit([X[0], X[1][:800]]), "n_features_in_")
    gap = X.copy()
    gap[3, 100:120] = np.nan
    gap[4] = 7.0
    with pytest.warns(xmae_fast.embedding.SignalWarning):
        with_gaps = transformer.transform(gap)
    assert np.isfinite(with_gaps[3]).all()
    assert np.isnan(with_gaps[4]).all()


def test_windows_that_are_cleaned_already(model):
    raw = np.stack([pulses(5, FS, 60 + 5 * i, i) for i in range(6)])
    clean = prepare_ppg(raw, 100, xmae_fast.Recipe(segment_s=6.25, clean="none")).ppg
    transformer = EmbeddingTransformer(model)
    short = prepare_ppg(raw, 125, xmae_fast.Recipe(segment_s=5, clean="none")).ppg  # 500 samples, as the model takes
    np.testing.assert_allclose(transformer.fit_transform(raw), xmae_fast.Embedder(model).segments(short), atol=1e-5)
    assert clean.shape != short.shape
    assert np.isnan(EmbeddingTransformer(model, check=False).transform(np.ones((2, 50)))).all()


def test_searches_tables_pickles(model, recordings, tmp_path):
    X, rates = recordings
    model.save_pretrained(tmp_path)
    pipeline = make_pipeline(EmbeddingTransformer(str(tmp_path), fs=FS, check=False), StandardScaler(), Ridge(1e-3))
    search = GridSearchCV(pipeline, {"embeddingtransformer__output": ["pooled", "projected"]}, cv=4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        search.fit(X, rates)
    for place, output in enumerate(("pooled", "projected")):
        features = xmae_fast.Embedder(model, fs=FS, output=output).transform(X)
        alone = cross_val_score(make_pipeline(StandardScaler(), Ridge(1e-3)), features, rates, cv=4)
        assert search.cv_results_["mean_test_score"][place] == pytest.approx(alone.mean(), rel=1e-2)
    best = search.best_estimator_
    again = pickle.loads(pickle.dumps(best))
    np.testing.assert_array_equal(again.predict(X), best.predict(X))
    assert "_made" not in again[0].__dict__ or again[0]._made[1] is not best[0]._made[1]
    copy = clone(best[0]).set_params(output="projected", hop=2.5)
    assert copy.fit(X).transform(X).shape == (40, 8)
    copy.set_params(output="pooled")  # without `fit`, the arguments count as they are
    assert copy.transform(X).shape == (40, 16)


def test_tables_of_pandas(model, recordings):
    pandas = pytest.importorskip("pandas")
    X, _ = recordings
    table = pandas.DataFrame(X, index=[f"p{i:02d}" for i in range(40)], columns=[f"s{i}" for i in range(X.shape[1])])
    transformer = EmbeddingTransformer(model, fs=FS).set_output(transform="pandas")
    found = transformer.fit_transform(table)
    assert list(found.index) == list(table.index)
    assert list(found.columns) == list(transformer.get_feature_names_out()) == [f"xmae_pooled_{i}" for i in range(16)]
    assert set(found.dtypes) == {np.dtype(np.float32)}
    assert list(transformer.feature_names_in_) == list(table.columns)
    np.testing.assert_array_equal(found, EmbeddingTransformer(model, fs=FS).transform(X))
    with pytest.raises(ValueError, match="feature names should match"):
        transformer.transform(table[table.columns[::-1]])


def test_errors(model, recordings):
    X, _ = recordings
    with pytest.raises(NotFittedError):
        EmbeddingTransformer(model).get_feature_names_out()
    with pytest.raises(ValueError, match="output: expected one of 'pooled', 'projected', 'tokens', got 'best'"):
        EmbeddingTransformer(model, output="best").fit(X)
    with pytest.raises(ValueError, match="X: expected rows of one length, got other lengths; recordings need fs=Hz"):
        EmbeddingTransformer(model).fit([X[0], X[1][:600]])
    with pytest.raises(ValueError, match="X has 800 features, but EmbeddingTransformer is expecting 1312"):
        EmbeddingTransformer(model, fs=FS).fit(X).transform(X[:, :800])
    with pytest.raises(ValueError, match="expected at least one window of 5 s, got 100 samples"):
        EmbeddingTransformer(model, fs=FS).transform(X[:, :100])
    with pytest.raises(ValueError, match="fs: expected more than 16 Hz"):
        EmbeddingTransformer(model, fs=10).transform(X)
    with pytest.raises(TypeError, match="model: expected an xMAE or what from_pretrained takes, got int"):
        EmbeddingTransformer(3).fit(X)
    with pytest.warns(UserWarning, match="model: none was given, xmae-sim-base is used"):
        EmbeddingTransformer(fs=FS).fit(X)
    assert CFG.seq_len == 500
