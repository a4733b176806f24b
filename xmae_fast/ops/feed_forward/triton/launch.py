"""Feed-forward sublayer on a GPU: y = x + dropout(W2 gelu(W1 LN(x) + b1) + b2); the hidden layer stays on the chip.

Forward: a program owns BLOCK_M rows; it normalises them once and goes over the hidden layer in chunks of BLOCK_F:

    h = gelu(LN(x) W1[chunk]^T + b1[chunk]),  acc += h W2[:, chunk]^T,  y = x + dropout(acc + b2)

Where the weights have another dtype than the products, one launch casts them first: every program reads all weights
from the L2 cache, and half the bytes are worth more than a launch. The backward (backward.py) reads the same copy.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from xmae_fast.ops._device import gelu, wait_for_previous_launch
from xmae_fast.ops._launch import TL_DTYPE, Config, block, dot_precision, launch
from xmae_fast.ops.feed_forward.triton import backward as triton_backward
from xmae_fast.ops.feed_forward.triton import schema
from xmae_fast.ops.feed_forward.triton.rows import choices, dropout_tile, hidden_chunk, layer_norm_rows

EPS = 1e-5
_PACK = {80: ({"BLOCK": 1024, "num_warps": 4},)}


@triton.jit
def _pack_kernel(up_ptr, down_ptr, packed_ptr, size, BLOCK: tl.constexpr):
    """packed[0] = up, packed[1] = down, cast; `size` numbers each."""
    wait_for_previous_launch()
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = at < size
    tl.store(packed_ptr + at, tl.load(up_ptr + at, mask=mask), mask=mask)
    tl.store(packed_ptr + size + at, tl.load(down_ptr + at, mask=mask), mask=mask)


@triton.jit
def _forward_kernel(
    x_ptr, norm_weight_ptr, norm_bias_ptr, up_ptr, up_bias_ptr, down_ptr, down_bias_ptr,  # [rows, D] and weights
    seed_ptr, out_ptr, stats_ptr,  # int64 [2], [rows, D], float32 [rows, 2] (mean, 1 / deviation) or None
    rows, eps, threshold, scale,
    D: tl.constexpr, F: tl.constexpr, COMPUTE: tl.constexpr, PRECISION: tl.constexpr, DROPOUT: tl.constexpr,
    BLOCK_D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_F: tl.constexpr, BLOCK_R: tl.constexpr,
):  # fmt: skip
    wait_for_previous_launch()
    first = tl.program_id(0) * BLOCK_M
    offs_m, offs_d = tl.arange(0, BLOCK_M), tl.arange(0, BLOCK_D)
    left = rows - first
    mask_m, mask_d = offs_m < left, offs_d < D
    inside = mask_m[:, None] & mask_d[None, :]
    at = offs_m[:, None] * D + offs_d[None, :]  # [BLOCK_M, BLOCK_D], from the program's first row
    x_ptr += first.to(tl.int64) * D
    out_ptr += first.to(tl.int64) * D

    x = tl.load(x_ptr + at, mask=inside, other=0.0).to(tl.float32)
    # Distances from the first number of each row: the rounding of a sum of equal numbers would leave the mean many
    # deviations away.
    about = tl.load(x_ptr + offs_m * D, mask=mask_m, other=0.0).to(tl.float32)
    mean = about + tl.sum(tl.where(mask_d[None, :], x - about[:, None], 0.0), axis=1) / D
    centred = tl.where(mask_d[None, :], x - mean[:, None], 0.0)
    rstd = tl.rsqrt(tl.sum(centred * centred, axis=1) / D + eps)
    if stats_ptr is not None:
        stats_at = stats_ptr + (first + offs_m).to(tl.int64) * 2
        tl.store(stats_at, mean, mask=mask_m)
        tl.store(stats_at + 1, rstd, mask=mask_m)
    xn = layer_norm_rows(x, mean, rstd, norm_weight_ptr, norm_bias_ptr, offs_d, mask_d).to(COMPUTE)

    acc = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    for start in range(0, F, BLOCK_F):
        offs_f, mask_f, up, down = hidden_chunk(up_ptr, down_ptr, start, offs_d, mask_d, D, F, BLOCK_F)
        pre = tl.dot(xn, tl.trans(up), input_precision=PRECISION)  # [BLOCK_M, BLOCK_F]
        pre += tl.load(up_bias_ptr + offs_f, mask=mask_f, other=0.0).to(tl.float32)[None, :]
        acc = tl.dot(gelu(pre).to(COMPUTE), tl.trans(down), acc, input_precision=PRECISION)

    # Dropout and residual in slices of BLOCK_R rows: whole rows of x and acc together do not fit the registers.
    tl.store(out_ptr + at, acc, mask=inside)
    tl.debug_barrier()
    bias = tl.load(down_bias_ptr + offs_d, mask=mask_d, other=0.0).to(tl.float32)[None, :]
    for skipped in range(0, BLOCK_M, BLOCK_R):
        slice_m = skipped + tl.arange(0, BLOCK_R)
        slice_in = (slice_m < left)[:, None] & mask_d[None, :]
        slice_at = slice_m[:, None] * D + offs_d[None, :]  # [BLOCK_R, BLOCK_D]
        y = tl.load(out_ptr + slice_at, mask=slice_in, other=0.0).to(tl.float32) + bias
        if DROPOUT:
            y *= dropout_tile(seed_ptr, first + slice_m, threshold, scale, BLOCK_D)
        y += tl.load(x_ptr + slice_at, mask=slice_in, other=0.0).to(tl.float32)
        tl.store(out_ptr + slice_at, y, mask=slice_in)


def _forward_configs(compute: torch.dtype, BLOCK_D: int, rows: int) -> dict[int, tuple[Config, ...]]:
    """Programs with more rows read fewer bytes of weights in all; few rows are better served by more programs."""
    if compute == torch.float32:
        return {80: choices(*([(32, 32, 8, 1), (16, 32, 4, 1)] if BLOCK_D <= 256 else [(16, 16, 8, 1)]), BLOCK_R=16)}
    if BLOCK_D > 512:
        return {80: choices((16, 16, 8, 1), (16, 32, 8, 1), BLOCK_R=8)}
    if BLOCK_D > 256:
        return {
            80: choices((32, 16, 8, 2), (32, 32, 8, 1), BLOCK_R=16),
            90: choices((64, 32, 8, 2), (64, 16, 8, 2), BLOCK_R=16),
        }
    wide, narrow = (128, 64, 8, 2), (64, 64, 8, 2)
    hopper = (narrow, wide) if rows <= 64 * 128 else (wide, narrow)
    return {
        80: choices((64, 64, 8, 2), (64, 32, 8, 2), BLOCK_R=16),
        89: choices((64, 32, 8, 2), (32, 32, 4, 2), BLOCK_R=16),
        90: choices(*hopper, (64, 32, 8, 2), BLOCK_R=32),
    }


def _products(weights: list[Tensor], compute: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """up and down weight in the dtype of products, and the buffer that holds their copies, as in `empty_packed`."""
    up, down = weights[2].contiguous(), weights[4].contiguous()
    packed = schema.empty_packed(up, down, compute)
    if packed.numel() == 0:
        return up, down, packed
    size = up.numel()
    launch(
        _pack_kernel,
        lambda c: (triton.cdiv(size, c["BLOCK"]),),
        {"up_ptr": up, "down_ptr": down, "packed_ptr": packed, "size": size},
        {},
        _PACK,
    )
    return packed[0], packed[1], packed


def dropout_args(seed: Tensor | None, p: float) -> dict[str, Any]:
    """Arguments of the kernels that say what is dropped: an element is kept where its word is at least `threshold`."""
    return {
        "seed_ptr": seed if seed is None else seed.contiguous(),
        "threshold": 0 if seed is None else min(math.ceil(p * 2**32), 2**32 - 1),
        "scale": 1.0 if seed is None else 1 / (1 - p),
    }


def _forward(
    x: Tensor, weights: list[Tensor], seed: Tensor | None, p: float, compute: torch.dtype, keep: bool
) -> tuple[Tensor, Tensor | None, Tensor]:
    B, N, D = x.shape
    rows, F = B * N, weights[2].shape[0]
    x = x.contiguous()
    up, down, packed = _products(weights, compute)
    out = schema.empty_output(x, compute)
    stats = x.new_empty((rows, 2), dtype=torch.float32) if keep else None
    norm_weight, norm_bias, up_bias, down_bias = (weights[i].contiguous() for i in (0, 1, 3, 5))
    BLOCK_D = block(D)
    launch(
        _forward_kernel,
        lambda c: (triton.cdiv(rows, c["BLOCK_M"]),),
        {
            "x_ptr": x, "norm_weight_ptr": norm_weight, "norm_bias_ptr": norm_bias, "up_ptr": up,
            "up_bias_ptr": up_bias, "down_ptr": down, "down_bias_ptr": down_bias, "out_ptr": out, "stats_ptr": stats,
            "rows": rows, "eps": EPS, **dropout_args(seed, p),
        },
        {
            "COMPUTE": TL_DTYPE[compute], "PRECISION": dot_precision(compute), "DROPOUT": seed is not None,
            "D": D, "F": F, "BLOCK_D": BLOCK_D,
        },
        _forward_configs(compute, BLOCK_D, rows),
        key=(D, F, compute, rows),
    )  # fmt: skip
    return out, stats, packed


def feed_forward_eval(x: Tensor, weights: list[Tensor], seed: Tensor | None, p: float, compute: torch.dtype) -> Tensor:
    """The launcher of `feed_forward_eval_triton`: x [B, N, D] -> [B, N, D]."""
    return _forward(x, weights, seed, p, compute, False)[0]


def feed_forward_train(
    x: Tensor, weights: list[Tensor], seed: Tensor | None, p: float, compute: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """The launcher of `feed_forward_train_triton`: the output, statistics [B N, 2] of the LayerNorm, weights as in
    `empty_packed`."""
    return _forward(x, weights, seed, p, compute, True)


def feed_forward_backward(
    grad: Tensor, x: Tensor, weights: list[Tensor], seed: Tensor | None, p: float, compute: torch.dtype,
    stats: Tensor, packed: Tensor, needs: int,
) -> list[Tensor]:  # fmt: skip
    """The launcher of `feed_forward_backward_triton`: gradients of x and of the weights, as in `empty_gradients`."""
    products = (packed[0], packed[1]) if packed.numel() else (weights[2].contiguous(), weights[4].contiguous())
    return triton_backward.gradients(grad, x, weights, products, stats, dropout_args(seed, p), needs, compute)
