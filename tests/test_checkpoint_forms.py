"""Files of weights as people save them: keys, prefixes, wrappers, Lightning modules, objects of foreign classes."""

from __future__ import annotations

import copy
import json
import os
import pathlib
import random
import shutil
import subprocess
import sys
import zipfile
from argparse import Namespace
from collections import OrderedDict, defaultdict, deque
from dataclasses import fields
from enum import Enum
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import nn

from xmae_fast import ModelCfg, load_checkpoint, save_checkpoint, xMAE
from xmae_fast.model.checkpoint import CheckpointError
from xmae_fast.model.checkpoint.files import read_file

CFG = ModelCfg(seq_len=200, patch_len=20, d_model=16, nhead=2, proj_dim=8, stem_ch=4, depth_ppg=1)
PARAMS = {"patch_len": 20, "d_model": 16, "nhead": 2, "latent_dim": 8, "stem_ch": 4, "depth_ecg": 1, "depth_ppg": 1,
          "depth_bridge": 1}  # fmt: skip
PUBLISHED = {"sampling_freq": 100, "seg_len": 2, "source": "PPG+ECG", "model_params": PARAMS}


def made(seed: int) -> xMAE:
    torch.manual_seed(seed)
    model = xMAE(CFG)
    for buffer in model.buffers():
        if buffer.is_floating_point():
            buffer.uniform_(0.5, 1.5)
    return model


@pytest.fixture(scope="module")
def model():
    return made(0)


@pytest.fixture(scope="module")
def other():
    return made(1)


@pytest.fixture
def state(model):
    return dict(model.state_dict())


def assert_same(loaded: xMAE, model: xMAE) -> None:
    assert loaded.cfg == model.cfg
    want = model.state_dict()
    assert list(loaded.state_dict()) == list(want)
    assert all(torch.equal(value, want[key]) for key, value in loaded.state_dict().items())


def saved(content, path, **options):
    torch.save(content, path, **options)
    return path


def with_prefix(state, prefix):
    return {prefix + key: value for key, value in state.items()}


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
    with pytest.warns(UserWarning, match=r"kept initial values.*\n  missing mask_token\n  unexpected head.weight"):
        loaded = load_checkpoint(saved(state, path), CFG, strict=False)
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


def foreign(monkeypatch, name: str, attributes: dict) -> type:
    """A class under the name of another package's, which need not be installed."""
    module, _, qualname = name.rpartition(".")
    for depth in range(1, module.count(".") + 2):
        part = ".".join(module.split(".")[:depth])
        monkeypatch.setitem(sys.modules, part, ModuleType(part))
    made = type(qualname, (), attributes | {"__module__": module, "__qualname__": qualname})
    setattr(sys.modules[module], qualname, made)
    return made


def omegaconf(monkeypatch, value):
    """What `OmegaConf.create(value)` pickles as: containers with _content, nodes with _val, parents and metadata."""
    DictConfig = foreign(monkeypatch, "omegaconf.dictconfig.DictConfig", {})
    ContainerMetadata = foreign(monkeypatch, "omegaconf.base.ContainerMetadata", {})
    AnyNode = foreign(monkeypatch, "omegaconf.nodes.AnyNode", {})

    def build(value, parent):
        made = DictConfig() if isinstance(value, dict) else AnyNode()
        made._parent, made._metadata = parent, ContainerMetadata()
        made._metadata.ref_type = dict
        if isinstance(value, dict):
            made._content = {key: build(item, made) for key, item in value.items()}
        else:
            made._val = value
        return made

    return build(value, None)


class Choice(Enum):
    FIRST = 1


class Described(dict):
    pass


class Slotted:
    __slots__ = ("model_params", "seg_len")

    def __init__(self, seg_len, model_params):
        self.seg_len, self.model_params = seg_len, model_params


class Public:
    """As the published ModelCfg: a plain object of the fields."""

    def __init__(self, **values):
        self.__dict__.update(values)


def with_numpy(value):
    if isinstance(value, dict):
        return {key: with_numpy(item) for key, item in value.items()}
    return np.array([value])[0] if isinstance(value, (int, float)) else value


PUBLISHED_FIELDS = [field.name for field in fields(ModelCfg) if field.name not in ("lag", "sampling_freq")]
HYPER_PARAMETERS = {
    "plain": lambda _: PUBLISHED,
    "nested": lambda _: {"lr": 1e-3, "config": {"trainer": {"epochs": 2}, "model": PUBLISHED}},
    "numpy": lambda _: with_numpy(PUBLISHED) | {"lr": np.float32(3e-4), "table": np.arange(3), "kind": np.dtype("f4")},
    "paths": lambda _: PUBLISHED | {"data": pathlib.Path("/data/x.h5"), "out": pathlib.PurePosixPath("a")},
    "namespace": lambda _: Namespace(**PUBLISHED),
    "namespace inside": lambda _: {"args": Namespace(**PUBLISHED), "choice": Choice.FIRST, "type": int, "f": len},
    "omegaconf": lambda monkeypatch: omegaconf(monkeypatch, PUBLISHED),
    "omegaconf inside": lambda monkeypatch: {"cfg": omegaconf(monkeypatch, {"model": PUBLISHED}), "p": pathlib.Path()},
    "dataclass": lambda _: {"cfg": CFG},
    "published dataclass": lambda _: Public(**{key: getattr(CFG, key) for key in PUBLISHED_FIELDS}),
    "slots": lambda _: {"cfg": Slotted("2", PARAMS)},
    "containers": lambda _: Described(PUBLISHED | {"seen": defaultdict(list, a=[1]), "last": deque([1, 2]), "set": {1},
                                                   "frozen": frozenset([1]), "complex": 1j, "bytes": b"x"}),
    "flat arguments": lambda _: {"d_model": 16, "nhead": "2", "dropout": 0.1, "lr": 1e-3},
}  # fmt: skip


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", HYPER_PARAMETERS)
def test_hyper_parameters_give_the_configuration(model, state, tmp_path, name):
    content = {"state_dict": with_prefix(state, "model."), "pytorch-lightning_version": "2.5.0", "loops": {}}
    allowed = set(torch.serialization.get_safe_globals())
    with pytest.MonkeyPatch.context() as monkeypatch:
        content["hyper_parameters"] = HYPER_PARAMETERS[name](monkeypatch)
        path = saved(content, tmp_path / "x.ckpt")
    assert_same(load_checkpoint(path), model)
    assert set(torch.serialization.get_safe_globals()) == allowed


