"""How far results in bfloat16 may be from those in float64: at most twice as far as plain PyTorch under autocast."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from xmae_fast.ops.cases import Maker, OpCases, Sizes
from xmae_fast.testing import named_tensors


def cast(value: Any, dtype: torch.dtype) -> Any:
    """Copies of the floating-point tensors in a nest of dictionaries and (named) tuples, in another dtype."""
    if isinstance(value, dict):
        return {key: cast(x, dtype) for key, x in value.items()}
    if isinstance(value, tuple):
        parts = [cast(x, dtype) for x in value]
        return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
    return value.detach().to(dtype) if isinstance(value, Tensor) and value.is_floating_point() else value


def relative_error(got: Tensor, want: Tensor) -> float:
    """Distance of the two over the length of `want`, both by the Euclidean norm; the distance where that is 0."""
    distance, length = float((got.double() - want).norm()), float(want.norm())
    return distance / length if length else distance


def assert_close(name: str, got: Tensor, want: Tensor, stock: Tensor) -> None:
    """AssertionError where `got` is more than twice as far from float64 as `stock`.

    The error of a few numbers may be small by chance, so that much less counts for it the more numbers there are.
    """
    error, of_stock = relative_error(got, want), relative_error(stock, want)
    bound = 2 * of_stock + torch.finfo(torch.bfloat16).eps / 2 / max(1, want.numel()) ** 0.5
    assert error <= bound, f"{name}: error {error:.2e}, and {of_stock:.2e} of plain PyTorch under autocast"


def step(run: Callable[[dict], Tensor], inputs: dict, dtype: torch.dtype, autocast: bool = True) -> dict[str, Tensor]:
    """The output and the gradients for random gradients of the output, by name."""
    inputs = cast(inputs, dtype)
    leaves = {name: x.requires_grad_() for name, x in named_tensors(inputs) if x.is_floating_point()}
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        out = run(inputs)
    grad = torch.randn(out.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    gradients = torch.autograd.grad(out, list(leaves.values()), grad.to(out.dtype), allow_unused=True)
    named = dict(zip(leaves, gradients, strict=True))
    return {"output": out.detach()} | {name: x for name, x in named.items() if x is not None}


def check_training(
    op_cases: OpCases, sizes: Sizes, run: Callable[[dict], Tensor], oracle: Callable[[dict], Tensor]
) -> None:
    """Compares `run` under autocast, forward and backward, with `oracle` in float64 and under autocast."""
    inputs = op_cases.make_inputs(sizes, Maker(3))
    want = step(oracle, inputs, torch.float64, autocast=False)
    stock, got = step(oracle, inputs, torch.float32), step(run, inputs, torch.float32)
    assert got.keys() == want.keys()
    for name, x in want.items():
        assert got[name].dtype == torch.float32, name
        assert got[name].shape == x.shape, name
        assert_close(name, got[name], x, stock[name])
