"""Whether a call of a module does more than the `forward` of its class: hooks, patched methods, a compiled call."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.nn.modules import module as torch_module

HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
GLOBAL_HOOKS = tuple(getattr(torch_module, f"_global{name}") for name in HOOKS)
CALLS = nn.Module.__call__, nn.Module._call_impl, nn.Conv1d._conv_forward
_PATCHED = ("forward", "__call__", "_call_impl", "_conv_forward", "_check_input_dim")  # on instances


def own_forward(module: nn.Module, kind: type[nn.Module]) -> str:
    """Why calling `module` does not run the forward of `kind`, or ''."""
    if not isinstance(module, kind) or type(module).forward is not kind.forward:
        return f"it is a {type(module).__name__}, not a {kind.__name__}"
    return "its forward is patched" if "forward" in module.__dict__ else ""


def heads_of(model: nn.Module) -> tuple[int, ...]:
    """The number of heads of each attention, a setting that kernels take as it is."""
    return tuple(part.num_heads for part in model.modules() if isinstance(part, nn.MultiheadAttention))


def first_hook(model: nn.Module) -> str:
    """'<name>: <reason>' of the first module whose call does more than its forward, or ''."""
    if reason := global_reason():
        return reason
    return next((f"{name}: {why}" for name, part in model.named_modules() if (why := own_reason(part))), "")


def global_reason() -> str:
    """Why a call of any module does more than the `forward` of its class, or ''."""
    if any(GLOBAL_HOOKS):
        return "a hook of all modules is registered (torch.nn.modules.module.register_module_*_hook)"
    if torch.compiler.is_compiling() or calls() == CALLS:
        return ""
    return "a method of torch.nn.Module or Conv1d is patched"


def calls() -> tuple[Callable, ...]:
    """The methods of torch through which every call goes, as they are now."""
    return nn.Module.__call__, nn.Module._call_impl, nn.Conv1d._conv_forward


def own_reason(module: nn.Module) -> str:
    """Why a call of `module` does more than the `forward` of its class, or ''."""
    own = module.__dict__
    for name in HOOKS:
        if own.get(name):
            return f"it has {name[1:].replace('_', ' ')}"
    for name in _PATCHED:
        if name in own:
            return f"its {name} is patched"
    if own.get("_compiled_call_impl") is not None:
        return "it is compiled by itself"
    return ""
