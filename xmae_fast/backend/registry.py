"""What the operators have declared: their names, their implementations, and which of these can be used here.

The folder of an operator calls `declare` once, and `register` once for each implementation that it has.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Literal, NamedTuple

import torch

from xmae_fast.backend.extensions import EXTENSION_REASON

IMPLS = ("reference", "cpu", "triton", "cuda")
_IN_MODEL: dict[str, bool] = {}  # every operator, in the order of declaration: whether a model's forward runs it
_OPERATORS: dict[tuple[str, str], tuple[str, ...]] = {}
LIMITS: dict[tuple[str, str], Callable[..., str]] = {}  # see `register`
IN_BFLOAT16: set[str] = set()  # operators whose kernels for the CPU have bfloat16 ones for inference
TRAINED_IN_BFLOAT16: set[str] = set()  # those among them that have such kernels for training under autocast too
USABLE: dict[tuple[str, str], bool] = {}  # found out once, so that torch.compile sees no more than a dictionary
NOT_AUTOMATIC: dict[tuple[str, str], str] = {}
"""Implementations, as (operator, implementation), that "auto" passes over, and why; an explicit choice takes them.

They serve a part of an operator's cases, so generic tests and benchmarks leave them out and have others for them.
"""
_LEFT_OUT: dict[tuple[str, str], str] = {}  # why this process does without an implementation that is here


class Availability(NamedTuple):
    """Whether an implementation can be used in this installation; `reason` is empty when it can."""

    usable: bool
    reason: str


def declare(op: str, *, in_model: bool = True) -> None:
    """Make `op` known. Operators are named everywhere in the order in which they were declared.

    Args:
        op: the name of the operator, which is that of its folder in xmae_fast/ops.
        in_model: whether a model's forward runs it.
    """
    _IN_MODEL[op] = in_model


def register(
    op: str,
    impl: str,
    operators: tuple[str, ...],
    *,
    automatic: Literal[True] | str = True,
    bfloat16: str = "",
    bfloat16_training: tuple[str, ...] = (),
    limit: Callable[..., str] | None = None,
) -> None:
    """Declare that `op` has an implementation.

    Args:
        op: the name of a declared operator.
        impl: "cpu", "triton" or "cuda".
        operators: names of the operators `xmae_fast::<name>` that it consists of.
        automatic: whether impl="auto" may choose it; if not, the reason why only an explicit choice takes it.
        bfloat16: the name of one more operator, for inference in bfloat16 on a CPU; '' without.
        bfloat16_training: the names of more operators, for training in bfloat16 on a CPU under autocast.
        limit: says why the kernels do not serve a call, '' if they do. Its arguments are the `call` that the operator
            passes to `resolve`.
    """
    if op not in _IN_MODEL:
        raise ValueError(f"register: expected a declared operator ({', '.join(_IN_MODEL)}), got {op!r}")
    _OPERATORS[op, impl] = (*operators, *([bfloat16] if bfloat16 else []), *bfloat16_training)
    if bfloat16:
        IN_BFLOAT16.add(op)
    if bfloat16_training:
        TRAINED_IN_BFLOAT16.add(op)
    USABLE[op, impl] = not why_not(op, impl)
    if automatic is not True:
        NOT_AUTOMATIC[op, impl] = automatic
    if limit is not None:
        LIMITS[op, impl] = limit


def leave_out(op: str, impl: str, why: str) -> None:
    """From now on, let this process do without `impl` for `op`; `why` is what errors and `explain` say."""
    _LEFT_OUT[op, impl] = why
    USABLE[op, impl] = False


def operator_names(*, in_model: bool = False) -> tuple[str, ...]:
    """The declared operators in order; `in_model`: only those that a model's forward runs."""
    return tuple(op for op, is_run in _IN_MODEL.items() if is_run or not in_model)


def has(op: str, impl: str) -> bool:
    """Whether this version of xmae_fast has kernels of `impl` for `op`."""
    return (op, impl) in _OPERATORS


def is_usable(op: str, impl: str) -> bool:
    """Whether an implementation can be used in this installation."""
    return USABLE.get((op, impl), False)


def why_not(op: str, impl: str) -> str:
    """Why an implementation cannot be used in this installation, or ''."""
    if impl == "reference":
        return ""
    if (op, impl) in _LEFT_OUT:
        return _LEFT_OUT[op, impl]
    if not has(op, impl):
        return f"{op} has no {impl} kernels in this version of xmae_fast"
    if impl == "triton":
        return "" if _is_installed("triton") else "triton is not installed (pip install xmae-fast[triton])"
    if reason := EXTENSION_REASON.get(impl, ""):
        return reason
    for name in (f"xmae_fast::{operator}" for operator in _OPERATORS[op, impl]):
        if not torch._C._dispatch_has_kernel_for_dispatch_key(name, impl.upper()):
            return f"the built C++ operators are older than the Python code and lack {name}: reinstall xmae_fast"
    return ""


def _is_installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except (ImportError, ValueError):  # hidden by an import hook, or half imported
        return False


def available() -> dict[str, dict[str, Availability]]:
    """What exists in this installation: `available()["random_masking"]["cpu"].usable`, and `.reason` if not.

    Returns:
        By operator, then by implementation: whether it can be used, and why not.
    """
    return {op: {impl: Availability(not (why := why_not(op, impl)), why) for impl in IMPLS} for op in _IN_MODEL}
