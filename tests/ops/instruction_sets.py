"""Runs the CPU kernels of one instruction set within a `with` block."""

from __future__ import annotations

import pytest

from xmae_fast.backend import use_cpu_kernels

SETS = ("baseline", "avx2", "avx512")
HEIGHTS = ("avx512", "avx512_rows13", "avx512_rows14")  # the same code; register tiles of at most 12, 13 and 14 rows
TABLES = (*SETS, *HEIGHTS[1:])


def on(name: str):
    """A context in which the kernels of that name run; skips where the processor lacks their instruction set."""
    try:
        with use_cpu_kernels(name):
            pass
    except RuntimeError as error:
        pytest.skip(str(error).splitlines()[0])
    return use_cpu_kernels(name)
