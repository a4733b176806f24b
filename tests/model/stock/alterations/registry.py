"""Ways in which code around a model alters its parts in place, for the control and the library's model alike.

`ALTERATIONS[name]` is called with a model and alters it; names of modules are those of the state dict, so the same
function serves both. To add one, decorate a function with `alteration`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import NamedTuple

from torch import nn


class Alteration(NamedTuple):
    function: Callable[[nn.Module], object]
    where: tuple[str, ...]  # modules that are altered; messages name them, or their classes
    changes: bool  # evaluation or a training step gives something else than the model without the alteration
    kernels: bool  # kernels may go on serving the part, or computing within it, as they compute the same
    only_training: bool  # it changes what training computes, and not evaluation
    steps: int  # of training: 1, or 2 where something happens between two of them
    mode: str  # "both"; "eval" or "train" where it alters the mode, or the control cannot run in the other one

    def __call__(self, model: nn.Module) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.function(model)


ALTERATIONS: dict[str, Alteration] = {}


def alteration(
    *where: str,
    name: str = "",
    changes: bool = True,
    kernels: bool = False,
    only_training: bool = False,
    steps: int = 1,
    mode: str = "both",
):
    """Add the function to `ALTERATIONS`, under its own name unless another is given."""

    def add(function: Callable[[nn.Module], object]) -> Callable[[nn.Module], object]:
        key = name or function.__name__
        assert key not in ALTERATIONS, key
        ALTERATIONS[key] = Alteration(function, where, changes, kernels, only_training, steps, mode)
        return function

    return add


def each(name: str, *where: str, **facts):
    """An alteration of several modules: the function is called with the model and the name of one."""

    def add(function: Callable[[nn.Module, str], object]) -> Callable[[nn.Module, str], object]:
        def alter(model: nn.Module) -> None:
            for one in where:
                function(model, one)

        alteration(*where, name=name, **facts)(alter)
        return function

    return add


def replace(model: nn.Module, name: str, module: nn.Module) -> None:
    """Put `module` where `name` stands, as peft and users do, in the mode of what stood there."""
    parent, _, last = name.rpartition(".")
    module.train(model.get_submodule(name).training)
    setattr(model.get_submodule(parent), last, module)


def replaced(make: Callable[[nn.Module], nn.Module]) -> Callable[[nn.Module, str], None]:
    """For `each`: replaces a module by what `make` returns for it."""
    return lambda model, name: replace(model, name, make(model.get_submodule(name)))


def with_attributes(**values: object) -> Callable[[nn.Module, str], None]:
    """For `each`: sets attributes of a module."""

    def alter(model: nn.Module, name: str) -> None:
        module = model.get_submodule(name)
        for key, value in values.items():
            assert hasattr(module, key), key
            setattr(module, key, value)

    return alter


# Places in the model that several alterations share.
CONVS = (
    "ppg_path.stem.enc1.0.branches.0.0",
    "ppg_path.stem.down2.0",
    "ecg_path.stem.lat1",
    "ppg_path.stem.skip",
)
LINEARS = (
    "ppg_path.encoder.blocks.0.mlp.0",
    "ppg_path.encoder.blocks.1.mlp.2",
    "ecg_path.dec_blk.mlp.0",
    "bridger.ecg2ppg.0.ffn.1",
)
ATTENTIONS = ("ppg_path.encoder.blocks.0.attn", "ecg_path.dec_blk.attn", "bridger.ecg2ppg.0.attn")
NORM = "ppg_path.stem.down1.1"
SKIP_NORM = "ecg_path.stem.skip_bn"
NORMS = (NORM, SKIP_NORM, "ecg_path.stem.enc3.1.branches.2.1", "ppg_path.stem.head.1")
LAYER_NORMS = (
    "ppg_path.encoder.blocks.0.norm1",
    "ecg_path.encoder.blocks.0.norm2",
    "ecg_path.dec_blk.ln1",
    "ecg_path.dec_blk.ln2",
    "bridger.ecg2ppg.0.nq",
    "bridger.ecg2ppg.0.nkv",
    "bridger.ecg2ppg.0.ffn.0",
)
GELUS = ("ppg_path.encoder.blocks.0.mlp.1", "ecg_path.dec_blk.mlp.1", "bridger.ecg2ppg.0.ffn.2")
SILUS = ("ppg_path.stem.enc1.0.branches.1.2", "ecg_path.stem.down1.2", "ecg_path.stem.head.2")
DROPOUTS = ("ppg_path.encoder.blocks.0.mlp.3", "ecg_path.dec_blk.mlp.3", "bridger.ecg2ppg.0.ffn.4")
WEIGHTS = (
    "ppg_path.stem.enc1.1.branches.1.0",
    "ecg_path.stem.red3to2",
    "ppg_path.patcher.proj",
    "ecg_path.encoder.blocks.0.mlp.0",
    "ecg_path.dec_blk.mlp.2",
    "bridger.ecg2ppg.0.ffn.1",
)
WITHIN_A_STEM = (
    "ppg_path.stem.enc1.0.branches.0.0",
    "ppg_path.stem.down1",
    "ecg_path.stem.enc2.0",
    "ecg_path.stem.enc2",
    "ecg_path.stem.head.2",
)
WITHIN_A_BLOCK = (
    "ppg_path.encoder.blocks.1.mlp",
    "ecg_path.encoder.blocks.0.norm1",
    "ecg_path.dec_blk.mlp.3",
    "bridger.ecg2ppg.0.ffn",
)
AROUND_BLOCKS = (  # a kernel may compute within their forward
    "ppg_path.stem",
    "ecg_path.patcher",
    "ppg_path.encoder",
    "ppg_path.encoder.blocks.1",
    "ppg_path.proj",
    "ecg_path.dec_blk",
    "ecg_path.decoder",
    "ecg_path.decoder.deconv",
    "bridger",
    "bridger.ecg2ppg.0",
)
