"""Every case of every implementation of every operator against the float64 oracle, on friendly and hostile inputs."""

from __future__ import annotations

import pytest
import torch

from xmae_fast import available
from xmae_fast.backend import IMPLS, NOT_AUTOMATIC
from xmae_fast.ops.cases import Maker, all_cases
from xmae_fast.testing import check_op, hostile_layout, named_tensors

CASES = all_cases()
DEVICE = {"reference": "cpu", "cpu": "cpu", "triton": "cuda", "cuda": "cuda"}
# Implementations that this version has for each operator, usable on this machine or not, without those that serve only
# a part of the cases, which have tests of their own (tests/ops/cuda).
EXISTING = [
    (op, impl)
    for op, entry in available().items()
    for impl in IMPLS
    if "in this version of xmae_fast" not in entry[impl].reason and (op, impl) not in NOT_AUTOMATIC
]


def on_its_device(impl: str) -> list[pytest.MarkDecorator]:
    """The marks of a test of that implementation."""
    return [pytest.mark.gpu] if DEVICE[impl] == "cuda" else []


EVERY_CASE = [
    pytest.param(op, impl, case, id=f"{op}-{impl}-{case.name}", marks=on_its_device(impl))
    for op, impl in EXISTING
    for case in CASES[op].tests
]


@pytest.mark.parametrize(("op", "impl", "case"), EVERY_CASE)
def test_matches_the_oracle(op, impl, case, need_impl):
    need_impl(op, impl)
    check_op(CASES[op], case, lambda inputs: CASES[op].call(inputs, impl), device=DEVICE[impl])


@pytest.mark.parametrize(("op", "impl", "case"), EVERY_CASE)
def test_hostile_layouts_and_poisoned_memory(op, impl, case, need_impl):
    need_impl(op, impl)
    torch.use_deterministic_algorithms(True)  # fills uninitialised memory with NaN or the largest integer
    try:
        check_op(
            CASES[op],
            case,
            lambda inputs: CASES[op].call(inputs, impl),
            seed=2,
            device=DEVICE[impl],
            prepare=hostile_layout,
        )
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize(
    ("op", "case"),
    [
        pytest.param(op, case, id=f"{op}-{case.name}")
        for op, impl, case in (p.values for p in EVERY_CASE)
        if impl == "cpu"
    ],
)
def test_every_instruction_set(op, case, kernels, need_impl):
    need_impl(op, "cpu")
    check_op(CASES[op], case, lambda inputs: CASES[op].call(inputs, "cpu"), prepare=hostile_layout)


@pytest.mark.parametrize(("op", "impl"), [pytest.param(*pair, marks=on_its_device(pair[1])) for pair in EXISTING])
def test_inputs_are_left_alone(op, impl, need_impl):
    need_impl(op, impl)
    cases = CASES[op]
    inputs = cases.make_inputs(cases.tests[0].sizes, Maker(3, device=DEVICE[impl]))
    before = {name: x.clone() for name, x in named_tensors(inputs)}
    cases.call(inputs, impl)
    for name, x in named_tensors(inputs):
        assert torch.equal(x, before[name]), name


@pytest.mark.parametrize("op", [op for op, cases in CASES.items() if cases.differentiable])
def test_gradcheck_of_the_oracle(op):
    cases = CASES[op]
    case = min(
        (case for case in cases.tests if case.sizes["B"] > 0),
        key=lambda case: sum(x.numel() for _, x in named_tensors(cases.make_inputs(case.sizes, Maker()))),
    )
    inputs = cases.make_inputs(case.sizes, Maker(dtype=torch.float64))
    leaves = [
        x.requires_grad_()
        for name, x in named_tensors(inputs)
        if x.is_floating_point() and name.rsplit(".", 1)[-1] not in cases.no_grad
    ]

    def run(*_leaves):
        outputs = cases.call(inputs, "reference")
        return tuple(out for out in (outputs if isinstance(outputs, tuple) else (outputs,)) if out.requires_grad)

    assert torch.autograd.gradcheck(run, leaves)


@pytest.mark.parametrize("mode", range(4))
def test_opcheck_masks(mode, need_impl):
    need_impl("random_masking", "cpu")
    torch.library.opcheck(torch.ops.xmae_fast.masks_philox.default, (torch.tensor([1, 2]), 4, 25, 20, mode))
    draws = torch.rand(4, 25), torch.randint(0, 6, (4,)), torch.rand(4)
    torch.library.opcheck(torch.ops.xmae_fast.masks_from_draws.default, (*draws, 20, mode))
