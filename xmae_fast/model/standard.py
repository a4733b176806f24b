"""Whether modules are the standard ones that a kernel computes, found out at every call.

The modules are the model: each part has a `forward` that computes with its children. A kernel is a faster way to
compute exactly the standard structure, so before it takes the work of a span of modules, `Span.fault` says why it must
not: a module of another class, another setting (the eps of a BatchNorm), a hook, a patched `forward`, a parametrised
weight.

Comparing 140 modules one by one takes longer than a kernel takes for a segment. Therefore a span that has passed leaves
a stamp: flat lists of all that was looked at, which the next call compares without leaving C. Where anything differs,
the modules are looked at again. Nothing is assumed to stay as it was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from xmae_fast import backend
from xmae_fast.backend import choice_of
from xmae_fast.model.calls import global_reason, own_reason
from xmae_fast.model.stamp import FORWARD_OF, Stamp

_PLAIN_TENSORS = {nn.Parameter, Tensor}
_FORWARDS: dict[type[nn.Module], tuple] = {}  # the methods of each standard class, before anybody could patch them


@dataclass(frozen=True)
class Standard:
    """The class, settings and tensors that a module must have for a kernel to compute it.

    Attributes:
        kind: its exact class.
        settings: attributes that must have these values.
        tensors: parameters and buffers that must be there, as plain tensors; absent: those that must be None.
        children: by name, and no others; `each` is what every child of a ModuleList must be.
        kernel_size: last size of `weight`, for convolutions.
    """

    kind: type[nn.Module]
    settings: Mapping[str, Any] = field(default_factory=dict)
    tensors: tuple[str, ...] = ()
    absent: tuple[str, ...] = ()
    children: Mapping[str, Standard] = field(default_factory=dict)
    each: Standard | None = None
    kernel_size: int | None = None

    def __post_init__(self) -> None:
        _FORWARDS.setdefault(self.kind, FORWARD_OF(self.kind))


def conv(k: int, stride: int = 1, padding: int | None = None, bias: bool = False) -> Standard:
    """Conv1d; `padding` is k // 2 unless given."""
    settings = {
        "stride": (stride,), "padding": (k // 2 if padding is None else padding,), "dilation": (1,), "groups": 1,
        "padding_mode": "zeros",
    }  # fmt: skip
    tensors, absent = (("weight", "bias"), ()) if bias else (("weight",), ("bias",))
    return Standard(nn.Conv1d, settings, tensors, absent, kernel_size=k)


BATCH_NORM = Standard(
    nn.BatchNorm1d, {"eps": 1e-5, "track_running_stats": True},
    ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"),
)  # fmt: skip
LAYER_NORM = Standard(nn.LayerNorm, {"eps": 1e-5}, ("weight", "bias"))
LINEAR = Standard(nn.Linear, tensors=("weight", "bias"))
SILU, DROPOUT = Standard(nn.SiLU), Standard(nn.Dropout)
GELU = Standard(nn.GELU, {"approximate": "none"})
ATTENTION = Standard(
    nn.MultiheadAttention,
    {"batch_first": True, "_qkv_same_embed_dim": True, "add_zero_attn": False, "bias_k": None, "bias_v": None},
    ("in_proj_weight", "in_proj_bias"),
    children={"out_proj": Standard(NonDynamicallyQuantizableLinear, tensors=("weight", "bias"))},
)


def sequential(*parts: Standard) -> Standard:
    return Standard(nn.Sequential, children={str(number): part for number, part in enumerate(parts)})


class Accelerated(nn.Module):
    """A part of the model whose standard form a kernel computes.

    Attributes:
        impl: the choice of implementation; `xMAE` sets it.
        where: its dotted name in the model, for messages; `xMAE` sets it.
    """

    _modules: dict[str, Any]  # a child may be of any class: which ones are standard is for a span to find out
    impl = "auto"
    where = ""

    def runs_as_modules(self, op: str, span: Span, more: Callable[[], str] | None = None) -> bool:
        """Whether the modules of `span` compute now, and not the operator `op`.

        Args:
            op: the operator that a kernel serves.
            span: the modules that it would compute.
            more: gives a further reason why no kernel may take the modules, though each is standard, or ''.

        Raises:
            BackendError: a kernel was asked for by name, and the modules are not those that it computes.
        """
        choice = choice_of(self.impl, op)
        if choice == "reference" or (choice == "auto" and is_watched()):
            return True
        fault = span.fault(self) or ("" if more is None else more())
        if fault and choice != "auto":
            raise backend.BackendError(
                f"impl={choice!r} was asked for {op}, but {self.named(fault)}; impl='auto' runs the modules themselves"
            )
        return bool(fault)

    def named(self, fault: str) -> str:
        """`fault` with the place of this part in the model before its module, where the model has said it."""
        return f"{self.where}.{fault}" if self.where else fault

    def faults(self) -> Iterator[tuple[str, str]]:
        """(operator, '<name>: <reason>') for each module that keeps a kernel from a span of this part."""
        return iter(())


def is_watched() -> bool:
    """Whether somebody looks at each operation of PyTorch: a transform, a recorder, a TorchDispatchMode."""
    if torch.compiler.is_compiling():
        return bool(backend.needs_plain_torch())
    return torch._C._len_torch_dispatch_stack() > 0 or bool(backend.needs_plain_torch())


def pairs(op: str, found: Iterable[str]) -> Iterator[tuple[str, str]]:
    """(op, fault) for each fault of its span that is not ''."""
    return ((op, fault) for fault in found if fault)


class Span:
    """The children of a part that one kernel computes together.

    standard: by name, what each child must be. Copies and pickles of a span know nothing of earlier calls.
    """

    def __init__(self, standard: Mapping[str, Standard]) -> None:
        self.standard = standard
        self._stamp: Stamp | None = None

    def __deepcopy__(self, memo: dict) -> Span:
        return Span(self.standard)

    def __reduce__(self) -> tuple:
        return Span, (self.standard,)

    def fault(self, root: nn.Module) -> str:
        """Why no kernel may compute these children of `root`, '<name>: <reason>', or '' if one may."""
        if torch.compiler.is_compiling():  # the walk is traced: each thing that it looks at becomes a guard
            return next(iter(_faults(self.standard, root)), "")
        stamp = self._stamp
        if stamp is not None and stamp.holds(root):
            return ""
        stamp = Stamp()
        found = _faults(self.standard, root, stamp=stamp)
        self._stamp = None if found else stamp.finished(root)
        return found[0] if found else ""

    def faults(self, root: nn.Module) -> list[str]:
        """The faults of all children of `root`, each as `fault` gives the first."""
        return _faults(self.standard, root, all_of_them=True)

    def gathered(self, gather: Callable[[], Any]) -> Any:
        """`gather()`, or its earlier result while the stamp holds. Call it right after `fault` returned ''."""
        stamp = self._stamp
        if stamp is None or torch.compiler.is_compiling():
            return gather()
        if stamp.gathered is None:
            stamp.gathered = gather()
        return stamp.gathered


def _faults(
    standard: Mapping[str, Standard], root: nn.Module, *, stamp: Stamp | None = None, all_of_them: bool = False
) -> list[str]:
    """'<name>: <reason>' of the first child of `root`, or of every one, that is not what `standard` says."""
    if reason := global_reason():
        return [f"{next(iter(standard))}: {reason}"]
    found: list[str] = []
    for name, wanted in standard.items():
        module = root._modules.get(name)
        if module is None:
            found.append(f"{name}: expected {wanted.kind.__name__}, got none")
        else:
            _walk(wanted, module, name, stamp, found, all_of_them)
        if found and not all_of_them:
            break
    return found


def _walk(
    wanted: Standard, module: nn.Module, name: str, stamp: Stamp | None, found: list[str], all_of_them: bool
) -> None:
    """Add the faults of `module` and of its children, with their dotted names, to `found`."""
    if reason := _fault_of(wanted, module):
        found.append(f"{name}: {reason}")
        if not all_of_them or type(module) is not wanted.kind:
            return
    if stamp is not None:
        stamp.add(module, tuple(wanted.settings), bool(wanted.tensors))
    children = module._modules
    if wanted.each is None:
        found.extend(f"{name}.{key}: it is missing" for key in wanted.children if children.get(key) is None)
    for key, child in children.items():
        expected = wanted.children.get(key) if wanted.each is None else wanted.each
        if expected is None:
            found.append(f"{name}.{key}: the standard {wanted.kind.__name__} has no such child")
        elif child is not None:
            _walk(expected, child, f"{name}.{key}", stamp, found, all_of_them)
        if found and not all_of_them:
            return


def _fault_of(wanted: Standard, module: nn.Module) -> str:
    """Why `module` by itself, without its children, is not the standard one, or ''."""
    kind = type(module)
    if kind is not wanted.kind:
        return f"it is a {kind.__name__}, not a {wanted.kind.__name__}"
    if reason := own_reason(module):
        return reason
    compiling = torch.compiler.is_compiling()
    if compiling:
        if module.forward.__func__ is not kind.forward:  # makes a guard, unlike a look into __dict__
            return "its forward is patched"
    elif FORWARD_OF(kind) != _FORWARDS[kind]:
        return f"the forward of {kind.__name__} is patched"
    for key, value in wanted.settings.items():
        if (got := getattr(module, key)) != value:
            return "it has other settings" if compiling else f"its {key} is {got!r}, not {value!r}"
    for key in wanted.absent:
        if getattr(module, key) is not None:
            return f"it has a {key}"
    parameters, buffers = module._parameters, module._buffers
    for key in wanted.tensors:
        tensor = parameters.get(key) if key in parameters else buffers.get(key)
        if tensor is None:
            return f"its {key} is not a plain parameter or buffer"
        if not _is_ordinary(tensor):
            return f"its {key} is a {type(tensor).__name__}"
    if wanted.kernel_size is not None:
        weight: Any = module.weight
        if weight.shape[-1] != wanted.kernel_size:
            return f"its kernel has {weight.shape[-1]} samples, not {wanted.kernel_size}"
    return ""


def _is_ordinary(tensor: Tensor) -> bool:
    if torch.compiler.is_compiling():
        return True  # dynamo and its fakes: subclasses are theirs to handle
    return type(tensor) in _PLAIN_TENSORS or type(tensor).__name__ == "FakeTensor"  # shapes alone: proofs
