"""Runs the CPU kernels of one instruction set within a `with` block."""

from __future__ import annotations

import pytest

from xmae_fast.backend import use_cpu_kernels

SETS = ("baseline", "avx2", "avx512")


def on(name: str):
    """A context in which the kernels of that instruction set run; skips where the processor lacks it."""
    try:
        with use_cpu_kernels(name):
            pass
    except RuntimeError as error:
        pytest.skip(str(error).splitlines()[0])
    return use_cpu_kernels(name)
