"""What the forward and backward kernels of token_gather share: how work is divided, and the inverse of ids_keep."""

from __future__ import annotations

import triton
import triton.language as tl

from xmae_fast.ops._launch import Grid, block

# Configurations of kernels that move samples of patches.
PATCHES = {
    80: ({"BLOCK_D": 64, "num_warps": 4}, {"BLOCK_D": 128, "num_warps": 8}, {"BLOCK_D": 32, "num_warps": 2}),
}


@triton.jit
def place_among(ids_ptr, n, count, BLOCK_K: tl.constexpr):
    """Where each of the patches n stands among ids_ptr[:count], the last place if there are several; -1: nowhere."""
    place = n * 0 - 1
    for first in range(0, count, BLOCK_K):
        k = first + tl.arange(0, BLOCK_K)
        ids = tl.load(ids_ptr + k, mask=k < count, other=-1)
        found = tl.where(ids[None, :] == n[:, None], k[None, :], -1)  # [len(n), BLOCK_K]
        place = tl.maximum(place, tl.max(found, axis=1))
    return place


def rows_at_once(rows: int) -> int:
    """BLOCK_N, the number of patches of a program."""
    return min(block(rows, 1), 32)


def tiles(outer: int, rows: int, width: int) -> Grid:
    """One program for each `outer` (sample, or slice of the batch), BLOCK_N of `rows` and BLOCK_D of `width`."""
    return lambda c: (outer, triton.cdiv(rows, c["BLOCK_N"]), triton.cdiv(width, c["BLOCK_D"]))
