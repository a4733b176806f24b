"""Training of the stem on signals that hardly vary, at the published length, is as near to float64 as plain PyTorch.

Where a channel is constant, BatchNorm multiplies whatever rounding left of it by up to 316.
"""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from xmae_fast.ops.cases import Maker
from xmae_fast.ops.conv_stem.cases import CASES, SIGNALS
from xmae_fast.testing import relative_error
from xmae_fast.testing.numerics import _map_tensors, _run

SIZES = {"B": 4, "L": 1000, "S": 32, "training": True}
ROUNDINGS = 3


def results(inputs: dict[str, Any], run: Callable[[dict[str, Any]], Tensor]) -> dict[str, Tensor]:
    """Features, all running means, all running variances, all gradients of weights and so on, each kind end to end.

    Without the skip path's gradients: of a constant they vanish, and there is nothing to be relative to.
    """
    parts = defaultdict(list)
    for name, x in _run(CASES, inputs, run).items():
        if not name.endswith("num_batches_tracked") and not name.startswith("gradient params.skip"):
            parts[f"{name.split()[0]} {name.rsplit('.', 1)[-1]}"].append(x.double().flatten())
    return {kind: torch.cat(xs) for kind, xs in parts.items()}


@functools.cache
def yardstick(signal: str) -> tuple[dict[str, Tensor], dict[str, float]]:
    """Results in float64, and the bound of each kind's error: twice plain PyTorch's own, plus four units of rounding.

    The plain path's error is the largest of several runs that move every weight within its rounding, and the signal
    not: it would be constant no more.
    """
    inputs = CASES.make_inputs({**SIZES, "signal": signal}, Maker(1))
    exact = _map_tensors(lambda x: x.double() if x.is_floating_point() else x.clone(), inputs)
    want = results(exact, CASES.oracle)
    draws = torch.Generator().manual_seed(2)

    def moved(x: Tensor) -> Tensor:
        move = torch.rand(x.shape, generator=draws) - 0.5
        return x + x * move * torch.finfo(x.dtype).eps if x.is_floating_point() else x.clone()

    bounds = dict.fromkeys(want, 0.0)
    for _ in range(ROUNDINGS):
        plain = results(inputs | {"params": _map_tensors(moved, inputs["params"])}, CASES.oracle)
        for kind, x in want.items():
            bound = 2 * relative_error(plain[kind], x) + 4 * torch.finfo(torch.float32).eps
            bounds[kind] = max(bounds[kind], bound)
    return want, bounds


@pytest.mark.parametrize("signal", list(SIGNALS)[1:])
def test_stem_in_training(kernels, signal, need_impl):
    need_impl("conv_stem", "cpu")
    torch.set_num_threads(1)
    want, bounds = yardstick(signal)
    got = results(CASES.make_inputs({**SIZES, "signal": signal}, Maker(1)), lambda x: CASES.call(x, "cpu"))
    errors = {kind: relative_error(got[kind], x) for kind, x in want.items()}
    assert {kind: (error, bounds[kind]) for kind, error in errors.items() if not error <= bounds[kind]} == {}
