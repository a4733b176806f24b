"""Embeddings as tables of pandas, in memory and from a folder."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from tests.embedding.conftest import pulses
from xmae_fast import Embedder, embed_files, read_embeddings

FS = 125


@pytest.fixture
def pandas():
    return pytest.importorskip("pandas")


def test_a_row_for_each_window(pandas, model):
    first, second = pulses(21, FS, seed=1), pulses(10, FS, seed=2)
    second[:625] = 3.0  # a window that is constant
    found = Embedder(model, check=False)([first, second], FS)
    table = found.to_frame()
    assert table.index.names == ["record", "time"]
    assert table.index.tolist() == [(0, 0.0), (0, 5.0), (0, 10.0), (0, 15.0), (1, 0.0), (1, 5.0)]
    issues = ["unusable", "missing", "flat", "clipped"]
    names = [f"xmae_pooled_{i}" for i in range(16)]
    assert table.columns.tolist() == ["quality", "pulse_rate", *issues, *names]
    assert {table[name].dtype for name in issues} == {np.dtype(bool)}
    assert {table[name].dtype for name in names} == {np.dtype(np.float32)}
    assert table["unusable"].tolist() == [False] * 4 + [True, False]
    np.testing.assert_array_equal(table[names], found.embeddings)
    np.testing.assert_array_equal(table["quality"], found.quality)
    np.testing.assert_array_equal(table.loc[1][names], found.embeddings[4:])
    table.loc[:, names] = 0
    assert np.abs(found.embeddings[:4]).sum() > 0  # the table has numbers of its own
    named = found.to_frame(subjects=["Anna", "Ben"])
    assert named["subject"].tolist() == ["Anna"] * 4 + ["Ben"] * 2
    assert named.groupby("subject")["quality"].count()["Anna"] == 4
    with pytest.raises(ValueError, match="subjects: expected one for each of 2 recordings, got 1"):
        found.to_frame(subjects=["Anna"])


def test_tokens_and_names(pandas, model):
    embedder = Embedder(model, fs=FS, output="tokens", check=False)
    found = embedder(pulses(10, FS))
    numbers = found.to_frame().filter(like="xmae_tokens_")
    assert numbers.columns.tolist() == embedder.get_feature_names_out().tolist()
    np.testing.assert_array_equal(numbers, found.embeddings.reshape(2, -1))


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_from_a_folder(pandas, model, packed, tmp_path, dtype):
    embed_files(packed, tmp_path / "shard", model=model, dtype=dtype)
    stored = read_embeddings(tmp_path / "shard")
    table = stored.to_frame()
    assert table.index.name == "key"
    assert table.index.tolist() == stored.key.tolist()
    assert table.index.is_unique
    assert table["subject"].tolist() == stored.subject.tolist()
    numbers = table.filter(like="xmae_pooled_")
    assert set(numbers.dtypes) == {np.dtype(dtype)}
    np.testing.assert_array_equal(numbers, stored.embeddings)
    for name, values in stored.columns.items():
        np.testing.assert_array_equal(table[name], values)


def test_without_pandas_an_error_says_what_to_install(model, monkeypatch):
    found = Embedder(model, check=False)(pulses(10, FS), FS)
    monkeypatch.setitem(sys.modules, "pandas", None)  # importing it is an error
    with pytest.raises(ImportError, match="to_frame needs pandas: pip install pandas"):
        found.to_frame()
