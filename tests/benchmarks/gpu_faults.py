"""Run first by every process of a rehearsed look: operators misbehave as kernels may on a GPU.

token_gather does not compile; waveform_loss ends its process in float32 and hangs in bfloat16; patch_embed is wrong in
float32; random_masking is right.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

import torch

from xmae_fast.ops import _launch
from xmae_fast.ops.cases import all_cases


class Kernel:
    """Stands for a Triton kernel; a launch of it acts."""

    def __init__(self, name: str, act: Callable[[], None]) -> None:
        self.__name__, self.act = name, act

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        return lambda **_: self.act()


def launched(op: str, act: Callable[[torch.Tensor], Any]) -> None:
    """Let every call of `op` launch a kernel, `act` with the first tensor of the inputs, before it goes on as ever."""
    cases = all_cases()[op]
    before = cases.call

    def call(inputs: dict[str, Any], impl: str) -> Any:
        x = next(x for x in inputs.values() if isinstance(x, torch.Tensor))
        kernel = Kernel(f"_{op}_kernel", lambda: act(x))
        _launch.launch(kernel, lambda c: (1,), {"x_ptr": x}, {"BLOCK": 64}, {80: ({"num_warps": 8, "num_stages": 2},)})
        return before(inputs, impl)

    object.__setattr__(cases, "call", call)  # it is frozen


def does_not_compile(x: torch.Tensor) -> None:
    raise RuntimeError("PTXAS error: Internal Triton PTX codegen error")


def dies_or_hangs(x: torch.Tensor) -> None:
    if x.dtype == torch.float32:
        os.abort()
    time.sleep(600)


def is_wrong(x: torch.Tensor) -> None:
    if x.dtype == torch.float32:
        x.data *= 1.01


launched("token_gather", does_not_compile)
launched("waveform_loss", dies_or_hangs)
launched("patch_embed", is_wrong)
