"""How a Triton kernel is checked in the interpreter: all cases of an operator, hostile layouts, poisoned memory."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest
import torch

from xmae_fast.ops._launch import forced_config
from xmae_fast.ops.cases import Case, OpCases
from xmae_fast.testing import check_op, hostile_layout

CONFIGS = (0, 1, 2)  # which configuration each launch takes, modulo how many its kernel has


@contextlib.contextmanager
def poisoned_memory() -> Iterator[None]:
    """Within it torch fills uninitialised memory with NaN or the largest integer."""
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


def check(cases: OpCases, case: Case, *, dtype: torch.dtype = torch.float32, config: int = 0, seed: int = 2) -> None:
    """Results and gradients of impl="triton" against the oracle, from hostile layouts, into poisoned memory."""
    with poisoned_memory(), forced_config(config):
        check_op(
            cases, case, lambda inputs: cases.call(inputs, "triton"), dtype=dtype, seed=seed, prepare=hostile_layout
        )


def each(cases: OpCases, extra: tuple[Case, ...] = ()) -> pytest.MarkDecorator:
    """Parametrise a test by the operator's cases and `extra` ones."""
    return pytest.mark.parametrize("case", [pytest.param(case, id=case.name) for case in (*cases.tests, *extra)])
