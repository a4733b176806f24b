"""The budget of bfloat16 is checked: kernels that are known to be wrong, imitated in PyTorch, are rejected."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from tests.ops.bfloat16_cases import CASES
from xmae_fast.testing import check_bfloat16


def accept(op: str, run: Callable[[dict[str, Any]], Tensor]) -> None:
    check_bfloat16(CASES[op], CASES[op].tests[0], run)


def reject(op: str, run: Callable[[dict[str, Any]], Tensor]) -> None:
    with pytest.raises(AssertionError, match="in bfloat16 differs from the float64 oracle"):
        accept(op, run)


class Products(TorchFunctionMode):
    """Within it, linear and conv1d multiply bfloat16 numbers; `sum_pairs` adds up [rows, steps, columns]."""

    def __init__(self, sum_pairs: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.sum_pairs = sum_pairs

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function is F.linear:
            x, weight, bias = args
            out = self.product(x.flatten(0, -2), weight.T).view(*x.shape[:-1], -1)
            return out if bias is None else out + bias
        if function is F.conv1d:
            return self.conv1d(*args, **kwargs)
        return function(*args, **kwargs)

    def product(self, a: Tensor, b: Tensor) -> Tensor:
        return self.sum_pairs(a.bfloat16().float(), b.bfloat16().float()).float()

    def conv1d(self, x: Tensor, weight: Tensor, bias: Tensor | None = None, stride=1, padding=0) -> Tensor:
        windows = F.pad(x, (padding, padding)).unfold(2, weight.shape[2], stride)  # [B, c_in, L, k]
        B, _, L, _ = windows.shape
        rows = windows.permute(0, 2, 3, 1).reshape(B * L, -1)  # steps in the order of the kernels: taps, then channels
        out = self.product(rows, weight.permute(2, 1, 0).reshape(-1, weight.shape[0])).view(B, L, -1).transpose(1, 2)
        return out if bias is None else out + bias[:, None]


def in_float32(a: Tensor, b: Tensor) -> Tensor:
    """[rows, steps] by [steps, columns], summed in float32."""
    return a @ b


def in_bfloat16(a: Tensor, b: Tensor) -> Tensor:
    """The same, where the sum is rounded to bfloat16 after every pair of steps."""
    total = torch.zeros(len(a), b.shape[1])
    for k in range(0, len(b), 2):
        total = (total + a[:, k : k + 2] @ b[k : k + 2]).bfloat16().float()
    return total


def emulated(op: str, sum_pairs: Callable[[Tensor, Tensor], Tensor]) -> Callable[[dict[str, Any]], Tensor]:
    def run(inputs: dict[str, Any]) -> Tensor:
        with torch.autocast("cpu", enabled=False), Products(sum_pairs):
            return CASES[op].oracle(inputs)

    return run


@pytest.mark.parametrize("op", CASES)
def test_accumulation_in_bfloat16(op):
    accept(op, emulated(op, in_float32))
    reject(op, emulated(op, in_bfloat16))


def pair_swapped(weight: Tensor, dim: int) -> Tensor:
    """The weight with its first two numbers along `dim` in each other's place."""
    order = torch.arange(weight.shape[dim])
    order[:2] = torch.tensor([1, 0])
    return weight.index_select(dim, order)


def changed(op: str, inputs: dict[str, Any], change: Callable[[Tensor, int], Tensor]) -> dict[str, Any]:
    """The inputs with one weight changed along its steps; of a convolution along its input channels."""
    if op == "patch_embed":
        return inputs | {"weight": change(inputs["weight"], 1)}
    params = inputs["params"]
    if op == "conv_stem":
        return inputs | {"params": params._replace(head=params.head._replace(weight=change(params.head.weight, 1)))}
    name = "up_weight" if op == "feed_forward" else "out_weight"
    return inputs | {"params": params._replace(**{name: change(getattr(params, name), 1)})}


@pytest.mark.parametrize("op", CASES)
def test_one_pair_of_steps_swapped(op):
    reject(op, lambda inputs: CASES[op].oracle(changed(op, inputs, pair_swapped)))


@pytest.mark.parametrize("layer", ["enc1", "down1", "enc3", "smooth2", "smooth1", "head"])
def test_a_tap_off_by_one(layer):
    def run(inputs: dict[str, Any]) -> Tensor:
        params = inputs["params"]
        unit = getattr(params, layer)
        if layer.startswith("enc"):  # the branch of 7 taps of the second block
            block = unit[1]
            branch = block.branches[2]._replace(weight=block.branches[2].weight.roll(1, 2))
            unit = (unit[0], block._replace(branches=(*block.branches[:2], branch)))
        else:
            unit = unit._replace(weight=unit.weight.roll(1, 2))
        return CASES["conv_stem"].oracle(inputs | {"params": params._replace(**{layer: unit})})

    reject("conv_stem", run)


def test_a_row_of_a_patch_off_by_one():
    reject("patch_embed", lambda x: CASES["patch_embed"].oracle(x | {"weight": x["weight"].roll(1, 2)}))
