"""Backward of the patch embedding in at most four launches. G [rows, D] is the gradient, rows = B N, K = P * S.

    features: d rows = G W,   weight: dW = G^T rows,   pos: dpos[n] = sum_b G[b, n],   bias: dbias = sum_n dpos[n]

The sums over rows are taken in shares, each by its own program, which the last launch adds in fixed order.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from xmae_fast.ops._device import sum_parts, wait_for_previous_launch
from xmae_fast.ops._gradients import empty_gradients
from xmae_fast.ops._launch import TL_DTYPE, Config, dot_precision, launch

_PROGRAMS = 160  # for the weight's gradient; somewhat more than a GPU has multiprocessors
_ROWS = 64  # shares of rows are multiples of this
_SUM_SHARES = 8  # shares of the samples, for the gradients of bias and pos


@triton.jit
def _features_kernel(
    grad_ptr, packed_ptr, features_ptr,  # [rows, D], [D, K], gradient [rows, K]
    rows, K, D,
    COMPUTE: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    wait_for_previous_launch()
    row = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    offs_k = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    mask_m, mask_k = row < rows, offs_k < K
    grad_at = grad_ptr + row.to(tl.int64)[:, None] * D

    acc = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    for start in range(0, D, BLOCK_K):
        offs_d = start + tl.arange(0, BLOCK_K)
        mask_d = offs_d < D
        a = tl.load(grad_at + offs_d[None, :], mask=mask_m[:, None] & mask_d[None, :], other=0.0).to(COMPUTE)
        packed_at = packed_ptr + offs_d.to(tl.int64)[:, None] * K + offs_k[None, :]
        b = tl.load(packed_at, mask=mask_d[:, None] & mask_k[None, :], other=0.0)
        acc = tl.dot(a, b, acc, input_precision=PRECISION)
    at = row.to(tl.int64)[:, None] * K + offs_k[None, :]
    tl.store(features_ptr + at, acc, mask=mask_m[:, None] & mask_k[None, :])


@triton.jit
def _weight_kernel(
    grad_ptr, features_ptr, shares_ptr,  # [rows, D], [rows, K], float32 [splits, D, K]
    rows, rows_per_split, K, D,
    COMPUTE: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    wait_for_previous_launch()
    offs_d = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    offs_k = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    mask_d, mask_k = offs_d < D, offs_k < K
    split = tl.program_id(2)
    first = split * rows_per_split
    end = tl.minimum(first + rows_per_split, rows)

    acc = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    for start in range(first, end, BLOCK_K):
        row = start + tl.arange(0, BLOCK_K)
        mask_r = (row < end)[:, None]
        row = row.to(tl.int64)[:, None]
        g = tl.load(grad_ptr + row * D + offs_d[None, :], mask=mask_r & mask_d[None, :], other=0.0).to(COMPUTE)
        x = tl.load(features_ptr + row * K + offs_k[None, :], mask=mask_r & mask_k[None, :], other=0.0).to(COMPUTE)
        acc = tl.dot(tl.trans(g), x, acc, input_precision=PRECISION)
    at = (split.to(tl.int64) * D + offs_d[:, None]) * K + offs_k[None, :]
    tl.store(shares_ptr + at, acc, mask=mask_d[:, None] & mask_k[None, :])


@triton.jit
def _sums_kernel(grad_ptr, sums_ptr, B, per_share, size, BLOCK: tl.constexpr, BLOCK_P: tl.constexpr):
    """sums[share] = sum of grad[b] over a share of the samples; grad [B, size], sums float32 [shares, size]."""
    wait_for_previous_launch()
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    first = tl.program_id(1) * per_share
    samples = tl.minimum(per_share, B - first)
    total = sum_parts(grad_ptr + first.to(tl.int64) * size, samples, size, at, at < size, BLOCK_P)
    tl.store(sums_ptr + tl.program_id(1).to(tl.int64) * size + at, total, mask=at < size)


@triton.jit
def _reduce_kernel(
    shares_ptr, sums_ptr,  # [splits, D, K], [shares, N, D]
    weight_ptr, bias_ptr, pos_ptr,  # gradients [D, S, P], [D], [N, D]; None: not asked for
    splits, shares, N, D, S, P,
    BLOCK: tl.constexpr, BLOCK_P: tl.constexpr,
):  # fmt: skip
    wait_for_previous_launch()
    of_weight, of_bias = tl.cdiv(D * S * P, BLOCK), tl.cdiv(D, BLOCK)
    program = tl.program_id(0)
    lane = tl.arange(0, BLOCK)
    if program < of_weight:
        if weight_ptr is not None:
            at = program * BLOCK + lane
            mask = at < D * S * P
            total = sum_parts(shares_ptr, splits, D * S * P, at, mask, BLOCK_P)
            d, p, s = at // (S * P), at // S % P, at % S
            tl.store(weight_ptr + (d * S + s) * P + p, total, mask=mask)
    elif program < of_weight + of_bias:
        if bias_ptr is not None:
            at = (program - of_weight) * BLOCK + lane
            total = sum_parts(sums_ptr, shares * N, D, at, at < D, BLOCK_P)
            tl.store(bias_ptr + at, total, mask=at < D)
    else:
        if pos_ptr is not None:
            at = (program - of_weight - of_bias) * BLOCK + lane
            total = sum_parts(sums_ptr, shares, N * D, at, at < N * D, BLOCK_P)
            tl.store(pos_ptr + at, total, mask=at < N * D)


def choices(*blocks_warps_stages: tuple[int, int, int, int, int]) -> tuple[Config, ...]:
    """Configurations (BLOCK_M, BLOCK_N, BLOCK_K, num_warps, num_stages)."""
    names = ("BLOCK_M", "BLOCK_N", "BLOCK_K", "num_warps", "num_stages")
    return tuple(dict(zip(names, choice, strict=True)) for choice in blocks_warps_stages)


_SINGLE = {80: choices((64, 64, 16, 8, 2), (32, 64, 16, 4, 2))}  # products in float32
_FEATURES = {
    80: choices((64, 128, 32, 4, 3), (64, 64, 64, 4, 2)),
    89: choices((64, 64, 32, 4, 3), (64, 128, 32, 4, 2)),
    90: choices((128, 128, 64, 8, 3), (128, 256, 64, 8, 2), (64, 128, 64, 4, 3)),
}
_WEIGHT = {
    80: choices((64, 128, 32, 4, 3), (64, 64, 64, 4, 2)),
    89: choices((64, 64, 32, 4, 3), (64, 128, 32, 4, 2)),
    90: choices((128, 128, 64, 8, 3), (64, 128, 64, 4, 3), (128, 128, 32, 8, 4)),
}
_SUMS = {80: ({"BLOCK": 128, "BLOCK_P": 8, "num_warps": 4}, {"BLOCK": 64, "BLOCK_P": 16, "num_warps": 4})}


def gradients(
    grad: Tensor, features: Tensor, weight: Tensor, bias: Tensor, pos: Tensor, packed: Tensor, needs: int
) -> list[Tensor]:
    """Gradients of features [B, L, S], weight, bias, pos, as in `empty_gradients`."""
    grad, features = grad.contiguous(), features.contiguous()
    (B, N, D), (_, S, P), compute = grad.shape, weight.shape, packed.dtype
    rows, K = B * N, S * P
    found = empty_gradients((features, weight, bias, pos), needs)
    d_features, d_weight, d_bias, d_pos = (out if needs >> i & 1 else None for i, out in enumerate(found))
    constants = {"COMPUTE": TL_DTYPE[compute], "PRECISION": dot_precision(compute)}
    if d_features is not None:
        launch(
            _features_kernel,
            lambda c: (triton.cdiv(rows, c["BLOCK_M"]), triton.cdiv(K, c["BLOCK_N"])),
            {"grad_ptr": grad, "packed_ptr": packed, "features_ptr": d_features, "rows": rows, "K": K, "D": D},
            constants,
            _SINGLE if compute == torch.float32 else _FEATURES,
            key=(rows, K, D, compute),
        )

    shares = sums = grad.new_empty((0,), dtype=torch.float32)
    if d_weight is not None:
        tiles = triton.cdiv(rows, _ROWS)
        blocks = triton.cdiv(D, 128) * triton.cdiv(K, 128)
        per_split = max(1, triton.cdiv(tiles, max(1, _PROGRAMS // blocks))) * _ROWS
        shares = grad.new_empty((triton.cdiv(rows, per_split), D, K), dtype=torch.float32)
        launch(
            _weight_kernel,
            lambda c: (triton.cdiv(D, c["BLOCK_M"]), triton.cdiv(K, c["BLOCK_N"]), shares.shape[0]),
            {
                "grad_ptr": grad, "features_ptr": features, "shares_ptr": shares,
                "rows": rows, "rows_per_split": per_split, "K": K, "D": D,
            },
            constants,
            _SINGLE if compute == torch.float32 else _WEIGHT,
            key=(rows, K, D, compute),
        )  # fmt: skip
    if d_bias is not None or d_pos is not None:
        per_share = max(1, triton.cdiv(B, _SUM_SHARES))
        sums = grad.new_empty((triton.cdiv(B, per_share), N, D), dtype=torch.float32)
        launch(
            _sums_kernel,
            lambda c: (triton.cdiv(N * D, c["BLOCK"]), sums.shape[0]),
            {"grad_ptr": grad, "sums_ptr": sums, "B": B, "per_share": per_share, "size": N * D},
            {},
            _SUMS,
            key=(B, N * D),
        )
    if any(out is not None for out in (d_weight, d_bias, d_pos)):
        launch(
            _reduce_kernel,
            lambda c: (sum(triton.cdiv(size, c["BLOCK"]) for size in (D * K, D, N * D)),),
            {
                "shares_ptr": shares, "sums_ptr": sums, "weight_ptr": d_weight, "bias_ptr": d_bias, "pos_ptr": d_pos,
                "splits": shares.shape[0], "shares": sums.shape[0], "N": N, "D": D, "S": S, "P": P,
            },
            {},
            _SUMS,
            key=(D, K, N),
        )  # fmt: skip
    return found
