"""Checks of inference in bfloat16 against the float64 oracle.

The budget is derived, as in `numerics`: an implementation may be off by at most twice what PyTorch's own bfloat16 is,
relative to the norm of the float64 result, and by nothing more. Stock bfloat16 is plain PyTorch under
`torch.autocast(torch.bfloat16)` for float32 tensors, and plain PyTorch on bfloat16 tensors.

bfloat16 has so few bits that moving the inputs by their rounding changes no intermediate rounding, so the draws of
stock bfloat16 are inputs of the same sizes from several seeds: the largest error is that of the problem and not of one
run, which can be right by luck where a result is a few numbers. They are drawn with oneDNN and without it, and the
smaller of both errors counts, because either can be wrong: the oneDNN of torch 2.13 computes a bfloat16 convolution
with 8 channels, kernel and stride of 8 with an error of 50 %.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache
from typing import Any

import torch

from xmae_fast.ops.cases import Case, Maker, OpCases
from xmae_fast.testing.numerics import Error, _map_tensors, relative_error

SEEDS = range(8)  # of the inputs on which stock bfloat16 is measured


def check_bfloat16(
    cases: OpCases,
    case: Case,
    run: Callable[[dict[str, Any]], Any],
    *,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    prepare: Callable[[dict[str, Any]], dict[str, Any]] = dict,
) -> Error:
    """Compare the result of `run(inputs)`, without gradients, with the float64 oracle on one case, on the CPU.

    Args:
        cases, case: an operator with one result, and its sizes.
        run: inputs -> the result, e.g. lambda inputs: cases.call(inputs, "cpu").
        seed: of the inputs.
        dtype: of the inputs; torch.float32 for a call under autocast, or torch.bfloat16.
        prepare: applied to the inputs of `run`; e.g. `hostile_layout`, which changes strides but no values.

    Returns:
        The error and its bound.

    Raises:
        AssertionError: the error is out of bounds.
    """
    sizes = tuple((key, value) for key, value in case.sizes.items())
    bound = 2 * _stock_error(_Key(cases), sizes, dtype)
    error = Error("output 0", _error(cases, case, run, seed, dtype, prepare), bound)
    if not error.error <= error.bound:
        found = f"relative error {error.error:.2e}, allowed {error.bound:.2e}"
        raise AssertionError(f"{cases.op} {case.name} in bfloat16 differs from the float64 oracle: {found}")
    return error


class _Key:
    """An OpCases as an argument of a cached function."""

    def __init__(self, cases: OpCases) -> None:
        self.cases = cases

    def __hash__(self) -> int:
        return hash(self.cases.op)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Key) and self.cases is other.cases


@cache
def _stock_error(key: _Key, sizes: tuple[tuple[str, Any], ...], dtype: torch.dtype) -> float:
    cases, case = key.cases, Case("", dict(sizes))
    found = []
    for onednn in (True, False):
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="TF32 acceleration on top of oneDNN")  # of Intel GPUs
            with torch.backends.mkldnn.flags(enabled=torch.backends.mkldnn.enabled and onednn):
                found.append(max(_error(cases, case, cases.oracle, seed, dtype) for seed in SEEDS))
    return min(found)


@torch.no_grad()
def _error(
    cases: OpCases,
    case: Case,
    run: Callable[[dict[str, Any]], Any],
    seed: int,
    dtype: torch.dtype,
    prepare: Callable[[dict[str, Any]], dict[str, Any]] = dict,
) -> float:
    inputs = cases.make_inputs(case.sizes, Maker(seed, dtype))
    want = cases.oracle(_map_tensors(lambda x: x.double() if x.is_floating_point() else x.clone(), inputs))
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.float32):
        return relative_error(run(prepare(inputs)), want)