def test_real_omegaconf(model, state, tmp_path):
    conf = pytest.importorskip("omegaconf").OmegaConf.create({"model": PUBLISHED, "list": [1, {"a": None}]})
    content = {"state_dict": with_prefix(state, "model."), "hyper_parameters": conf}
    assert_same(load_checkpoint(saved(content, tmp_path / "x.ckpt")), model)
    content["hyper_parameters"] = {"cfg": conf}
    assert_same(load_checkpoint(saved(content, tmp_path / "x.ckpt")), model)


class Runs:
    def __init__(self, function, *arguments):
        self.reduced = function, arguments

    def __reduce__(self):
        return self.reduced


@pytest.mark.parametrize(
    "evil",
    [
        Runs(eval, "__import__('os').mkdir('proof')"),
        Runs(exec, "import os; os.mkdir('proof')"),
        Runs(subprocess.check_call, ["mkdir", "proof"]),
        Runs(shutil.copytree, "empty", "proof"),
    ],
    ids=["eval", "exec", "subprocess", "copytree"],
)
@pytest.mark.parametrize("place", ["hyper_parameters", "optimizer", "state_dict"])
def test_no_code_runs(model, state, tmp_path, monkeypatch, evil, place):
    monkeypatch.chdir(tmp_path)
    os.mkdir("empty")
    content = {"state_dict": with_prefix(state, "model.")}
    content.setdefault(place, {})["evil"] = evil
    saved(content, "x.ckpt")
    torch.load("x.ckpt", weights_only=False)
    os.rmdir("proof")  # plain loading has run it
    assert_same(load_checkpoint("x.ckpt", CFG), model)
    assert not os.path.exists("proof")


def test_calls_of_methods_are_refused(state, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    saved({"state_dict": state, "evil": Runs(pathlib.Path.mkdir, pathlib.Path("proof"))}, "x.ckpt")
    with pytest.raises(CheckpointError, match=r"running code \(builtins.getattr, pathlib.Path"):
        load_checkpoint("x.ckpt", CFG)
    assert not os.path.exists("proof")


@pytest.mark.parametrize("key", [None, "model"])
def test_a_whole_module_is_refused_with_calls_that_work(model, tmp_path, monkeypatch, key):
    monkeypatch.chdir(tmp_path)
    saved(model if key is None else {key: model, "epoch": 3}, "whole.pt")
    with pytest.raises(CheckpointError, match=r"got a whole module \(xmae_fast.model.xmae.xMAE\)") as error:
        load_checkpoint("whole.pt", CFG)
    exec("\n".join(x.strip() for x in str(error.value).splitlines() if x.startswith("  ")), {"torch": torch})
    assert_same(load_checkpoint("weights.ckpt", CFG), model)


def test_a_whole_module_beside_its_weights(model, state, tmp_path):
    assert_same(load_checkpoint(saved({"state_dict": state, "module": model}, tmp_path / "x.pt"), CFG), model)


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


def test_damaged_bytes_give_one_kind_of_error(tmp_path):
    """A file whose pickle is changed at random is read as far as it makes sense, or refused as a checkpoint."""
    content = {"state_dict": {"model.mask_token": torch.ones(2)}, "a": Namespace(b=np.float32(2)), "c": [1, "x"]}
    with zipfile.ZipFile(saved(content, tmp_path / "x.pt")) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    pickled = next(name for name in files if name.endswith("data.pkl"))
    draw = random.Random(0)
    refused = 0
    for _ in range(300):
        damaged = bytearray(files[pickled])
        for _ in range(draw.choice((1, 2, 5))):
            damaged[draw.randrange(len(damaged))] = draw.randrange(256)
        with zipfile.ZipFile(tmp_path / "y.pt", "w") as archive:
            for name, data in (files | {pickled: bytes(damaged)}).items():
                archive.writestr(name, data)
        try:
            read_file(tmp_path / "y.pt")
        except CheckpointError:
            refused += 1
    assert 0 < refused < 300


def test_a_class_that_the_user_allows_is_made(model, state, tmp_path):
    path = saved({"state_dict": state, "hyper_parameters": Namespace(**PUBLISHED)}, tmp_path / "x.ckpt")
    with torch.serialization.safe_globals([Namespace]):
        assert_same(load_checkpoint(path), model)


@pytest.mark.parametrize("name", ["module", "_orig_mod"])
def test_saving_a_wrapped_model(model, tmp_path, name):
    wrapped = nn.Module()
    wrapped.add_module(name, model)
    with pytest.raises(TypeError, match=f"model: expected an xMAE, got Module; save its .{name}$"):
        save_checkpoint(wrapped, tmp_path / "x.ckpt")
