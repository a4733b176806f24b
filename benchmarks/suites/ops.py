"""Every operator on its benchmark sizes: each usable implementation, forward and forward + backward.

Implementations that "auto" passes over, which compute in 16 bits only, have groups of their own: here those of
evaluation, and of training those of suites/stems.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache, partial

import torch

from benchmarks.harness.contest import OURS, PLAIN, Contestant, Group
from benchmarks.harness.context import ROTATION, Context
from benchmarks.harness.timing import Run
from benchmarks.suites import masks
from xmae_fast import backend
from xmae_fast.ops.cases import Case, Maker, OpCases, all_cases
from xmae_fast.testing import Error, check_op, named_tensors

QUICK_B = 16


def groups(context: Context) -> Iterator[Group]:
    """One per size and direction; random_masking also against the published procedure."""
    for op, cases in all_cases().items():
        impls = usable_impls(op, context.device)
        for case in _sizes(cases, context.quick):
            check = _checker(cases, case, context.device)
            yield _group(cases, case, impls, check, context.device, backward=False)
            if cases.differentiable and case.sizes.get("training", True):
                yield _group(cases, case, impls, check, context.device, backward=True)
        yield from _bfloat16_groups(cases, context)
    yield from masks.groups(context)


def usable_impls(
    op: str, device: torch.device, *, automatic: bool = True, dtype: torch.dtype | None = None
) -> list[str]:
    """Implementations of an operator that run here, the reference first.

    Args:
        automatic: those that "auto" may take; otherwise those that it passes over.
    """
    usable = []
    for impl in backend.IMPLS:
        if automatic == ((op, impl) in backend.NOT_AUTOMATIC):
            continue
        try:
            backend.check_usable(op, impl, device, dtype)
        except backend.BackendError:
            continue
        usable.append(impl)
    return usable


def _bfloat16_groups(cases: OpCases, context: Context) -> Iterator[Group]:
    """Evaluation in bfloat16, where an implementation that "auto" passes over runs here: it and all others."""
    device, dtype = context.device, torch.bfloat16
    passed_over = usable_impls(cases.op, device, automatic=False, dtype=dtype)
    if not passed_over:
        return
    impls, cases = usable_impls(cases.op, device, dtype=dtype) + passed_over, replace(cases, differentiable=False)
    for case in _sizes(cases, context.quick):
        if not case.sizes.get("training", False):
            check = _checker(cases, case, device, dtype)
            yield _group(cases, case, impls, check, device, backward=False, dtype=dtype)


def _sizes(cases: OpCases, quick: bool) -> tuple[Case, ...]:
    """The benchmark sizes; quick: the first of them, in a smaller batch where there is arithmetic."""
    if not quick:
        return cases.benches
    sizes = dict(cases.benches[0].sizes)
    if cases.flops(sizes):
        sizes["B"] = min(sizes["B"], QUICK_B)
    return (Case("-".join(f"{key}{value}" for key, value in sizes.items()), sizes),)


def _checker(
    cases: OpCases, case: Case, device: torch.device, dtype: torch.dtype = torch.float32
) -> Callable[[str], list[Error]]:
    """impl -> errors of results and gradients; both directions share one check."""

    @cache
    def check(impl: str) -> list[Error]:
        return check_op(cases, case, lambda inputs: cases.call(inputs, impl), dtype=dtype, device=device, draws=1)

    return check


def _group(
    cases: OpCases,
    case: Case,
    impls: list[str],
    check: Callable[[str], list[Error]],
    device: torch.device,
    backward: bool,
    dtype: torch.dtype = torch.float32,
) -> Group:
    def contestant(impl: str) -> Contestant:
        make = _backward_run if backward else partial(_forward_run, dtype=dtype)
        role = PLAIN if impl == "reference" else OURS
        return Contestant(impl, lambda: make(cases, case, impl, device), lambda run: check(impl), role)

    sizes = " ".join(f"{key}={value}" for key, value in case.sizes.items())
    named = "" if dtype == torch.float32 else f", {str(dtype).removeprefix('torch.')}"
    return Group(
        title=f"{cases.op} {'forward + backward' if backward else 'forward'}{named}: {sizes}",
        contestants=[contestant(impl) for impl in impls],
        flops=cases.flops(case.sizes) * (3 if backward else 1),
        bytes_moved=0 if backward else cases.bytes_moved(case.sizes) * dtype.itemsize // torch.float32.itemsize,
        cold=True,
    )


def _inputs(cases: OpCases, case: Case, device: torch.device, dtype: torch.dtype = torch.float32) -> list[dict]:
    return [cases.make_inputs(case.sizes, Maker(seed, dtype, device)) for seed in range(ROTATION)]


def _forward_run(cases: OpCases, case: Case, impl: str, device: torch.device, dtype: torch.dtype) -> Run:
    inputs = _inputs(cases, case, device, dtype)

    @torch.no_grad()
    def run(i: int):
        return cases.call(inputs[i % ROTATION], impl)

    return run


def _backward_run(cases: OpCases, case: Case, impl: str, device: torch.device) -> Run:
    inputs = _inputs(cases, case, device)
    leaves = []
    for one in inputs:
        named = ((name.rsplit(".", 1)[-1], x) for name, x in named_tensors(one) if x.is_floating_point())
        leaves.append([x.requires_grad_() for name, x in named if name not in cases.no_grad])
    maker = Maker(ROTATION, device=device)

    def outputs(i: int):
        result = cases.call(inputs[i % ROTATION], impl)
        return [x for x in (result if isinstance(result, tuple) else (result,)) if x.requires_grad]

    cotangents = [maker.normal(*x.shape) for x in outputs(0)]

    def run(i: int):
        return torch.autograd.grad(outputs(i), leaves[i % ROTATION], cotangents, allow_unused=True)

    return run
