"""Checkpoints: every published form, strictness, damage, atomicity."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from xmae_fast import ModelCfg, load_checkpoint, save_checkpoint, xMAE
from xmae_fast.model.checkpoint import CheckpointError

CFG = ModelCfg(seq_len=200, patch_len=20, d_model=16, nhead=2, proj_dim=8, stem_ch=4, lag="gaussian")


@pytest.fixture
def model():
    model = xMAE(CFG).eval()
    for buffer in model.buffers():
        if buffer.is_floating_point():
            buffer.uniform_(0.5, 1.5)
    return model


def assert_same(loaded: xMAE, model: xMAE) -> None:
    assert loaded.cfg == model.cfg
    assert not loaded.training
    want = model.state_dict()
    assert loaded.state_dict().keys() == want.keys()
    assert all(torch.equal(value, want[key]) for key, value in loaded.state_dict().items())


@pytest.mark.parametrize("name", ["model.safetensors", "model.ckpt", "model.pt"])
def test_round_trip(model, tmp_path, name):
    save_checkpoint(model, tmp_path / name)
    assert_same(load_checkpoint(tmp_path / name), model)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert load_checkpoint(str(tmp_path / name), impl="reference").impl == "reference"


def test_safetensors_are_recognised_by_content(model, tmp_path):
    save_checkpoint(model, tmp_path / "model.safetensors")
    os.rename(tmp_path / "model.safetensors", tmp_path / "weights.bin")
    assert_same(load_checkpoint(tmp_path / "weights.bin"), model)


@pytest.mark.parametrize(
    "form",
    [
        lambda state: {
            "state_dict": {f"model.{key}": value for key, value in state.items()},
            "epoch": 3,
            "global_step": 7,
        },
        lambda state: {f"model.{key}": value for key, value in state.items()},
        lambda state: state,
    ],
    ids=["lightning", "flat", "bare"],
)
def test_published_forms_need_a_configuration(model, tmp_path, form):
    torch.save(form(dict(model.state_dict())), tmp_path / "best.ckpt")
    assert_same(load_checkpoint(tmp_path / "best.ckpt", CFG), model)
    assert_same(load_checkpoint(tmp_path / "best.ckpt", CFG.to_dict()), model)
    with pytest.raises(CheckpointError, match="cfg: expected a configuration, because best.ckpt does not hold one"):
        load_checkpoint(tmp_path / "best.ckpt")


def test_mismatch_lists_the_keys(model, tmp_path):
    state = dict(model.state_dict())
    state["surprise"] = state.pop("mask_token")
    state["ppg_path.pos"] = state["ppg_path.pos"][:, :-1]
    torch.save(state, tmp_path / "bad.ckpt")
    with pytest.raises(CheckpointError) as error:
        load_checkpoint(tmp_path / "bad.ckpt", CFG)
    for part in (
        "bad.ckpt: 3 keys do not fit",
        "missing mask_token",
        "unexpected surprise",
        "ppg_path.pos: expected shape [1, 10, 16], got [1, 9, 16]",
    ):
        assert part in str(error.value)


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"path: expected a checkpoint file, got '.*nothing.ckpt'"):
        load_checkpoint(tmp_path / "nothing.ckpt")


@pytest.mark.parametrize("name", ["model.safetensors", "model.ckpt"])
@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.99])
def test_truncated_file(model, tmp_path, name, share):
    save_checkpoint(model, tmp_path / name)
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content[: int(share * len(content))])
    with pytest.raises(CheckpointError, match=f"{name}: expected a.*truncated or foreign"):
        load_checkpoint(tmp_path / name)


@pytest.mark.parametrize("name", ["notes.ckpt", "notes.safetensors"])
def test_foreign_file(tmp_path, name):
    (tmp_path / name).write_text("these are not weights\n" * 100)
    with pytest.raises(CheckpointError, match=f"{name}: expected a"):
        load_checkpoint(tmp_path / name)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_dtype_is_kept(model, tmp_path, dtype):
    save_checkpoint(model.to(dtype), tmp_path / "model.safetensors")
    assert_same(load_checkpoint(tmp_path / "model.safetensors"), model)


def test_checkpoint_of_a_compiled_model(model, tmp_path):
    state = {f"model._orig_mod.{key}": x for key, x in model.state_dict().items()}
    torch.save({"state_dict": state}, tmp_path / "c.ckpt")
    assert_same(load_checkpoint(tmp_path / "c.ckpt", CFG), model)


def test_refused_classes_are_named(model, tmp_path, monkeypatch):
    content = {"state_dict": dict(model.state_dict()), "hyper_parameters": argparse.Namespace(a=1)}
    torch.save(content, tmp_path / "h.ckpt", _use_new_zipfile_serialization=False)  # stand-ins need the newer form
    with pytest.raises(CheckpointError, match=r"running code \(argparse.Namespace\)") as error:
        load_checkpoint(tmp_path / "h.ckpt", CFG)
    calls = [line.strip() for line in str(error.value).splitlines() if line.startswith("  ")]
    monkeypatch.chdir(tmp_path)
    exec("\n".join(calls), {"torch": torch})  # the calls of the message work as they stand
    assert_same(load_checkpoint("weights.ckpt", CFG), model)


def test_a_folder_and_a_state_dict_are_refused(model, tmp_path):
    with pytest.raises(FileNotFoundError, match="which is a folder"):
        load_checkpoint(tmp_path)
    with pytest.raises(TypeError, match="model: expected an xMAE, got OrderedDict"):
        save_checkpoint(model.state_dict(), tmp_path / "x.ckpt")


class RunsCode:
    def __reduce__(self):
        return os.mkdir, ("proof-that-code-ran",)


def test_code_in_a_checkpoint_is_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": {"x": torch.zeros(1)}, "evil": RunsCode()}, "evil.ckpt")
    with pytest.raises(CheckpointError, match="evil.ckpt: expected a checkpoint of tensors and plain values"):
        load_checkpoint("evil.ckpt", CFG)
    assert not Path("proof-that-code-ran").exists()


@pytest.mark.parametrize("content", [[1, 2], {"state_dict": 3}, {"a": "b"}])
def test_other_contents(tmp_path, content):
    torch.save(content, tmp_path / "other.ckpt")
    with pytest.raises(CheckpointError, match="other.ckpt: expected"):
        load_checkpoint(tmp_path / "other.ckpt", CFG)


@pytest.mark.parametrize("name", ["model.safetensors", "model.ckpt"])
def test_a_failing_save_leaves_the_old_file(model, tmp_path, name, monkeypatch):
    save_checkpoint(model, tmp_path / name)
    before = (tmp_path / name).read_bytes()

    def broken(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", broken)
    with pytest.raises(OSError, match="disk full"):
        save_checkpoint(model, tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_bytes() == before


@pytest.mark.slow
def test_killed_while_saving_never_leaves_a_broken_checkpoint(model, tmp_path):
    """A process that saves over and over is killed; what is under the name always loads."""
    path = tmp_path / "model.ckpt"
    save_checkpoint(model, path)
    script = (
        "import sys; from xmae_fast import *\nm = load_checkpoint(sys.argv[1])\nprint('ready', flush=True)\n"
        "while True: save_checkpoint(m, sys.argv[1])"
    )
    process = subprocess.Popen([sys.executable, "-c", script, str(path)], stdout=subprocess.PIPE)
    try:
        assert process.stdout.readline() == b"ready\n"
        for _ in range(20):
            assert_same(load_checkpoint(path), model)
    finally:
        process.kill()
        process.wait()
    assert_same(load_checkpoint(path), model)
