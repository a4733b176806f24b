"""The built libraries of C++ operators: loading them, and switches of the one for the CPU."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Iterator
from pathlib import Path

import torch

from xmae_fast.backend.errors import BackendError

_FOLDER = Path(__file__).parents[1]  # the package, in which setup.py puts what it builds


def extension_file(stem: str) -> Path | None:
    """The operator library in the package whose name begins with `stem`, or None if it was not built."""
    return min(_FOLDER.glob(f"{stem}*.so"), default=None)


def _load_extension(stem: str) -> str:
    """Load the operator library `stem`; return the reason why it could not be loaded, or ''."""
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
    if extension_file("_C_cuda") is None:
        return "the CUDA C++ operators were not built (install from source with nvcc, see XMAE_FAST_BUILD)"
    # Linked beside a torch without CUDA, it does not name torch's library for CUDA, whose symbols it needs.
    with contextlib.suppress(OSError):
        ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_cuda.so"), mode=ctypes.RTLD_GLOBAL)
    return _load_extension("_C_cuda")


# Why the library of an implementation is not here, or ''.
EXTENSION_REASON = {"cpu": _load_extension("_C_cpu"), "cuda": _load_cuda_extension()}

_library = torch.library.Library("xmae_fast", "FRAGMENT")
_library.define("cpu_kernels() -> str")
_library.define("use_cpu_kernels(str name) -> ()")
_library.define("cpu_bf16_kernels() -> str")
_library.define("cpu_bf16_reason() -> str")
_library.define("use_cpu_bf16_kernels(str name) -> ()")
_library.define("release_cpu_memory() -> ()")
_library.define("cpu_fingerprint(Tensor x) -> int")  # decides whether packed weights are still those of x; for tests


def cpu_reason() -> str:
    """Why the C++ operators for the CPU are not here, or ''."""
    return EXTENSION_REASON["cpu"]


def cpu_kernels() -> str:
    """The kernels that serve the CPU, by their instruction set.

    Returns:
        "amx", "avx512", "avx512_rows13", "avx512_rows14", "avx2" or "baseline" (portable vectors). The three for
        AVX-512 differ in how many rows of a product they compute together, which changes their speed and no bit of the
        results. "amx" computes inference in float32 by three bfloat16 parts of each number, and training as AVX-512.
        "amx_plain", for tests, does the same by plain loops.

    Raises:
        BackendError: the C++ operators are not here.
    """
    if reason := EXTENSION_REASON["cpu"]:
        raise BackendError(f"cpu_kernels: {reason}")
    return torch.ops.xmae_fast.cpu_kernels()


def cpu_bfloat16() -> str:
    """The instruction set that multiplies in bfloat16 on the CPU where that is asked for and no gradient is.

    The first call asks the operating system for AMX.

    Returns:
        "amx", "avx512_bf16", "plain" (loops that no processor is faster with; only if chosen), or "" where float32
        kernels serve in its place; `cpu_bfloat16_reason` says why.
    """
    return "" if EXTENSION_REASON["cpu"] else torch.ops.xmae_fast.cpu_bf16_kernels()


# torch.compile takes the answer as a constant, as torch.compiler.assume_constant_result would make it, whose import is
# slow.
cpu_bfloat16._dynamo_marked_constant = True  # pyright: ignore[reportFunctionMemberAccess]


def cpu_bfloat16_reason() -> str:
    """Why the CPU has no bfloat16 kernels that it would use by itself, or ''."""
    return EXTENSION_REASON["cpu"] or torch.ops.xmae_fast.cpu_bf16_reason()


@contextlib.contextmanager
def use_cpu_bfloat16(name: str) -> Iterator[None]:
    """Within it, all threads of this process multiply in bfloat16 by another instruction set; for tests.

    Args:
        name: as `cpu_bfloat16` returns it, "none" for float32 kernels in its place, or "auto".

    Raises:
        BackendError: the C++ operators are not here.
        RuntimeError: the processor lacks the instruction set.
    """
    if reason := EXTENSION_REASON["cpu"]:
        raise BackendError(f"use_cpu_bfloat16: {reason}")
    before = cpu_bfloat16() or "none"
    torch.ops.xmae_fast.use_cpu_bf16_kernels(name)
    try:
        yield
    finally:
        torch.ops.xmae_fast.use_cpu_bf16_kernels(before)


def release_cpu_memory() -> None:
    """Give memory that the CPU kernels keep back to the system; no tensor in use is touched.

    The kernels keep the large tensors of a training step for the next step, and packed weights for inference, which
    the next call packs again.
    """
    if not EXTENSION_REASON["cpu"]:
        torch.ops.xmae_fast.release_cpu_memory()


@contextlib.contextmanager
def use_cpu_kernels(name: str) -> Iterator[None]:
    """Within it, all threads of this process use other kernels; for tests and measurements.

    Args:
        name: as `cpu_kernels` returns it, of an instruction set that this processor has; "auto" for the usual choice.

    Raises:
        BackendError: the C++ operators are not here.
        RuntimeError: the processor lacks the instruction set.
    """
    before = cpu_kernels()
    torch.ops.xmae_fast.use_cpu_kernels(name)
    try:
        yield
    finally:
        torch.ops.xmae_fast.use_cpu_kernels(before)
