"""What the feed-forward kernels share: LayerNorm of rows, a chunk of the hidden layer, dropout, configurations."""

from __future__ import annotations

import triton
import triton.language as tl

from xmae_fast.ops._device import dropout_scale, philox_words
from xmae_fast.ops._launch import Config


@triton.jit
def layer_norm_rows(x, mean, rstd, weight_ptr, bias_ptr, offs_d, mask_d):
    """(x - mean) rstd weight + bias for rows x [BLOCK_M, BLOCK_D], 0 where a column is masked; float32."""
    weight = tl.load(weight_ptr + offs_d, mask=mask_d, other=0.0).to(tl.float32)
    bias = tl.load(bias_ptr + offs_d, mask=mask_d, other=0.0).to(tl.float32)
    return (x - mean[:, None]) * (rstd[:, None] * weight[None, :]) + bias[None, :]


@triton.jit
def hidden_chunk(up_ptr, down_ptr, start, offs_d, mask_d, D, F, BLOCK_F: tl.constexpr):
    """Units from `start`: offs_f and mask_f [BLOCK_F], their weights [BLOCK_F, BLOCK_D] and [BLOCK_D, BLOCK_F]."""
    offs_f = start + tl.arange(0, BLOCK_F)
    mask_f = offs_f < F
    up_at = up_ptr + start * D + tl.arange(0, BLOCK_F)[:, None] * D + offs_d[None, :]
    down_at = down_ptr + start + offs_d[:, None] * F + tl.arange(0, BLOCK_F)[None, :]
    up = tl.load(up_at, mask=mask_f[:, None] & mask_d[None, :], other=0.0)
    down = tl.load(down_at, mask=mask_d[:, None] & mask_f[None, :], other=0.0)
    return offs_f, mask_f, up, down


@triton.jit
def dropout_tile(seed_ptr, row, threshold, scale, BLOCK_D: tl.constexpr):
    """0 or `scale` for rows `row` and columns 0 .. BLOCK_D - 1, float32: the mask of ops/_dropout.py.

    From 64 columns on, all four words of a Philox draw are used: word w belongs to columns 64 g + 16 w + lane.
    """
    threshold = tl.zeros([1], tl.int64) + threshold  # an integer argument may be a compile-time 1
    if BLOCK_D < 64:
        return dropout_scale(seed_ptr, row[:, None], tl.arange(0, BLOCK_D)[None, :], threshold[None, :], scale)
    else:
        at_most = threshold[None, :].to(tl.uint32)
        w0, w1, w2, w3 = philox_words(seed_ptr, tl.arange(0, BLOCK_D // 4)[None, :], row[:, None])
        k0, k1, k2, k3 = (
            (w0 >= at_most).to(tl.int8), (w1 >= at_most).to(tl.int8),
            (w2 >= at_most).to(tl.int8), (w3 >= at_most).to(tl.int8),
        )  # fmt: skip
        kept = tl.join(tl.join(k0, k1), tl.join(k2, k3))  # [BLOCK_M, BLOCK_D / 4, w % 2, w / 2]
        kept = tl.reshape(kept, [row.shape[0], BLOCK_D // 64, 16, 2, 2])
        kept = tl.reshape(tl.permute(kept, [0, 1, 4, 3, 2]), [row.shape[0], BLOCK_D])
        return kept.to(tl.float32) * scale


def choices(*rows_hidden_warps_stages: tuple[int, int, int, int], **constants: int) -> tuple[Config, ...]:
    """Configurations (BLOCK_M, BLOCK_F, num_warps, num_stages), each with further constants."""
    names = ("BLOCK_M", "BLOCK_F", "num_warps", "num_stages")
    return tuple(dict(zip(names, choice, strict=True)) | constants for choice in rows_hidden_warps_stages)
