"""Files of weights as people save them: keys, prefixes, wrappers, several sets, other formats."""

from __future__ import annotations

import copy
import json
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
import torch
from torch import nn

from tests.model.checkpoint_files import CFG, PUBLISHED, assert_same, made, saved, with_prefix
from xmae_fast import load_checkpoint, save_checkpoint
from xmae_fast.model.checkpoint import CheckpointError


@pytest.fixture(scope="module")
def model():
    return made(0)


@pytest.fixture(scope="module")
def other():
    return made(1)


@pytest.fixture
def state(model):
    return dict(model.state_dict())


BESIDE = {"optimizer": {"state": {0: {"exp_avg": torch.ones(2)}}, "param_groups": [{"lr": 1e-3}]}, "epoch": 3}
OUTER = ["", "state_dict", "model", "model_state_dict", "net", "module", "ema", "model/state_dict", "a/b/c"]
PREFIXES = [
    "", "model.", "module.", "_orig_mod.", "model._orig_mod.", "module.model.", "_orig_mod.module.", "net.encoder.",
    "_forward_module.model.", "model._fsdp_wrapped_module.",
]  # fmt: skip


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("outer", OUTER)
def test_keys_of_the_file(model, state, tmp_path, outer):
    content = OrderedDict(with_prefix(state, "model."))
    for key in reversed(outer.split("/")) if outer else ():
        content = {key: content} | BESIDE
    assert_same(load_checkpoint(saved(content, tmp_path / "x.pt"), CFG), model)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("prefix", PREFIXES)
def test_prefixes(model, state, tmp_path, prefix):
    assert_same(load_checkpoint(saved({"state_dict": with_prefix(state, prefix)}, tmp_path / "x.ckpt"), CFG), model)


@pytest.mark.filterwarnings("error")
def test_a_compiled_part(model, state, tmp_path):
    state = {key.replace("ppg_path.", "ppg_path._orig_mod."): value for key, value in state.items()}
    assert_same(load_checkpoint(saved(state, tmp_path / "x.pt"), CFG), model)


@pytest.mark.parametrize("use_buffers", [False, True])
def test_averaged_model(model, tmp_path, use_buffers):
    averaged = torch.optim.swa_utils.AveragedModel(copy.deepcopy(model), use_buffers=use_buffers)
    path = saved({"model": averaged.state_dict()}, tmp_path / "x.pt")
    with pytest.warns(UserWarning, match=r"left out 1 tensors that lie beside the model's\n  n_averaged$"):
        assert_same(load_checkpoint(path, CFG), model)


def test_whole_lightning_module(model, state, tmp_path):
    beside = {"val_mae.sum_abs_error": torch.ones(()), "val_mae.total": torch.ones(()), "loss_weight": torch.ones(2)}
    content = {"state_dict": with_prefix(state, "model.") | beside, "epoch": 1, "hyper_parameters": {"cfg": PUBLISHED}}
    path = saved(content, tmp_path / "x.ckpt")
    with pytest.warns(UserWarning, match=r"left out 3 tensors.*\n  val_mae.sum_abs_error\n.*\n  loss_weight"):
        assert_same(load_checkpoint(path), model)
    del content["state_dict"]["model.mask_token"]
    with pytest.raises(CheckpointError, match=r"missing mask_token\n  beside the model: val_mae.sum_abs_error"):
        load_checkpoint(saved(content, path))


@pytest.mark.parametrize("prefix", ["", "model."])
def test_keys_inside_the_prefix_are_an_error_unless_strict_is_false(model, state, tmp_path, prefix):
    state["head.weight"] = torch.ones(2)
    path = saved({"state_dict": with_prefix(state, prefix)}, tmp_path / "x.ckpt")
    with pytest.raises(CheckpointError, match=r"1 keys do not.*\n  unexpected head.weight\n.*strict=False\) leaves"):
        load_checkpoint(path, CFG)
    with pytest.warns(UserWarning, match=r"strict=False left out.*\n  unexpected head.weight$"):
        assert_same(load_checkpoint(path, CFG, strict=False), model)
    del state["mask_token"]
    with pytest.warns(UserWarning, match=r"kept initial values.*\n  missing mask_token\n  unexpected head") as said:
        loaded = load_checkpoint(saved(state, path), CFG, strict=False)
    assert said[0].filename == __file__
    assert not torch.equal(loaded.mask_token, model.mask_token)
    assert torch.equal(loaded.ecg_path.pos, model.ecg_path.pos)


