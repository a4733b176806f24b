"""The errors of a choice that cannot be served here, and of kernels that cannot be made for the GPU at hand."""

from __future__ import annotations

import subprocess

# Of errors of Triton, by name: it need not be installed. None of them is raised once a kernel runs.
_KINDS = {"OutOfResources", "PTXASError", "CompilationError", "MLIRCompilationError"}
_MESSAGES = (
    "PassManager::run failed",  # the compiler itself
    "Failed to find C compiler",  # Triton compiles a launcher for each kernel
    "libcuda.so cannot found",
    "device kernel image is invalid",
    "no kernel image is available",
    "unsupported toolchain",  # the driver is older than the PTX
)


class BackendError(RuntimeError):
    """An implementation was asked for that cannot run here; the message says why."""


class KernelFailure(BackendError):
    """No configuration of a Triton kernel can be compiled for this GPU, or fits it."""


def is_kernel_failure(error: BaseException) -> bool:
    """Whether a kernel could not be made for this GPU, or needs more than the GPU has; then nothing of it has run."""
    if _KINDS & {kind.__name__ for kind in type(error).__mro__}:
        return True
    if isinstance(error, subprocess.CalledProcessError):  # of the C compiler or of ptxas
        return True
    return isinstance(error, RuntimeError | AssertionError) and any(text in str(error) for text in _MESSAGES)
