"""The models that come with the package: they load without a network, are what was trained, and damage is noticed."""

from __future__ import annotations

import json
import shutil
import warnings

import numpy as np
import pytest
import torch

import xmae_fast
from xmae_fast import _shipped
from xmae_fast.cli import main
from xmae_fast.simulation.population import simulate_population

NAMES = sorted(xmae_fast.pretrained_models())


@pytest.mark.parametrize("name", NAMES)
def test_they_load_and_give_the_embedding_that_they_had(name):
    pytest.importorskip("scipy")
    model = xmae_fast.from_pretrained(name)
    assert not model.training
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    ppg = simulate_population(256, seed=1)["ppg"][:1]
    about = json.loads((xmae_fast.pretrained_models()[name].folder / _shipped.ABOUT).read_text(encoding="utf-8"))
    expected = np.array(about["embedding"])  # its first numbers, in plain PyTorch, when the weights were put here
    assert len(expected) == 16
    got = xmae_fast.Embedder(model, check=False).segments(ppg)[0, : len(expected)]
    scale = np.abs(expected).max()
    assert np.abs(got - expected).max() < 1e-3 * scale


def test_names_and_sizes():
    assert NAMES == ["xmae-sim-base", "xmae-sim-small"]
    models = xmae_fast.pretrained_models()
    assert sum(model.bytes for model in models.values()) <= 16 * 2**20
    for name, model in models.items():
        assert model.name == name
        loaded = xmae_fast.from_pretrained(name)
        assert model.parameters == sum(p.numel() for p in loaded.parameters())
        assert "research" in model.card.lower()
        assert "simulated" in model.summary


@pytest.fixture
def copied(tmp_path, monkeypatch):
    """A folder of models that a test may damage."""
    folder = tmp_path / "shipped"
    shutil.copytree(_shipped._FOLDER / "xmae-sim-base", folder / "xmae-sim-base")
    monkeypatch.setattr(_shipped, "_FOLDER", folder)
    return folder / "xmae-sim-base"


def test_damage_is_noticed(copied, capsys):
    weights = copied / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-5] ^= 1
    weights.write_bytes(content)
    with pytest.raises(ValueError, match=r"xmae-sim-base: .*model.safetensors is damaged .* install xmae-fast again"):
        xmae_fast.from_pretrained("xmae-sim-base")
    weights.unlink()
    with pytest.raises(ValueError, match=r"model.safetensors is missing: install xmae-fast again"):
        xmae_fast.from_pretrained("xmae-sim-base")
    assert main(["export", "xmae-sim-base", "--to", "torch-export", "-o", str(copied.parent / "x.pt2")]) == 2
    assert "install xmae-fast again" in capsys.readouterr().err


def test_what_is_on_disk_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    small = xmae_fast.ModelCfg(d_model=16, nhead=2, depth_ppg=1, stem_ch=4, proj_dim=8)
    xmae_fast.xMAE(small).save_pretrained("xmae-sim-base")
    assert xmae_fast.from_pretrained("xmae-sim-base").cfg.d_model == 16


def test_other_names_are_refused_with_the_known_ones():
    with pytest.raises(FileNotFoundError, match="'xmae-sim-base'.* of this package.*'xmae-sim-bse' does not exist"):
        xmae_fast.from_pretrained("xmae-sim-bse")


def test_the_embedder_says_which_model_it_takes():
    ppg = np.sin(np.arange(2500) / 125 * 2 * np.pi * 1.2)
    with pytest.warns(UserWarning, match="xmae-sim-base is used: trained on simulated signals alone, for research"):
        found = xmae_fast.Embedder(check=False)(ppg, fs=125)
    assert found.embeddings.shape == (2, 256)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        named = xmae_fast.Embedder("xmae-sim-base", check=False)(ppg, fs=125)
    assert np.array_equal(named.embeddings, found.embeddings)


def test_the_command_says_which_model_it_takes(tmp_path, capsys):
    t = np.arange(3000) / 100
    np.savetxt(tmp_path / "ppg.csv", np.c_[t, np.sin(2 * np.pi * 1.1 * t)], "%.5f", ",", header="time,ppg", comments="")
    assert main(["embed", str(tmp_path / "ppg.csv"), "-o", str(tmp_path / "out")]) == 0
    assert "model: xmae-sim-base, which comes with the package" in capsys.readouterr().err
    assert xmae_fast.read_embeddings(tmp_path / "out").embeddings.shape == (3, 256)
