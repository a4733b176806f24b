"""Counter-based dropout of the C++ kernels: a mask depends on (seed, offset) and an element's place alone.

Philox4x32-10 with key `seed`; the counter is (block, row, offset): 64 columns of a row are made of 16 draws,
column 64 g + 16 w + lane taking word w of the draw for block 16 g + lane. Kept where word >= p 2^32.
"""

from __future__ import annotations

import torch
from torch import Tensor

_library = torch.library.Library("xmae_fast", "FRAGMENT")
# 0 or 1 / (1 - p), [rows, columns]. feed_forward: rows B N, columns D; lag_attention: rows B H, columns Nq Nk.
_library.define("dropout_mask(Tensor seed, SymInt rows, SymInt columns, float p) -> Tensor")


@torch.library.register_fake("xmae_fast::dropout_mask")
def _(seed, rows, columns, p):
    return seed.new_empty((rows, columns), dtype=torch.float32)


def draw_seed(p: float) -> Tensor | None:
    """(seed, offset), int64 [2], from torch's default generator of the CPU; for p = 0 nothing is drawn."""
    return torch.randint(2**62, (2,), dtype=torch.int64, device="cpu") if p > 0 else None


def bits(flags: tuple[bool, ...]) -> int:
    """Flag i as bit i: how the backward kernels are told which gradients are asked for."""
    return sum(1 << i for i, flag in enumerate(flags) if flag)
