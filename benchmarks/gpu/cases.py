"""The case of each operator that the first look takes: small, forward and backward, what training uses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from xmae_fast import ops
from xmae_fast.ops.cases import Case, OpCases, all_cases
from xmae_fast.ops.conv_stem import reference
from xmae_fast.ops.conv_stem.cases import make_inputs

EVALUATION, BOTH_STEMS = "conv_stem evaluation", "conv_stems"  # of the CUDA C++ operators, beside the operators' names


def case_of(op: str, impl: str, runs: str) -> tuple[OpCases, Case, Callable[[dict[str, Any]], Any]]:
    """Cases, case and the run of it for `testing.check_op`.

    Args:
        op: an operator, EVALUATION or BOTH_STEMS.
        impl: what the case is chosen for.
        runs: the implementation that is run, another one in a rehearsal.
    """
    if op == EVALUATION:
        cases = replace(all_cases()["conv_stem"], differentiable=False)
        return (
            cases,
            _stem("B7-L200-S32, evaluation", training=False),
            lambda inputs: _without_grad(cases, inputs, runs),
        )
    if op == BOTH_STEMS:
        cases = both_stems()
        return cases, cases.tests[0], lambda inputs: cases.call(inputs, runs)
    cases = all_cases()[op]
    case = next(one for one in cases.tests if one.sizes.get("training", True))
    if impl == "cuda":  # whose training gives no gradient of x, and which wants 32 channels
        cases, case = replace(cases, no_grad=(*cases.no_grad, "x")), _stem("B7-L200-S32, training", training=True)
    return cases, case, lambda inputs: cases.call(inputs, runs)


def both_stems() -> OpCases:
    """`ops.conv_stems`: a PPG and an ECG of different batch and length in training."""

    def make(sizes, maker) -> dict[str, Any]:
        made = [make_inputs({**sizes, "B": B, "L": L}, maker) for B, L in sizes["stems"]]
        return {"first": made[0]["x"], "second": made[1]["x"], "params": tuple(one["params"] for one in made)}

    def call(inputs: dict[str, Any], impl: str) -> tuple[torch.Tensor, ...]:
        xs = inputs["first"], inputs["second"]
        return tuple(ops.conv_stems(xs, inputs["params"], training=True, impl=impl))

    def oracle(inputs: dict[str, Any]) -> tuple[torch.Tensor, ...]:
        pairs = zip((inputs["first"], inputs["second"]), inputs["params"], strict=True)
        return tuple(reference.conv_stem(x, params, True) for x, params in pairs)

    stem = all_cases()["conv_stem"]
    sizes = {"stems": ((7, 200), (5, 70)), "S": 32, "training": True}
    return replace(
        stem, op=BOTH_STEMS, make_inputs=make, call=call, oracle=oracle, tests=(Case("B7-L200 and B5-L70", sizes),),
        no_grad=(*stem.no_grad, "first", "second"),
    )  # fmt: skip


def _stem(name: str, *, training: bool) -> Case:
    return Case(name, {"B": 7, "L": 200, "S": 32, "training": training})


def _without_grad(cases: OpCases, inputs: dict[str, Any], impl: str) -> Any:
    with torch.no_grad():
        return cases.call(inputs, impl)