def test_several_sets_of_weights(model, other, state, tmp_path):
    theirs = other.state_dict()
    path = saved({"model": state, "ema": with_prefix(theirs, "module.")}, tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match=r"the weights of 2; choose:\n  load_.*x.pt', weights='model'"):
        load_checkpoint(path, CFG)
    assert_same(load_checkpoint(path, CFG, weights="model"), model)
    assert_same(load_checkpoint(path, CFG, weights="ema"), other)
    assert_same(load_checkpoint(path, CFG, weights="ema.module"), other)
    with pytest.raises(CheckpointError, match="weights: expected one of 'model', 'ema.module', got 'swa'"):
        load_checkpoint(path, CFG, weights="swa")
    saved({"model": state, "ema": copy.deepcopy(state)}, path)
    assert_same(load_checkpoint(path, CFG), model)  # it makes no difference


@pytest.mark.parametrize(
    ("form", "label"),
    [
        (lambda a, b: {"current_model_state": with_prefix(b, "model."), "state_dict": with_prefix(a, "model.")},
         "current_model_state.model"),  # Lightning's EMAWeightAveraging
        (lambda a, b: {"state_dict_ema": b, "state_dict": a}, "state_dict_ema"),
        (lambda a, b: {"state_dict": with_prefix(b, "ema.module.") | with_prefix(a, "model.")},
         "state_dict.ema.module"),
        (lambda a, b: with_prefix(b, "ema_model.") | with_prefix(a, "model."), "ema_model"),
    ],
)  # fmt: skip
def test_the_published_form_comes_first_and_the_others_are_named(model, other, state, tmp_path, form, label):
    path = saved(form(state, dict(other.state_dict())), tmp_path / "x.ckpt")
    with pytest.warns(UserWarning, match=rf"took the weights '.*' of 2 sets; others: load_.*weights='{label}'\)"):
        assert_same(load_checkpoint(path, CFG), model)
    assert_same(load_checkpoint(path, CFG, weights=label), other)


def test_the_same_key_twice(state, tmp_path):
    state["_orig_mod.mask_token"] = state["mask_token"] + 1
    with pytest.raises(CheckpointError, match="expected one 'mask_token', got 'mask_token' and '_orig_mod.mask_token'"):
        load_checkpoint(saved(state, tmp_path / "x.pt"), CFG)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: {"mask_token": [1.0]}, "mask_token: expected a tensor, got list"),
        (lambda s: {"mask_token": s["mask_token"].to("meta")}, "expected numbers, got a tensor on the device 'meta'"),
        (lambda s: {"mask_token": s["mask_token"].to(torch.int8)}, "of 16 to 64 bits, got torch.int8"),
        (lambda s: {"ecg_path.proj.0.bias": torch.empty(0)}, "expected shape .16., got .0. .DeepSpeed's ZeRO-3"),
        (lambda s: {"ecg_path.proj.1.lora_A.weight": torch.ones(2)}, "LoRA: save what model.merge_and_unload"),
        (lambda s: {"ecg_path.proj.1.weight_orig": s.pop("ecg_path.proj.1.weight")}, "pruned: torch.nn.utils.prune"),
        (lambda s: {"ecg_path.proj.1.parametrizations.weight.original": s.pop("ecg_path.proj.1.weight")},
         "parametrised: torch.nn.utils.parametrize.remove_parametrizations"),
        (lambda s: s.clear() or {"conv.weight": torch.ones(2)}, "expected weights of an xMAE, .*got 'model.conv"),
        (lambda s: s.clear() or {"stem.enc1.0.branches.0.0.weight": torch.ones(2)}, "the weights of one path alone"),
    ],
)  # fmt: skip
def test_what_cannot_be_taken(state, tmp_path, change, message):
    state |= change(state)
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(saved({"state_dict": with_prefix(state, "model.")}, tmp_path / "x.ckpt"), CFG)


