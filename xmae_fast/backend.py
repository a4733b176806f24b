"""Which implementations of which operators exist in this installation, and why the others do not.

Every public operator takes `impl="auto" | "reference" | "cpu" | "triton" | "cuda"`, or different choices for single
operators (`xmae_fast.choices`). An explicit choice means exactly that, or a `BackendError` that says why it cannot be;
`auto` takes the fastest one that serves the device. Nothing falls back silently and no environment variable changes
numerics: `explain` tells what would run.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import torch

IMPLS = ("reference", "cpu", "triton", "cuda")
OPS = (
    "random_masking",
    "token_gather",
    "conv_stem",
    "patch_embed",
    "lag_attention",
    "feed_forward",
    "waveform_loss",
)
MODEL_OPS = tuple(op for op in OPS if op != "random_masking")  # those that a forward runs
# The only device type that each implementation serves (None: any). Triton's interpreter runs kernels on the CPU.
_INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
_DEVICE_OF = {"reference": None, "cpu": "cpu", "triton": None if _INTERPRETED else "cuda", "cuda": "cuda"}
# Implementations that "auto" passes over, and why; an explicit choice takes them. They serve a part of an operator's
# cases, so generic tests and benchmarks leave them out and have others for them.
NOT_AUTOMATIC = {
    ("conv_stem", "cuda"): "16 bits only, and not measured on a GPU yet: triton until it is",
}
_recording_launches = False  # while ops._triton.recording is on: launches are written down, tensors may be anywhere
# The dtypes of floating-point tensors that each implementation serves (None: any).
_GPU_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
_DTYPES_OF = {"reference": None, "cpu": (torch.float32,), "triton": _GPU_DTYPES, "cuda": _GPU_DTYPES}


def check_choice(impl: object) -> None:
    """Raise ValueError unless `impl` is a choice."""
    first, *others = impl.split(",") if isinstance(impl, str) else [""]
    pairs = [[word.strip() for word in other.split("=")] for other in others]
    names = [first.strip(), *(pair[-1] for pair in pairs)]
    of_ops = all(len(pair) == 2 and pair[0] in OPS for pair in pairs)
    if not of_ops or any(name != "auto" and name not in IMPLS for name in names):
        known = ", ".join(map(repr, IMPLS))
        raise ValueError(
            f"impl: expected 'auto' or one of {known} (for single operators then 'auto, conv_stem=cuda'), got {impl!r}"
        )


def choice_of(impl: str, op: str) -> str:
    """The choice for an operator, "auto" or the name of an implementation; the last one counts.

    impl: a choice, which is not checked.
    """
    if "," not in impl:
        return impl
    first, *others = impl.split(",")
    for other in reversed(others):
        name, _, choice = other.partition("=")
        if name.strip() == op:
            return choice.strip()
    return first.strip()


class BackendError(RuntimeError):
    """An implementation was asked for that cannot run here; the message says why."""


class Availability(NamedTuple):
    """Whether an implementation can be used in this installation; `reason` is empty when it can."""

    usable: bool
    reason: str


def extension_file(stem: str) -> Path | None:
    """The operator library whose name begins with `stem`, next to this file, if it was built."""
    return min(Path(__file__).parent.glob(f"{stem}*.so"), default=None)


def _load_extension(stem: str) -> str:
    """Load the operator library `stem` next to this file; the reason why it could not be loaded, or ''."""
    file = extension_file(stem)
    if file is None:
        return "the C++ operators were not built (install from source with a C++ compiler, or see XMAE_FAST_BUILD)"
    try:
        torch.ops.load_library(str(file))
    except OSError as error:
        return f"{file.name} could not be loaded: {error}"
    return ""


def _load_cuda_extension() -> str:
    if torch.version.cuda is None:
        return f"this torch ({torch.__version__}) was built without CUDA"
    if not list(Path(__file__).parent.glob("_C_cuda*.so")):
        return "the CUDA C++ operators were not built (install from source with nvcc, see XMAE_FAST_BUILD)"
    return _load_extension("_C_cuda")


_EXTENSION_REASON = {"cpu": _load_extension("_C_cpu"), "cuda": _load_cuda_extension()}
_KERNELS: dict[tuple[str, str], tuple[str, ...]] = {}
_LEFT_OUT: dict[tuple[str, str], str] = {}  # why this process does without an implementation that is here
_USABLE: dict[tuple[str, str], bool] = {}  # found out once, so that torch.compile sees no more than a dictionary


_library = torch.library.Library("xmae_fast", "FRAGMENT")
_library.define("cpu_kernels() -> str")
_library.define("use_cpu_kernels(str name) -> ()")
_library.define("release_cpu_memory() -> ()")
_library.define("cpu_fingerprint(Tensor x) -> int")  # decides whether packed weights are still those of x; for tests


def cpu_kernels() -> str:
    """The instruction set whose kernels serve the CPU: "avx512", "avx2" or "baseline" (portable vectors).

    Raises:
        BackendError: the C++ operators are not here.
    """
    if reason := _EXTENSION_REASON["cpu"]:
        raise BackendError(f"cpu_kernels: {reason}")
    return torch.ops.xmae_fast.cpu_kernels()


def release_cpu_memory() -> None:
    """Give memory that the CPU kernels keep back to the system; no tensor in use is touched.

    It is what training keeps between its steps, and weights packed for inference, which the next call packs again.
    """
    if not _EXTENSION_REASON["cpu"]:
        torch.ops.xmae_fast.release_cpu_memory()


@contextlib.contextmanager
def use_cpu_kernels(name: str) -> Iterator[None]:
    """Within it, all threads of this process use the kernels of another instruction set; for tests and measurements.

    Args:
        name: as `cpu_kernels` returns; one that this processor has.

    Raises:
        BackendError: the C++ operators are not here. RuntimeError: the processor lacks it.
    """
    before = cpu_kernels()
    torch.ops.xmae_fast.use_cpu_kernels(name)
    try:
        yield
    finally:
        torch.ops.xmae_fast.use_cpu_kernels(before)


def register(op: str, impl: str, *torch_ops: str) -> None:
    """Declare that `op` has an implementation `impl`, which needs the operators `xmae_fast::<torch_op>`."""
    _KERNELS[op, impl] = torch_ops
    _USABLE[op, impl] = not _why_not(op, impl)


def leave_out(op: str, impl: str, why: str) -> None:
    """From now on this process takes `impl` for one that cannot run `op`; `why` is what errors and `explain` say."""
    _LEFT_OUT[op, impl] = why
    _USABLE[op, impl] = False


def _why_not(op: str, impl: str) -> str:
    if impl == "reference":
        return ""
    if (op, impl) in _LEFT_OUT:
        return _LEFT_OUT[op, impl]
    if (op, impl) not in _KERNELS:
        return f"{op} has no {impl} kernels in this version of xmae_fast"
    if impl == "triton":
        return "" if _is_installed("triton") else "triton is not installed (pip install xmae-fast[triton])"
    if reason := _EXTENSION_REASON.get(impl, ""):
        return reason
    for name in (f"xmae_fast::{torch_op}" for torch_op in _KERNELS[op, impl]):
        if not torch._C._dispatch_has_kernel_for_dispatch_key(name, impl.upper()):
            return f"the built C++ operators are older than the Python code and lack {name}: reinstall xmae_fast"
    return ""


def _is_installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except (ImportError, ValueError):  # hidden by an import hook, or half imported
        return False


def cpu_reason() -> str:
    """Why the C++ operators for the CPU are not here, or ''."""
    return _EXTENSION_REASON["cpu"]


def available() -> dict[str, dict[str, Availability]]:
    """What exists in this installation: `available()["random_masking"]["cpu"].usable`, and `.reason` if not."""
    return {op: {impl: Availability(not (why := _why_not(op, impl)), why) for impl in IMPLS} for op in OPS}


def check_usable(op: str, impl: str, device: torch.device | None = None, dtype: torch.dtype | None = None) -> None:
    """Raise ValueError or BackendError unless the choice `impl` can run `op` here (on `device`, in `dtype`)."""
    check_choice(impl)
    impl = choice_of(impl, op)
    if impl in ("auto", "reference"):
        return
    if not _usable(op, impl):
        raise BackendError(f"impl={impl!r} was asked for {op}, but {_why_not(op, impl)}")
    wanted = None if impl == "triton" and _recording_launches else _DEVICE_OF[impl]
    if device is not None and wanted is not None and device.type != wanted:
        raise BackendError(f"impl={impl!r} was asked for {op}: expected tensors on {wanted}, got them on {device}")
    if not _serves(impl, dtype):
        names = " or ".join(str(served) for served in _DTYPES_OF[impl])
        raise BackendError(
            f"impl={impl!r} was asked for {op}: it computes in {names}, got {dtype}; impl='reference' takes it"
        )


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
    if torch._C._functorch.peek_interpreter_stack() is not None:
        return "torch.func transforms the call"
    if torch.autograd.forward_ad._current_level >= 0:
        return "derivatives are taken in forward mode"
    return ""


def _serves(impl: str, dtype: torch.dtype | None) -> bool:
    return dtype is None or _DTYPES_OF[impl] is None or dtype in _DTYPES_OF[impl]


def resolve(
    op: str,
    impl: str,
    device: torch.device,
    dtype: torch.dtype | None = None,
    *,
    triton_limit: str = "",
    cuda_limit: Callable[[], str] | None = None,
) -> str:
    """The implementation that serves this call: `impl` itself if explicit and possible, else the fastest usable.

    Args:
        device, dtype: of the tensors; no dtype: the operator has no floating-point input.
        triton_limit: why these sizes are beyond the Triton kernels; '' if they are not. An explicit impl="triton" then
            raises, "auto" takes the reference and warns, once for each reason.
        cuda_limit: says why the CUDA C++ kernels do not serve the call, '' if they do; asked only where they might. An
            explicit impl="cuda" then raises, "auto" takes Triton's, which serve it.
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
        check_usable(op, impl, device, dtype)
        if impl == "triton" and triton_limit:
            raise BackendError(f"impl='triton' was asked for {op}, but {triton_limit}; impl='reference' takes it")
        if impl == "cuda" and cuda_limit is not None and (why := cuda_limit()):
            raise BackendError(f"impl='cuda' was asked for {op}, but {why}; impl='triton' takes it")
        return impl
    if device.type == "cpu" and _serves("cpu", dtype) and _usable(op, "cpu"):
        return "cpu"
    on_gpu = device.type == "cuda"
    cuda = on_gpu and (op, "cuda") not in NOT_AUTOMATIC and _usable(op, "cuda") and _serves("cuda", dtype)
    if cuda and (cuda_limit is None or not cuda_limit()):
        return "cuda"
    if on_gpu and _usable(op, "triton") and _serves("triton", dtype):
        if not triton_limit:
            return "triton"
        warnings.warn(f"{op} runs in plain PyTorch: {triton_limit}", stacklevel=3)
    return "reference"


