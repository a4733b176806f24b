"""Files with objects of foreign classes beside the weights, whole modules, and damage: no code of a file is run."""

from __future__ import annotations

import os
import pathlib
import random
import shutil
import subprocess
import sys
import zipfile
from argparse import Namespace
from collections import defaultdict, deque
from dataclasses import fields
from enum import Enum
from types import ModuleType

import numpy as np
import pytest
import torch

from tests.model.checkpoint_files import CFG, PARAMS, PUBLISHED, assert_same, made, saved, with_prefix
from xmae_fast import ModelCfg, load_checkpoint
from xmae_fast.model.checkpoint import CheckpointError
from xmae_fast.model.storage.files import read_file


@pytest.fixture(scope="module")
def model():
    return made(0)


@pytest.fixture
def state(model):
    return dict(model.state_dict())


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
    """An object that pickles as OmegaConf.create(value) does: containers, nodes, parents and metadata."""
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
    """A plain object of the fields, as the published ModelCfg is."""

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
