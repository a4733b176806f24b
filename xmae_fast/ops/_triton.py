"""How Triton kernels hang on torch's dispatcher; imports no Triton, so a CPU-only installation never loads it.

`define_triton` gives a kernel's operator its name, its fake and a launcher that is imported at the first call. While
`recording` is on, fake tensors go to the real launchers, whose launches are written down instead of run: this is how
launches are counted, compiled and looked at on a machine without a GPU. (The fake tensors are CPU tensors there: a
CPU-only torch cannot run autograd on fake CUDA ones.)
"""

from __future__ import annotations

import contextlib
import importlib
import os
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from xmae_fast import backend
from xmae_fast.ops._checks import is_autocast_on

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"  # Triton's own switch: kernels run on the CPU, in NumPy
_library = torch.library.Library("xmae_fast", "FRAGMENT")
_recorded: list[Any] | None = None
_recorded_capability: tuple[int, int] = (9, 0)
_watch: Callable[[], contextlib.AbstractContextManager] = contextlib.nullcontext


def define_triton(op: str, schema: str, fake: Callable[..., Any]) -> torch._ops.OpOverload:
    """Define `xmae_fast::<name>_triton` for a schema "<name>(...) -> ...".

    Args:
        op: the operator's folder; its triton/launch.py has the launcher, a function `<name>` of the same arguments.
        fake: shapes alone, as for torch.library.register_fake.

    Returns:
        The operator, to be called. It serves CUDA tensors, and under TRITON_INTERPRET=1 also CPU tensors.
    """
    name, _, arguments = schema.partition("(")
    full = f"{name}_triton"
    _library.define(f"{full}({arguments}")

    def launch(*args: Any) -> Any:
        return getattr(importlib.import_module(f"xmae_fast.ops.{op}.triton.launch"), name)(*args)

    for key in ("CUDA", "CPU") if INTERPRETED else ("CUDA",):
        _library.impl(full, launch, key)

    @torch.library.register_fake(f"xmae_fast::{full}")
    def shapes_or_launch(*args: Any) -> Any:
        if _recorded is None:
            return fake(*args)
        with _watch():
            return launch(*args)

    return getattr(torch.ops.xmae_fast, full).default


def compute_dtype(
    x: Tensor, impl: str = "", *, inference: bool = False, trains_in_bfloat16: bool = False
) -> torch.dtype:
    """The dtype of matrix products on `x`: autocast's where it is on, else that of `x`.

    Args:
        x: the tensor.
        impl: the implementation that computes. "cpu" computes in float32, or in bfloat16 where that is asked for, the
            processor is faster with it, and no gradient is wanted or autocast asks and the operator trains in it.
        inference: whether no gradient is wanted.
        trains_in_bfloat16: whether the operator of "cpu" has bfloat16 kernels for training with float32 weights.
    """
    device = x.device.type
    autocast = is_autocast_on(device)
    asked = torch.get_autocast_dtype(device) if autocast else x.dtype
    if impl != "cpu":
        return asked
    serves = inference or (trains_in_bfloat16 and autocast)
    return asked if asked == torch.bfloat16 and serves and backend.cpu_bfloat16() else torch.float32


@contextlib.contextmanager
def recording(
    capability: tuple[int, int] = (9, 0),
    watch: Callable[[], contextlib.AbstractContextManager] = contextlib.nullcontext,
    into: list[Any] | None = None,
) -> Iterator[list[Any]]:
    """Within it (and a FakeTensorMode), launches of impl="triton" are appended to the list instead of run.

    Args:
        capability: of the imagined GPU, e.g. (9, 0) for an H200.
        watch: makes a context to run each launcher in (a dispatch mode around it all does not see inside of one).
        into: the list; None for a new one.
    """
    global _recorded, _recorded_capability, _watch
    before = _recorded, _recorded_capability, _watch
    _recorded, _recorded_capability, _watch = [] if into is None else into, capability, watch
    backend.record_launches(True)
    try:
        yield _recorded
    finally:
        _recorded, _recorded_capability, _watch = before
        backend.record_launches(_recorded is not None)


def recorded_launches() -> list[Any] | None:
    """The list that `recording` fills, None while it is off."""
    return _recorded


def capability(device: torch.device) -> tuple[int, int]:
    """Compute capability of the GPU that kernels are launched on; (8, 0) for the interpreter, which has no limits."""
    if _recorded is not None:
        return _recorded_capability
    return (8, 0) if device.type == "cpu" else torch.cuda.get_device_capability(device)
