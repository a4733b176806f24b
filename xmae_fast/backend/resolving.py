"""Which implementation serves a call."""

from __future__ import annotations

import os
import warnings

import torch

from xmae_fast.backend.choices import check_choice, choice_of
from xmae_fast.backend.errors import BackendError, KernelFailure
from xmae_fast.backend.extensions import cpu_bfloat16, cpu_bfloat16_reason
from xmae_fast.backend.registry import IN_BFLOAT16, LIMITS, NOT_AUTOMATIC, USABLE, leave_out, why_not

# The only device type that each implementation serves (None: any). Triton's interpreter runs kernels on the CPU.
_INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE_OF = {"reference": None, "cpu": "cpu", "triton": None if _INTERPRETED else "cuda", "cuda": "cuda"}
# The dtypes of floating-point tensors that each implementation serves (None: any).
_GPU_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
_DTYPES_OF = {"reference": None, "cpu": (torch.float32,), "triton": _GPU_DTYPES, "cuda": _GPU_DTYPES}
# What "auto" tries on a device, fastest first, and what takes a call that is beyond the limits of an implementation.
_FASTEST_FIRST = {"cpu": ("cpu",), "cuda": ("cuda", "triton")}
_NEXT = {"cpu": "reference", "cuda": "triton", "triton": "reference"}
_recording_launches = False


def record_launches(on: bool) -> None:
    """Say whether launches of Triton kernels are written down instead of run; then tensors may be on any device."""
    global _recording_launches
    _recording_launches = on


def may_read_values(device: torch.device) -> bool:
    """Whether checks may look at the values of tensors there: eager, on a CPU. Elsewhere that would synchronise."""
    if device.type != "cpu" or torch.compiler.is_compiling() or _recording_launches or needs_plain_torch():
        return False
    return torch._C._len_torch_dispatch_stack() == 0  # of modes such as FakeTensorMode, whose tensors have no values


def needs_plain_torch() -> str:
    """Who looks at each operation of PyTorch now and would find operators of ours opaque, or ''."""
    if torch.compiler.is_compiling():
        exporting = torch.compiler.is_exporting()
        return "torch.export makes a graph (`xmae-fast export` makes quicker ones)" if exporting else ""
    if torch._C._get_tracing_state() is not None:
        return "torch.jit.trace or torch.onnx.export records (`xmae-fast export` makes quicker graphs)"
    # torch's stubs leave `_functorch` out.
    if torch._C._functorch.peek_interpreter_stack() is not None:  # pyright: ignore[reportAttributeAccessIssue]
        return "torch.func transforms the call"
    if torch.autograd.forward_ad._current_level >= 0:
        return "derivatives are taken in forward mode"
    return ""


def check_usable(
    op: str,
    impl: str,
    device: torch.device | None = None,
    dtype: torch.dtype | None = None,
    *,
    inference: bool = False,
) -> None:
    """Raise unless the choice `impl` can run `op` here.

    Args:
        op: the name of the operator.
        impl: a choice, for one operator or for all.
        device: where the tensors are; None: not known.
        dtype: of the floating-point tensors; None: there are none, or it is not known.
        inference: whether no gradient is wanted.

    Raises:
        ValueError: `impl` is no choice.
        BackendError: the implementation was asked for by name and cannot run.
    """
    check_choice(impl)
    impl = choice_of(impl, op)
    if impl in ("auto", "reference"):
        return
    if not USABLE.get((op, impl)):
        raise BackendError(f"impl={impl!r} was asked for {op}, but {why_not(op, impl)}")
    wanted = None if impl == "triton" and _recording_launches else DEVICE_OF[impl]
    if device is not None and wanted is not None and device.type != wanted:
        raise BackendError(f"impl={impl!r} was asked for {op}: expected tensors on {wanted}, got them on {device}")
    if not _serves(op, impl, dtype, inference):
        names = " or ".join(str(served) for served in _DTYPES_OF[impl])
        also = ""
        if dtype == torch.bfloat16 and op in IN_BFLOAT16:
            where = "on other processors " if cpu_bfloat16_reason() else ""
            also = f", and in torch.bfloat16 {where}without gradients"
        raise BackendError(
            f"impl={impl!r} was asked for {op}: it computes in {names}{also}, got {dtype}; impl='reference' takes it"
        )


def _serves(op: str, impl: str, dtype: torch.dtype | None, inference: bool) -> bool:
    if dtype is None or _DTYPES_OF[impl] is None or dtype in _DTYPES_OF[impl]:
        return True
    if impl != "cpu" or dtype != torch.bfloat16 or not inference or op not in IN_BFLOAT16 or not cpu_bfloat16():
        return False
    # Under autocast to float16 these kernels compute in float32, and take float32 alone.
    return not torch.is_autocast_enabled("cpu") or torch.get_autocast_dtype("cpu") == torch.bfloat16


def resolve(
    op: str,
    impl: str,
    device: torch.device,
    dtype: torch.dtype | None = None,
    call: tuple | None = None,
    *,
    inference: bool = False,
) -> str:
    """The implementation that serves this call: `impl` itself if explicit and possible, else the fastest usable.

    Args:
        op: the name of the operator.
        impl: a choice, for one operator or for all.
        device: where the tensors are.
        dtype: of the floating-point tensors; None: the operator has none.
        call: arguments of the `limit` functions with which the operator registered its implementations; None: limits
            are not asked. Where "auto" meets a limit of the last implementation before the reference, it warns, once
            for each reason.
        inference: whether no gradient is wanted; the kernels for the CPU serve bfloat16 only then.

    Returns:
        The name of an implementation.

    Raises:
        ValueError: `impl` is no choice.
        BackendError: the implementation was asked for by name and cannot serve the call.
    """
    impl = choice_of(impl, op)
    if impl == "reference":
        return "reference"
    if watcher := needs_plain_torch():
        if impl == "auto":
            return "reference"
        if not torch.compiler.is_compiling():
            raise BackendError(f"impl={impl!r} was asked for {op}, but {watcher}; impl='reference' takes it")
    if impl != "auto":
        check_usable(op, impl, device, dtype, inference=inference)
        limit = LIMITS.get((op, impl))
        if call is not None and limit is not None and (why := limit(*call)):
            raise BackendError(f"impl={impl!r} was asked for {op}, but {why}; impl={_NEXT[impl]!r} takes it")
        return impl
    for candidate in _FASTEST_FIRST.get(device.type, ()):
        key = op, candidate
        if key in NOT_AUTOMATIC or not USABLE.get(key) or not _serves(op, candidate, dtype, inference):
            continue
        limit = LIMITS.get(key)
        if call is None or limit is None or not (why := limit(*call)):
            return candidate
        if _NEXT[candidate] == "reference":
            warnings.warn(f"{op} runs in plain PyTorch: {why}", stacklevel=3)
    return "reference"


def do_without(op: str, impl: str, asked: str, failure: KernelFailure) -> None:
    """From now on let this process do without kernels that cannot be made for the GPU, and warn once.

    Args:
        op: the name of the operator.
        impl: the implementation that failed.
        asked: the choice of the caller.
        failure: why.

    Raises:
        KernelFailure: the implementation was asked for by name.
    """
    if choice_of(asked, op) != "auto":
        raise failure
    leave_out(op, impl, str(failure))
    warnings.warn(f"{op} runs in plain PyTorch from now on: {failure}", stacklevel=3)
