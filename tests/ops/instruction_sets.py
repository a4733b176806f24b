"""Runs the CPU kernels of one instruction set within a `with` block; those for bfloat16 are chosen by themselves."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest

from xmae_fast.backend import use_cpu_bfloat16, use_cpu_kernels

SETS = ("baseline", "avx2", "avx512")
BF16_SETS = ("amx", "avx512_bf16", "plain")
HEIGHTS = ("avx512", "avx512_rows13", "avx512_rows14")  # the same code; register tiles of at most 12, 13 and 14 rows
SPLIT = ("amx", "amx_plain")  # float32 by three bfloat16 parts: by AMX, and by loops that are too slow for large cases
TABLES = (*SETS, *HEIGHTS[1:], "amx")


def on(name: str):
    """A context in which the kernels of that name run; skips where the processor lacks their instruction set."""
    return _or_skip(use_cpu_kernels, name)


def on_bf16(name: str):
    """A context in which the bfloat16 kernels of that instruction set run; skips where the processor lacks it."""
    return _or_skip(use_cpu_bfloat16, name)


def _or_skip(use: Callable[[str], AbstractContextManager], name: str) -> AbstractContextManager:
    try:
        with use(name):
            pass
    except RuntimeError as error:
        pytest.skip(str(error).splitlines()[0])
    return use(name)
