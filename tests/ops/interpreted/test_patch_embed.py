"""Patch embedding kernels against the oracle."""

from __future__ import annotations

import pytest
import torch

from tests.ops.interpreted.checks import CONFIGS, check, each, poisoned_memory
from xmae_fast.ops import patch_embed
from xmae_fast.ops.cases import Maker, cases
from xmae_fast.ops.patch_embed.cases import CASES
from xmae_fast.testing import relative_error

SMALL = {"B": 3, "S": 3, "N": 7, "P": 5, "D": 9}
RAGGED = cases({"B": 11, "S": 3, "N": 7, "P": 66, "D": 70}, {"B": 2, "S": 40, "N": 2, "P": 3, "D": 20})
NAMES = ("features", "weight", "bias", "pos")


@each(CASES, RAGGED)
def test_float32(case):
    check(CASES, case)


@each(CASES)
def test_float16(case):
    check(CASES, case, dtype=torch.float16)


@pytest.mark.parametrize("config", CONFIGS[1:])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_other_configurations(dtype, config):
    for case in (*cases(SMALL), RAGGED[0]):
        check(CASES, case, dtype=dtype, config=config)


def gradients(inputs, impl, wanted=NAMES, autocast=False):
    """Result and gradients of the wanted leaves, by name."""
    leaves = {name: x.detach().requires_grad_(name in wanted) for name, x in inputs.items()}
    with torch.autocast("cpu", dtype=torch.float16, enabled=autocast):
        out = patch_embed(**leaves, impl=impl)
    cotangent = Maker(4).normal(*out.shape).to(out.dtype)
    found = torch.autograd.grad(out, [leaves[name] for name in wanted], cotangent)
    return {"out": out.detach(), **dict(zip(wanted, found, strict=True))}


@pytest.mark.parametrize("features_dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("pos_dtype", [torch.float32, torch.float16])
def test_autocast(features_dtype, pos_dtype):
    """Results and gradients typed as the plain path types them, and at most twice as far from float64."""
    inputs = CASES.make_inputs({"B": 4, "S": 8, "N": 5, "P": 6, "D": 24}, Maker())
    inputs |= {"features": inputs["features"].to(features_dtype), "pos": inputs["pos"].to(pos_dtype)}
    want = gradients({name: x.double() for name, x in inputs.items()}, "reference")
    plain = gradients(inputs, "reference", autocast=True)
    with poisoned_memory():
        got = gradients(inputs, "triton", autocast=True)
    for name, ours in got.items():
        assert ours.dtype == plain[name].dtype, name
        bound = 2 * relative_error(plain[name], want[name]) + 4 * torch.finfo(torch.float16).eps
        assert relative_error(ours, want[name]) <= bound, name


@pytest.mark.parametrize("wanted", [(name,) for name in NAMES])
def test_only_what_is_asked_for(wanted):
    inputs = CASES.make_inputs(SMALL, Maker())
    everything = gradients(inputs, "triton")
    with poisoned_memory():
        some = gradients(inputs, "triton", wanted)
    assert all(torch.equal(some[name], everything[name]) for name in some)


def test_positions_as_the_model_passes_them():
    """Features channels last in memory, the first rows of a longer table of positions, a gradient from a sum."""
    inputs = CASES.make_inputs(SMALL, Maker())
    table = Maker(3).normal(1, SMALL["N"] + 4, SMALL["D"])
    channels_last = inputs["features"].transpose(1, 2).contiguous()
    for impl, found in (("triton", got := {}), ("reference", want := {})):
        leaves = channels_last.clone().requires_grad_(), table.clone().requires_grad_()
        out = patch_embed(leaves[0].transpose(1, 2), inputs["weight"], inputs["bias"], leaves[1][:, :7], impl=impl)
        found["features"], found["table"] = torch.autograd.grad(out.sum(), leaves)
    for name in want:
        torch.testing.assert_close(got[name], want[name])


def test_two_runs_are_equal():
    inputs = CASES.make_inputs(RAGGED[0].sizes, Maker())
    first, second = gradients(inputs, "triton"), gradients(inputs, "triton")
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("compute", [torch.float32, torch.float16])
def test_operators_keep_their_contract(compute):
    inputs = CASES.make_inputs(SMALL, Maker())
    tensors = (inputs["features"].transpose(1, 2).contiguous(), *(inputs[name] for name in NAMES[1:]))
    ops, utils = torch.ops.xmae_fast, ("test_schema", "test_faketensor")
    torch.library.opcheck(ops.patch_embed_triton, (*tensors, compute), test_utils=utils)
    out, packed = ops.patch_embed_triton(*tensors, compute)
    for needs in (0b1111, 0b0010):
        args = (out, *tensors, compute, packed, needs)
        torch.library.opcheck(ops.patch_embed_backward_triton, args, test_utils=utils)
