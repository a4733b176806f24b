"""Inference in float32 by three bfloat16 parts: by AMX where it is here, and by plain loops everywhere."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.ops.instruction_sets import SPLIT, on
from xmae_fast import ModelCfg, backend, xMAE
from xmae_fast.ops.cases import Maker, all_cases
from xmae_fast.testing import check_op, hostile_layout
from xmae_fast.testing.numerics import _map_tensors

OPS = ("conv_stem", "patch_embed", "lag_attention", "feed_forward")


# Without gradients the kernels for inference run.
CASES = {op: replace(all_cases()[op], differentiable=False) for op in OPS}
EVERY_CASE = [pytest.param(op, case, id=f"{op}-{case.name}") for op in OPS for case in CASES[op].tests]


@pytest.fixture(params=SPLIT)
def split(request, need_impl):
    for op in OPS:
        need_impl(op, "cpu")
    with on(request.param):
        yield request.param


@pytest.mark.parametrize(("op", "case"), EVERY_CASE)
def test_matches_the_oracle(op, case, split):
    check_op(CASES[op], case, lambda inputs: CASES[op].call(inputs, "cpu"))


@pytest.mark.parametrize(("op", "case"), EVERY_CASE)
def test_hostile_layouts_and_poisoned_memory(op, case, split):
    torch.use_deterministic_algorithms(True)  # fills uninitialised memory with NaN
    try:
        check_op(CASES[op], case, lambda inputs: CASES[op].call(inputs, "cpu"), seed=2, prepare=hostile_layout)
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("op", OPS)
def test_two_parts_or_five_products_would_not_do(op):
    """What the kernels must not be: the yardstick rejects sums of two parts, whose error is a hundred times larger."""

    def in_two_parts(x: torch.Tensor) -> torch.Tensor:
        if not x.is_floating_point() or x.dim() < 2:
            return x
        first = x.bfloat16().float()
        return first + (x - first).bfloat16().float()

    case = CASES[op].tests[0]
    with pytest.raises(AssertionError, match="differs from the float64 oracle"):
        check_op(CASES[op], case, lambda inputs: CASES[op].call(_map_tensors(in_two_parts, inputs), "reference"))


def test_bits_do_not_depend_on_threads_or_neighbours(split):
    torch.manual_seed(0)
    cfg = ModelCfg(seq_len=200, patch_len=20, d_model=48, nhead=4, proj_dim=16)
    path, ppg = xMAE(cfg, impl="cpu").eval().ppg_path, torch.randn(5, 1, 200)
    with torch.no_grad():
        want = path.encode(ppg, inference=True)
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            assert torch.equal(path.encode(ppg, inference=True), want)
            assert torch.equal(path.encode(ppg[3:4], inference=True), want[3:4])


@pytest.mark.parametrize("op", OPS)
def test_a_number_that_is_none_stays_in_its_sample(op, split):
    sizes = next(
        case.sizes for case in CASES[op].tests if case.sizes.get("B", 0) > 1 and not case.sizes.get("training")
    )
    inputs = CASES[op].make_inputs(sizes, Maker(0))
    name = "features" if op == "patch_embed" else "x"
    want = CASES[op].call(inputs, "cpu")
    broken = inputs[name].clone()
    broken[0].view(-1)[0] = torch.nan
    got = CASES[op].call(inputs | {name: broken}, "cpu")
    assert got[0].isnan().any()
    assert torch.equal(got[1:], want[1:])


def test_training_computes_by_floats(split):
    """Only inference is split: a training step gives the bits of the kernels that AMX's table is made of."""
    op = "feed_forward"
    inputs = CASES[op].make_inputs({"B": 2, "N": 9, "D": 40, "F": 56}, Maker(0))
    inference = CASES[op].call(inputs, "cpu")
    inputs["x"].requires_grad_()
    training = CASES[op].call(inputs, "cpu")
    assert training.requires_grad
    assert not torch.equal(training, inference)
    with backend.use_cpu_kernels("avx512_rows13" if split == "amx" else "baseline"):
        assert torch.equal(training, CASES[op].call(inputs, "cpu"))
