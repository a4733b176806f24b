"""What would run and why, as text."""

from __future__ import annotations

from typing import Any

import torch

from xmae_fast.backend.choices import check_choice, choice_of
from xmae_fast.backend.errors import BackendError
from xmae_fast.backend.registry import IMPLS, NOT_AUTOMATIC, USABLE, has, operator_names, why_not
from xmae_fast.backend.resolving import DEVICE_OF, resolve


def explain(what: object = None, *, impl: str = "auto", device: torch.device | str = "cpu") -> str:
    """What would run and why.

    Args:
        what: nothing for the whole installation, the name of an operator or its function, or a model (then its own
            `impl` and device count).
        impl: the choice to explain, for operators.
        device: where the tensors would be, for operators.

    Returns:
        One line for each operator; of a model also one for each part that runs as plain modules.

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


def _explain_op(op: str, impl: str, device: torch.device, dtype: torch.dtype | None = None) -> str:
    try:
        chosen = resolve(op, impl, device, dtype)
    except BackendError as error:
        return f"{op}: nothing can run: {error}"
    missing = [name for name in IMPLS[1:] if not has(op, name)]
    others = [f"no {' or '.join(missing)} kernels in this version"] if missing else []
    existing = [name for name in IMPLS[1:] if name not in missing and name != chosen]
    others += [f"{name} not: {why}" for name in existing if (why := _not_here(op, name, device))]
    if choice_of(impl, op) == "auto":
        passed_over = [name for name in IMPLS[1:] if (op, name) in NOT_AUTOMATIC and USABLE[op, name]]
        others += [f"{name} only if asked for: {NOT_AUTOMATIC[op, name]}" for name in passed_over]
    return f"{op}: {chosen} (impl={impl!r}, {device})" + (f"; {'; '.join(others)}" if others else "")


def _not_here(op: str, impl: str, device: torch.device) -> str:
    if reason := why_not(op, impl):
        return reason
    return "" if DEVICE_OF[impl] in (None, device.type) else f"it serves {DEVICE_OF[impl]} tensors"
