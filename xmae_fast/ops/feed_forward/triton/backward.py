"""Backward of the feed-forward sublayer in three launches, two of which compute the hidden layer again.

    g' = dropout(g),  pre = LN(x) W1^T + b1,  dpre = (g' W2) * gelu'(pre)

1. rows: a program owns BLOCK_M rows, goes over the hidden layer and gets d LN(x) = dpre W1, hence dx, and its rows'
   share of the gradients of the norm and of b2. It leaves LN(x) and g' in the dtype of products for
2. weights: a program owns BLOCK_F hidden units and a share of the rows: dW1 = dpre^T LN(x), dW2 = g'^T gelu(pre),
   db1 = sum of dpre.
3. reduce: the shares are added in fixed order.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from xmae_fast.ops._device import gelu_grad, sum_parts, wait_for_previous_launch
from xmae_fast.ops._gradients import empty_gradients
from xmae_fast.ops._launch import TL_DTYPE, Config, block, dot_precision, launch
from xmae_fast.ops.feed_forward.triton.rows import choices, dropout_tile, hidden_chunk, layer_norm_rows
from xmae_fast.ops.feed_forward.triton.weights import weight_shares


@triton.jit
def _rows_kernel(
    grad_ptr, x_ptr, stats_ptr, norm_weight_ptr, norm_bias_ptr, up_ptr, up_bias_ptr, down_ptr, seed_ptr,
    xn_ptr, g_ptr,  # [rows, D] in the dtype of products, or None
    dxn_ptr, dx_ptr,  # float32 [rows, D] work space or None, [rows, D] (may be the same)
    sums_ptr,  # [tiles, 3, D] of norm weight, norm bias, down bias
    rows, threshold, scale,
    D: tl.constexpr, F: tl.constexpr, COMPUTE: tl.constexpr, PRECISION: tl.constexpr, DROPOUT: tl.constexpr,
    BLOCK_D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_F: tl.constexpr, BLOCK_R: tl.constexpr,
):  # fmt: skip
    wait_for_previous_launch()
    tile = tl.program_id(0)
    first = (tile * BLOCK_M).to(tl.int64)  # all row pointers begin here
    grad_ptr += first * D
    x_ptr += first * D
    stats_ptr += first * 2
    sums_ptr += tile.to(tl.int64) * 3 * D
    offs_m, offs_d = tl.arange(0, BLOCK_M), tl.arange(0, BLOCK_D)
    left = rows - tile * BLOCK_M
    mask_m, mask_d = offs_m < left, offs_d < D
    inside = mask_m[:, None] & mask_d[None, :]
    at = offs_m[:, None] * D + offs_d[None, :]  # [BLOCK_M, BLOCK_D]

    g = tl.load(grad_ptr + at, mask=inside, other=0.0).to(tl.float32)
    if DROPOUT:
        g *= dropout_tile(seed_ptr, tile * BLOCK_M + offs_m, threshold, scale, BLOCK_D)
    tl.store(sums_ptr + 2 * D + offs_d, tl.sum(g, axis=0), mask=mask_d)
    g = g.to(COMPUTE)
    if g_ptr is not None:
        tl.store(g_ptr + first * D + at, g, mask=inside)

    mean = tl.load(stats_ptr + offs_m * 2, mask=mask_m, other=0.0)
    rstd = tl.load(stats_ptr + offs_m * 2 + 1, mask=mask_m, other=0.0)
    x = tl.load(x_ptr + at, mask=inside, other=0.0).to(tl.float32)
    xn = layer_norm_rows(x, mean, rstd, norm_weight_ptr, norm_bias_ptr, offs_d, mask_d).to(COMPUTE)
    if xn_ptr is not None:
        tl.store(xn_ptr + first * D + at, xn, mask=inside)

    if dxn_ptr is not None:
        acc = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
        for start in range(0, F, BLOCK_F):
            offs_f, mask_f, up, down = hidden_chunk(up_ptr, down_ptr, start, offs_d, mask_d, D, F, BLOCK_F)
            pre = tl.dot(xn, tl.trans(up), input_precision=PRECISION)  # [BLOCK_M, BLOCK_F]
            pre += tl.load(up_bias_ptr + offs_f, mask=mask_f, other=0.0).to(tl.float32)[None, :]
            dpre = tl.dot(g, down, input_precision=PRECISION) * gelu_grad(pre)
            acc = tl.dot(dpre.to(COMPUTE), up, acc, input_precision=PRECISION)

        # LayerNorm's backward in slices of BLOCK_R rows: whole rows of x, g and acc together do not fit the registers.
        tl.store(dxn_ptr + first * D + at, acc, mask=inside)
        tl.debug_barrier()
        weight = tl.load(norm_weight_ptr + offs_d, mask=mask_d, other=0.0).to(tl.float32)[None, :]
        d_weight = tl.zeros([BLOCK_R, BLOCK_D], tl.float32)
        d_bias = tl.zeros([BLOCK_R, BLOCK_D], tl.float32)
        for skipped in range(0, BLOCK_M, BLOCK_R):
            slice_m = skipped + tl.arange(0, BLOCK_R)
            slice_in = (slice_m < left)[:, None] & mask_d[None, :]
            slice_at = slice_m[:, None] * D + offs_d[None, :]  # [BLOCK_R, BLOCK_D]
            slice_mean = tl.load(stats_ptr + slice_m * 2, mask=slice_m < left, other=0.0)[:, None]
            slice_rstd = tl.load(stats_ptr + slice_m * 2 + 1, mask=slice_m < left, other=0.0)[:, None]
            dxn = tl.load(dxn_ptr + first * D + slice_at, mask=slice_in, other=0.0)
            xhat = (tl.load(x_ptr + slice_at, mask=slice_in, other=0.0).to(tl.float32) - slice_mean) * slice_rstd
            xhat = tl.where(slice_in, xhat, 0.0)
            d_weight += dxn * xhat
            d_bias += dxn
            if dx_ptr is not None:
                dxhat = dxn * weight
                along = tl.sum(dxhat * xhat, axis=1)[:, None] / D
                dx = slice_rstd * (dxhat - tl.sum(dxhat, axis=1)[:, None] / D - xhat * along)
                dx += tl.load(grad_ptr + slice_at, mask=slice_in, other=0.0).to(tl.float32)
                tl.store(dx_ptr + first * D + slice_at, dx, mask=slice_in)
        tl.store(sums_ptr + offs_d, tl.sum(d_weight, axis=0), mask=mask_d)
        tl.store(sums_ptr + D + offs_d, tl.sum(d_bias, axis=0), mask=mask_d)


@triton.jit
def _reduce_kernel(
    shares_ptr, sums_ptr,  # [splits, 2 F D + F] of W1, W2, b1; [tiles, 3, D] of norm weight, norm bias, b2
    up_ptr, down_ptr, up_bias_ptr, norm_weight_ptr, norm_bias_ptr, down_bias_ptr,  # gradients, None: not asked for
    splits, tiles, D, F,
    BLOCK: tl.constexpr, BLOCK_P: tl.constexpr,
):  # fmt: skip
    wait_for_previous_launch()
    of_weight, of_bias, of_norm = tl.cdiv(F * D, BLOCK), tl.cdiv(F, BLOCK), tl.cdiv(D, BLOCK)
    program = tl.program_id(0)
    stride = 2 * F * D + F
    lane = tl.arange(0, BLOCK)
    if program < of_weight:
        if up_ptr is not None:
            _write_sum(shares_ptr, splits, stride, up_ptr, program * BLOCK + lane, F * D, BLOCK_P)
    elif program < 2 * of_weight:
        if down_ptr is not None:
            at = (program - of_weight) * BLOCK + lane
            _write_sum(shares_ptr + F * D, splits, stride, down_ptr, at, F * D, BLOCK_P)
    elif program < 2 * of_weight + of_bias:
        if up_bias_ptr is not None:
            at = (program - 2 * of_weight) * BLOCK + lane
            _write_sum(shares_ptr + 2 * F * D, splits, stride, up_bias_ptr, at, F, BLOCK_P)
    else:
        at = (program - 2 * of_weight - of_bias) % of_norm * BLOCK + lane
        which = (program - 2 * of_weight - of_bias) // of_norm
        if which == 0:
            if norm_weight_ptr is not None:
                _write_sum(sums_ptr, tiles, 3 * D, norm_weight_ptr, at, D, BLOCK_P)
        elif which == 1:
            if norm_bias_ptr is not None:
                _write_sum(sums_ptr + D, tiles, 3 * D, norm_bias_ptr, at, D, BLOCK_P)
        else:
            if down_bias_ptr is not None:
                _write_sum(sums_ptr + 2 * D, tiles, 3 * D, down_bias_ptr, at, D, BLOCK_P)


@triton.jit
def _write_sum(parts_ptr, parts, stride, out_ptr, at, size, BLOCK_P: tl.constexpr):
    total = sum_parts(parts_ptr, parts, stride, at, at < size, BLOCK_P)
    tl.store(out_ptr + at, total, mask=at < size)


_REDUCE = {80: ({"BLOCK": 128, "BLOCK_P": 8, "num_warps": 4}, {"BLOCK": 64, "BLOCK_P": 32, "num_warps": 4})}


def _rows_configs(compute: torch.dtype, BLOCK_D: int, rows: int) -> dict[int, tuple[Config, ...]]:
    if compute == torch.float32:
        return {80: choices((16, 16, 8, 1), (16, 16, 4, 1), BLOCK_R=16)}
    if BLOCK_D > 512:
        return {80: choices((16, 16, 8, 1), BLOCK_R=8)}
    if BLOCK_D > 256:
        return {80: choices((32, 16, 8, 1), (16, 16, 8, 1), BLOCK_R=8), 90: choices((64, 16, 8, 1), BLOCK_R=8)}
    two_a_processor = choices((64, 16, 4, 2), BLOCK_R=8)
    hopper = choices((64, 32, 8, 2), (128, 16, 8, 2), BLOCK_R=16)
    return {
        80: choices((64, 32, 8, 2), (32, 32, 4, 2), BLOCK_R=16),
        89: choices((32, 32, 4, 2), (32, 32, 4, 1), BLOCK_R=16),
        90: hopper + two_a_processor if rows <= 64 * 128 else two_a_processor + hopper,
    }


def gradients(
    grad: Tensor, x: Tensor, weights: list[Tensor], products: tuple[Tensor, Tensor], stats: Tensor,
    dropout: dict[str, Any], needs: int, compute: torch.dtype,
) -> list[Tensor]:  # fmt: skip
    """Gradients of x and of the weights; those whose bit in `needs` is not set have no elements.

    Args:
        products: up and down weight in `compute`.
        dropout: the arguments of the kernels that say what is dropped.
    """
    rows, D, F = x.shape[0] * x.shape[1], x.shape[2], weights[2].shape[0]
    grad, x = grad.contiguous(), x.contiguous()
    up, down = products
    norm_weight, norm_bias, up_bias = (weights[i].contiguous() for i in (0, 1, 3))
    found = empty_gradients((x, *weights), needs)
    dx, *dweights = (out if needs >> i & 1 else None for i, out in enumerate(found))
    d_norm_weight, d_norm_bias, d_up, d_up_bias, d_down, d_down_bias = dweights
    with_weights = any(out is not None for out in (d_up, d_up_bias, d_down))
    with_dxn = any(out is not None for out in (dx, d_norm_weight, d_norm_bias))

    BLOCK_D = block(D)
    configs = _rows_configs(compute, BLOCK_D, rows)
    same = dropout["seed_ptr"] is None and grad.dtype == compute
    g = None if same or not with_weights else grad.new_empty((rows, D), dtype=compute)
    xn = x.new_empty((rows, D), dtype=compute) if with_weights else None
    dxn = None
    if with_dxn:
        in_place = dx is not None and dx.dtype == torch.float32
        dxn = dx if in_place else x.new_empty((rows, D), dtype=torch.float32)
    least = min(c["BLOCK_M"] for options in configs.values() for c in options)
    sums = x.new_empty((triton.cdiv(rows, least), 3, D), dtype=torch.float32)
    tiles = 0

    def grid(c: Config) -> tuple[int]:
        nonlocal tiles  # tuning may run several configurations; the one that counts comes last
        tiles = triton.cdiv(rows, c["BLOCK_M"])
        return (tiles,)

    launch(
        _rows_kernel,
        grid,
        {
            "grad_ptr": grad, "x_ptr": x, "stats_ptr": stats, "norm_weight_ptr": norm_weight,
            "norm_bias_ptr": norm_bias, "up_ptr": up, "up_bias_ptr": up_bias, "down_ptr": down,
            "xn_ptr": xn, "g_ptr": g, "dxn_ptr": dxn, "dx_ptr": dx, "sums_ptr": sums,
            "rows": rows, **dropout,
        },
        {
            "COMPUTE": TL_DTYPE[compute], "PRECISION": dot_precision(compute), "D": D, "F": F, "BLOCK_D": BLOCK_D,
            "DROPOUT": dropout["seed_ptr"] is not None,
        },
        configs,
        key=(D, F, compute, rows),
    )  # fmt: skip
    if all(out is None for out in dweights):
        return found
    shares = sums[:0]
    if with_weights:
        shares = weight_shares(grad if g is None else g, xn, up, up_bias, down, compute)
    launch(
        _reduce_kernel,
        lambda c: (2 * triton.cdiv(F * D, c["BLOCK"]) + triton.cdiv(F, c["BLOCK"]) + 3 * triton.cdiv(D, c["BLOCK"]),),
        {
            "shares_ptr": shares, "sums_ptr": sums, "up_ptr": d_up, "down_ptr": d_down, "up_bias_ptr": d_up_bias,
            "norm_weight_ptr": d_norm_weight, "norm_bias_ptr": d_norm_bias, "down_bias_ptr": d_down_bias,
            "splits": shares.shape[0], "tiles": tiles, "D": D, "F": F,
        },
        {},
        _REDUCE,
        key=(D, F, rows),
    )  # fmt: skip
    return found
