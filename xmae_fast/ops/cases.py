"""The form in which an operator's inputs, sizes and cost are described once, for tests and for benchmarks.

Each `ops/<op>/cases.py` defines `CASES: OpCases`; `all_cases()` collects them.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from xmae_fast import backend

Sizes = Mapping[str, Any]


class Maker:
    """Makes the tensors of one case: seeded, in one dtype, on one device."""

    def __init__(self, seed: int = 0, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu") -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.dtype, self.device = dtype, torch.device(device)

    def normal(self, *shape: int, std: float = 1.0, mean: float = 0.0) -> Tensor:
        """Normal numbers; drawn in float32, so that every dtype gets the same ones up to rounding."""
        x = torch.randn(shape, generator=self.generator) * std + mean
        return x.to(self.device, self.dtype)

    def uniform(self, *shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        x = torch.rand(shape, generator=self.generator) * (high - low) + low
        return x.to(self.device, self.dtype)

    def weight(self, *shape: int) -> Tensor:
        """Normal numbers scaled by the inverse root of the fan-in (all dimensions but the first)."""
        fan_in = int(torch.tensor(shape[1:]).prod()) or 1
        return self.normal(*shape, std=fan_in**-0.5)

    def ids(self, B: int, N: int, kept: int) -> tuple[Tensor, Tensor]:
        """ids_keep [B, kept] ascending and ids_restore [B, N] of random patches."""
        order = torch.rand(B, N, generator=self.generator).argsort(1)
        order = torch.cat([order[:, :kept].sort(1).values, order[:, kept:].sort(1).values], dim=1)
        return order[:, :kept].contiguous().to(self.device), order.argsort(1).to(self.device)


def flat_rows(x: Tensor) -> Tensor:
    """Rows that hardly vary, from x [B, N, D]: all columns have the first number of the row, and in every other row
    they are changed by about 1e-4 of it."""
    first, varies = x[..., :1], (torch.arange(x.shape[1], device=x.device) % 2).to(x.dtype)[:, None]
    return first * (1 + 1e-4 * varies * x)


@dataclass(frozen=True)
class Case:
    """One set of sizes of an operator."""

    name: str
    sizes: Sizes


@dataclass(frozen=True)
class OpCases:
    """An operator as tests and benchmarks see it.

    Attributes:
        op: its name in `backend.OPS`.
        make_inputs: sizes and a Maker -> keyword arguments; tensors may be nested in tuples.
        call: keyword arguments and impl -> a tensor or a tuple of tensors, through the public function.
        oracle: keyword arguments -> the same results from reference.py, without checks or dispatch.
        tests: small and hostile cases.
        benches: the sizes worth measuring.
        flops: sizes -> number of floating-point operations.
        bytes_moved: sizes -> the fewest bytes that must move, in float32.
        no_grad: names of arguments (or fields of nested tuples) whose gradient is not asked for.
        exact: results must be equal bit for bit (copies and integers).
        differentiable: whether a backward exists.
    """

    op: str
    make_inputs: Callable[[Sizes, Maker], dict[str, Any]]
    call: Callable[[dict[str, Any], str], Any]
    oracle: Callable[[dict[str, Any]], Any]
    tests: tuple[Case, ...]
    benches: tuple[Case, ...]
    flops: Callable[[Sizes], int]
    bytes_moved: Callable[[Sizes], int]
    no_grad: tuple[str, ...] = ()
    exact: bool = False
    differentiable: bool = True


def cases(*sizes: Sizes) -> tuple[Case, ...]:
    """Cases named after their sizes."""
    return tuple(Case("-".join(f"{key}{value}" for key, value in size.items()), size) for size in sizes)


def all_cases() -> dict[str, OpCases]:
    """The OpCases of every operator, by name."""
    return {op: importlib.import_module(f"xmae_fast.ops.{op}.cases").CASES for op in backend.OPS}
