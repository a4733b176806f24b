"""What would run and why, as text."""

from __future__ import annotations

import logging
from typing import Any

import torch

from xmae_fast.backend.choices import check_choice, choice_of
from xmae_fast.backend.errors import BackendError
from xmae_fast.backend.extensions import cpu_bfloat16, cpu_bfloat16_reason, cpu_kernels
from xmae_fast.backend.registry import (
    IMPLS,
    IN_BFLOAT16,
    NOT_AUTOMATIC,
    TRAINED_IN_BFLOAT16,
    USABLE,
    has,
    operator_names,
    why_not,
)
from xmae_fast.backend.resolving import DEVICE_OF, resolve

_log = logging.getLogger("xmae_fast.backend")


def explain(what: object = None, *, impl: str = "auto", device: torch.device | str = "cpu") -> str:
    """What would run and why.

    Args:
        what: nothing for the whole installation, the name of an operator or its function, or a model (then its own
            `impl` and device count).
        impl: the choice to explain, for operators.
        device: where the tensors would be, for operators.

    Returns:
        One line for each operator; of a model also one for each part that runs as plain modules. Of kernels for the CPU
        it tells the precision and the instruction set, under autocast where it is called within one.

    Raises:
        ValueError: `what` is no operator's name and no model, or `impl` is unknown.
    """
    check_choice(impl)
    if what is None:
        return "\n".join(_explain_op(op, impl, torch.device(device)) for op in operator_names())
    if isinstance(what, torch.nn.Module) and hasattr(what, "irregular"):
        model: Any = what  # an xMAE, whose class stands above this package
        first = next(model.parameters())
        lines = [_explain_op(op, model.impl, first.device, first.dtype) for op in operator_names(in_model=True)]
        lines += [f"{op}: runs as modules, because of {fault}" for op, fault in model.irregular()]
        head = f"{type(model).__name__} on {first.device} in {first.dtype}, impl={model.impl!r}:"
        return "\n".join([head, *(f"  {line}" for line in lines)])
    name, known = getattr(what, "__name__", what), operator_names()
    if not isinstance(name, str) or name not in known:
        raise ValueError(f"explain: expected an operator ({', '.join(known)}) or an xMAE model, got {what!r}")
    return _explain_op(name, impl, torch.device(device))


def note_implementations(model: torch.nn.Module) -> None:
    """Log at DEBUG what runs a model; see `explain`. Under autocast it is called within it."""
    if _log.isEnabledFor(logging.DEBUG):
        for line in explain(model).splitlines():
            _log.debug("%s", line)


def _explain_op(op: str, impl: str, device: torch.device, dtype: torch.dtype | None = None) -> str:
    try:
        chosen = resolve(op, impl, device, dtype, inference=True)
    except BackendError as error:
        return f"{op}: nothing can run: {error}"
    missing = [name for name in IMPLS[1:] if not has(op, name)]
    others = [f"no {' or '.join(missing)} kernels in this version"] if missing else []
    existing = [name for name in IMPLS[1:] if name not in missing and name != chosen]
    others += [f"{name} not: {why}" for name in existing if (why := _not_here(op, name, device, dtype))]
    if choice_of(impl, op) == "auto":
        passed_over = [name for name in IMPLS[1:] if (op, name) in NOT_AUTOMATIC and USABLE[op, name]]
        others += [f"{name} only if asked for: {NOT_AUTOMATIC[op, name]}" for name in passed_over]
    how = f", {_precision(op, dtype)}" if chosen == "cpu" else ""
    return f"{op}: {chosen} (impl={impl!r}, {device}){how}" + (f"; {'; '.join(others)}" if others else "")


def describe_bfloat16() -> str:
    """The instruction set of the CPU's bfloat16 kernels, or why float32 kernels serve in their place."""
    return cpu_bfloat16() or f"none, because {_why_no_bfloat16()}"


def _why_no_bfloat16() -> str:
    return cpu_bfloat16_reason() or "they were switched off (use_cpu_bfloat16)"


def _precision(op: str, dtype: torch.dtype | None) -> str:
    """What kernels for the CPU compute in, and by which instructions. dtype: of the model; None: float32."""
    float32 = f"float32 by {cpu_kernels()}"
    if op not in IN_BFLOAT16:
        return float32
    autocast = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else None
    name = cpu_bfloat16()
    if torch.bfloat16 not in (autocast, dtype):
        also = f", under autocast to {autocast} too" if autocast is not None else ""
        other = f"bfloat16 by {name} when asked for" if name else f"bfloat16 not: {_why_no_bfloat16()}"
        return f"{float32}{also}, {other}"
    if not name:
        return f"{float32} under autocast too, bfloat16 not: {_why_no_bfloat16()}"
    if dtype == torch.bfloat16:
        return f"bfloat16 by {name}, reference where gradients are wanted"
    gradients = "" if op in TRAINED_IN_BFLOAT16 else f", {float32} where gradients are wanted"
    return f"bfloat16 by {name} now, under autocast{gradients}"


def _not_here(op: str, impl: str, device: torch.device, dtype: torch.dtype | None) -> str:
    if reason := why_not(op, impl):
        return reason
    if DEVICE_OF[impl] not in (None, device.type):
        return f"it serves {DEVICE_OF[impl]} tensors"
    if impl != "cpu" or dtype in (None, torch.float32):
        return ""
    also = f", and bfloat16 not: {_why_no_bfloat16()}" if op in IN_BFLOAT16 and dtype == torch.bfloat16 else ""
    return f"it computes in torch.float32{also}"