def _usable(op: str, impl: str) -> bool:
    return _USABLE.get((op, impl), False)


def explain(what: object = None, *, impl: str = "auto", device: torch.device | str = "cpu") -> str:
    """What would run and why, as text.

    Args:
        what: nothing for the whole installation, the name of an operator, or a model (its own `impl` and device count).
        impl: the choice to explain, for operators.
        device: where the tensors would be, for operators.

    Raises:
        ValueError: `what` is no operator's name and no model, or `impl` is unknown.
    """
    check_choice(impl)
    if what is None:
        return "\n".join(_explain_op(op, impl, torch.device(device)) for op in OPS)
    if isinstance(what, torch.nn.Module) and hasattr(what, "irregular"):
        first = next(what.parameters())
        lines = [_explain_op(op, what.impl, first.device, first.dtype) for op in MODEL_OPS]
        lines += [f"{op}: runs as modules, because of {fault}" for op, fault in what.irregular()]
        head = f"{type(what).__name__} on {first.device} in {first.dtype}, impl={what.impl!r}:"
        return "\n".join([head, *(f"  {line}" for line in lines)])
    name = getattr(what, "__name__", what)
    if name not in OPS:
        raise ValueError(f"explain: expected an operator ({', '.join(OPS)}) or an xMAE model, got {what!r}")
    return _explain_op(name, impl, torch.device(device))


def _explain_op(op: str, impl: str, device: torch.device, dtype: torch.dtype | None = None) -> str:
    try:
        chosen = resolve(op, impl, device, dtype)
    except BackendError as error:
        return f"{op}: nothing can run: {error}"
    missing = [name for name in IMPLS[1:] if (op, name) not in _KERNELS]
    others = [f"no {' or '.join(missing)} kernels in this version"] if missing else []
    existing = [name for name in IMPLS[1:] if name not in missing and name != chosen]
    others += [f"{name} not: {why}" for name in existing if (why := _not_here(op, name, device))]
    if choice_of(impl, op) == "auto" and (why := NOT_AUTOMATIC.get((op, "cuda"))) and _usable(op, "cuda"):
        others.append(f"cuda only if asked for: {why}")
    return f"{op}: {chosen} (impl={impl!r}, {device})" + (f"; {'; '.join(others)}" if others else "")


def _not_here(op: str, impl: str, device: torch.device) -> str:
    if reason := _why_not(op, impl):
        return reason
    return "" if _DEVICE_OF[impl] in (None, device.type) else f"it serves {_DEVICE_OF[impl]} tensors"
