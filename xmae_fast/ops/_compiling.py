"""Compiling the Triton kernels of a backward while its forward runs.

A forward whose kernels cannot be made for the GPU is computed by plain PyTorch instead. A backward cannot: what the
forward kept for it is what its kernels need. So its kernels are compiled, and not run, when the forward with these
shapes and dtypes runs for the first time.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from xmae_fast.backend.errors import KernelFailure
from xmae_fast.ops import _triton

_checked: set[tuple] = set()


def check_backward(tensors: Sequence[Tensor | None], settings: tuple, backward: Callable[[], Any]) -> None:
    """Compile what `backward` launches, if it has not been done for these shapes, dtypes and settings.

    Args:
        tensors: inputs and results of the forward.
        settings: the name of the operator, and what else its kernels depend on.
        backward: calls the operator of the backward with these tensors; it runs on fake ones.

    Raises:
        KernelFailure: no configuration of a kernel can run on this GPU.

    If it fails otherwise, that is said, and the kernels are compiled when the backward runs.
    """
    if not _applies(tensors):
        return
    key = settings, tuple(None if x is None else (x.shape, x.dtype, x.device) for x in tensors)
    if key in _checked:
        return
    device = next(x.device for x in tensors if x is not None)
    capability = torch.cuda.get_device_capability(device)
    try:
        with FakeTensorMode(allow_non_fake_inputs=True), _triton.recording(capability, into=_Compiled(device)):
            backward()
    except KernelFailure:
        raise
    except Exception as error:  # of looking ahead: the backward itself may do well
        told = f"{type(error).__name__}: {error}"
        warnings.warn(f"the kernels of {settings[0]}'s backward are compiled when it runs: {told}", stacklevel=2)
    _checked.add(key)


def _applies(tensors: Sequence[Tensor | None]) -> bool:
    """Whether the forward really runs, on a GPU, and not within a capture."""
    if torch.compiler.is_compiling() or _triton.recorded_launches() is not None:
        return False
    if any(isinstance(x, FakeTensor) for x in tensors):
        return False
    first = next(x for x in tensors if x is not None)
    return first.is_cuda and not torch.cuda.is_current_stream_capturing()


class _Compiled(list):
    """Takes launches as `_triton.recording` writes them down, and compiles each for the GPU."""

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.device = device

    def append(self, launch: Any) -> None:
        compile_for(launch, self.device)


def compile_for(launch: Any, device: torch.device) -> None:
    """Compile the kernel of a `Launch` as its first launch on the GPU would, and load it."""
    from triton.runtime.jit import MockTensor  # none without Triton

    args = {name: MockTensor(x.dtype) if isinstance(x, Tensor) else x for name, x in launch.args.items()}
    options = {"num_warps": launch.num_warps, "num_stages": launch.num_stages, "enable_fp_fusion": True}
    with torch.cuda.device(device):
        compiled = launch.kernel.warmup(grid=launch.grid, **args, **launch.constants, **options)
        compiled._init_handles()  # here it is found out whether the GPU has enough shared memory