@pytest.mark.parametrize(
    ("dtypes", "want"),
    [
        ((torch.bfloat16, torch.float32), torch.float32),
        ((torch.float16, torch.bfloat16), torch.float32),
        ((torch.float32, torch.float64), torch.float64),
        ((torch.bfloat16, torch.bfloat16), torch.bfloat16),
    ],
)
def test_mixed_precision_loses_nothing(state, tmp_path, dtypes, want):
    for key, value in state.items():
        if value.is_floating_point():
            state[key] = value.to(dtypes["running" in key])
    loaded = load_checkpoint(saved(state, tmp_path / "x.pt"), CFG).state_dict()
    assert {value.dtype for value in loaded.values()} == {want, torch.int64}
    assert all(torch.equal(value.to(want), loaded[key]) for key, value in state.items() if value.is_floating_point())


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_weights_in_several_files(model, state, tmp_path, kind):
    keys = list(state)
    parts = {f"part-{i}.{kind}": {f"model.{key}": state[key] for key in keys[i::2]} for i in range(2)}
    for name, part in parts.items():
        if kind == "safetensors":
            pytest.importorskip("safetensors.torch").save_file(part, tmp_path / name)
        else:
            torch.save(part, tmp_path / name)
    index = tmp_path / f"model.{kind}.index.json"
    index.write_text(json.dumps({"weight_map": {key: name for name, part in parts.items() for key in part}}))
    assert_same(load_checkpoint(index, CFG), model)
    (tmp_path / f"part-1.{kind}").unlink()
    with pytest.raises(CheckpointError, match=rf"the 2 files that it names beside it, part-1.{kind} is missing"):
        load_checkpoint(index, CFG)
    index.write_text(json.dumps({"weight_map": {"model.mask_token": "../x.bin"}}))
    with pytest.raises(CheckpointError, match="expected names of files beside it under 'weight_map', got '../x.bin'"):
        load_checkpoint(index, CFG)
    index.write_text("{}")
    with pytest.raises(CheckpointError, match="expected an index of weights in several files, JSON with 'weight_map'"):
        load_checkpoint(index, CFG)


@pytest.mark.parametrize("prefix", ["", "model.", "module._orig_mod."])
def test_safetensors_of_others(model, state, tmp_path, prefix):
    path = tmp_path / "x.safetensors"
    pytest.importorskip("safetensors.torch").save_file(with_prefix(state, prefix), path)
    assert_same(load_checkpoint(path, CFG), model)
    with pytest.raises(CheckpointError, match=r"x.safetensors', nhead=8, dropout=0.1\)"):
        load_checkpoint(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "a pointer of Git LFS.*git lfs pull"),
        (b"<!DOCTYPE html><html>", "a page of HTML or XML"),
        (b"\x89HDF\r\n\x1a\n", "it is an HDF5 file"),
        (b"hello, world", "it begins with b'hello, world'"),
    ],
)
@pytest.mark.parametrize("name", ["x.ckpt", "x.safetensors"])
def test_other_files_are_named(tmp_path, content, message, name):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"{name}: expected a.*truncated or foreign: .*{message}"):
        load_checkpoint(tmp_path / name, CFG)


def test_archives_of_torchscript_and_numpy(tmp_path):
    with zipfile.ZipFile(tmp_path / "script.pt", "w") as archive:
        for name in ("data.pkl", "constants.pkl", "version"):
            archive.writestr(f"script/{name}", "3\n")
    with pytest.raises(CheckpointError, match=r"got an archive of TorchScript; .*\n.*torch.jit.load\(.*script.pt'\)"):
        load_checkpoint(tmp_path / "script.pt", CFG)
    np.savez(tmp_path / "x.npz", a=np.ones(2))
    with pytest.raises(CheckpointError, match="x.npz: expected a torch checkpoint, but it is truncated or foreign"):
        load_checkpoint(tmp_path / "x.npz", CFG)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([".metadata", "__0_0.distcp"], "torch.distributed.checkpoint.format_utils dcp_to_torch"),
        (["latest", "zero_to_fp32.py"], r"of DeepSpeed; one file comes from it by: python .*zero_to_fp32.py"),
        (["model.safetensors"], r"from_pretrained\('.*'\) reads folders"),
        (["a.ckpt", "b.txt", "c.pt"], "which is a folder; it holds a.ckpt, c.pt$"),
        ([], "which is a folder$"),
    ],
)
def test_folders(tmp_path, files, message):
    for name in files:
        (tmp_path / name).touch()
    with pytest.raises(FileNotFoundError, match=message):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize("name", ["module", "_orig_mod"])
def test_saving_a_wrapped_model(model, tmp_path, name):
    wrapped = nn.Module()
    wrapped.add_module(name, model)
    with pytest.raises(TypeError, match=f"model: expected an xMAE, got Module; save its .{name}$"):
        save_checkpoint(wrapped, tmp_path / "x.ckpt")
