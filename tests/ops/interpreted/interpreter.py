"""Triton's interpreter in half its time, and with products that do not depend on the processor.

Two things that it does again and again to no effect are left out:

- Every addition, subtraction and multiplication of integers below 64 bits is done again in 64 bits and compared with
  the type's bounds; the outcome goes to an assertion that is only there in Triton's debug mode. (That no offset
  leaves 32 bits is proved for all grids by tests/ops/test_triton_compiled.py.)
- Every call of a device function replaces the functions of `triton.language` by the interpreter's again, although the
  launch has done so.

`tl.dot` is computed in float64 and rounded once. BLAS in float32 sums some rows of a product in another order than
others (OpenBLAS for AVX2 does), as no GPU does: rows that are equal then differ by rounding, which a BatchNorm without
variance makes 300 times as large.
"""

from __future__ import annotations

import dataclasses
import functools
from types import ModuleType
from typing import Any

import numpy as np
import triton.language as tl
from triton.runtime import interpreter

_NEEDED = ("_patch_lang", "_LangPatchScope", "interpreter_builder", "GridExecutor")


def shorten() -> bool:
    """Leave both out, from now on and in this process. False: this Triton is built differently and stays as it is."""
    options = getattr(getattr(interpreter, "interpreter_builder", None), "options", None)
    if not all(hasattr(interpreter, name) for name in _NEEDED) or not hasattr(options, "sanitize_overflow"):
        return False
    if not options.debug:
        interpreter.interpreter_builder.options = dataclasses.replace(options, sanitize_overflow=False)
    interpreter._patch_lang = _once_a_launch(interpreter._patch_lang)
    return True


def round_products_once() -> None:
    """Compute `tl.dot` in float64, from now on and in this process."""

    def create_dot(a: Any, b: Any, d: Any) -> Any:
        wide = np.matmul(a.data, b.data, dtype=np.float64)
        return interpreter.TensorHandle(wide.astype(d.data.dtype) + d.data, d.dtype.scalar)

    builder: Any = interpreter.InterpreterBuilder
    builder.create_dot = lambda _self, a, b, d, *_precision: create_dot(a, b, d)


def _once_a_launch(patch: Any) -> Any:
    """`_patch_lang` that replaces a module's functions once in each launch.

    A launch patches first and calls `restore` last. Device functions patch in between and never restore.
    """
    patched: set[ModuleType] = set()

    @functools.wraps(patch)
    def patch_lang(fn: Any) -> Any:
        modules = _modules(fn)
        if modules <= patched:
            return interpreter._LangPatchScope()  # with nothing to restore
        scope = patch(fn)
        restore = scope.restore
        patched.update(modules)

        def and_forget() -> None:
            patched.clear()
            restore()

        scope.restore = and_forget
        return scope

    return patch_lang


@functools.cache
def _modules(fn: Any) -> frozenset[ModuleType]:
    """Those of Triton's language that a function sees by name, which are what `_patch_lang` patches."""
    return frozenset(value for value in fn.__globals__.values() if value is tl or value is tl.core)
