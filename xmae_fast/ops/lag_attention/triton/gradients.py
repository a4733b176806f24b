"""Gradients of a product's input and weight on a GPU, LayerNorm included.

Every sum over rows is made of parts, each the sum over a tile or a split of the rows, which `reduce_parts` adds up in
fixed order, all of them in one launch.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from xmae_fast.ops._device import wait_for_previous_launch
from xmae_fast.ops._launch import TL_DTYPE, block, dot_precision, launch
from xmae_fast.ops.lag_attention.triton.linear import normed_tile


@triton.jit
def _weight_tile(weight_ptr, offs_k, offs_n, K, D):
    mask = (offs_k < K)[:, None] & (offs_n < D)[None, :]
    return tl.load(weight_ptr + offs_k[:, None] * D + offs_n[None, :], mask=mask, other=0.0)


@triton.jit
def _norm_sums(normed, x_ptr, norm_weight_ptr, parts_ptr, mean, rstd, offs_m, offs_n, mask_m, D):
    """Sums of n = normed w and of n xhat over some columns of a tile; parts of the gradients of w and b are written."""
    mask_n = offs_n < D
    x = tl.load(x_ptr + offs_m[:, None] * D + offs_n[None, :], mask=mask_m[:, None] & mask_n[None, :], other=0.0)
    weight = tl.load(norm_weight_ptr + offs_n, mask=mask_n, other=0.0).to(tl.float32)
    product = normed * (x.to(tl.float32) - mean[:, None]) * rstd[:, None]
    if parts_ptr is not None:
        tl.store(parts_ptr + offs_n, tl.sum(product, 0), mask=mask_n)
        tl.store(parts_ptr + D + offs_n, tl.sum(normed, 0), mask=mask_n)
    return tl.sum(normed * weight[None, :], 1), tl.sum(product * weight[None, :], 1)


@triton.jit
def _store_dx(
    normed, x_ptr, norm_weight_ptr, residual_ptr, dx_ptr, mean, rstd, mean_n, mean_nx, offs_m, offs_n, mask_m, D
):  # fmt: skip
    mask_n = offs_n < D
    at = offs_m[:, None] * D + offs_n[None, :]
    inside = mask_m[:, None] & mask_n[None, :]
    weight = tl.load(norm_weight_ptr + offs_n, mask=mask_n, other=0.0).to(tl.float32)
    # Loaded again, because to hold it would take too many registers.
    x = tl.load(x_ptr + at, mask=inside, other=0.0).to(tl.float32)
    dx = (x - mean[:, None]) * (-rstd * rstd * mean_nx)[:, None]
    if residual_ptr is not None:
        dx += tl.load(residual_ptr + at, mask=inside, other=0.0).to(tl.float32)
    dx += (normed * weight[None, :] - mean_n[:, None]) * rstd[:, None]
    tl.store(dx_ptr + at, dx.to(dx_ptr.dtype.element_ty), mask=inside)


@triton.jit
def _norm_backward_kernel(
    dy_ptr, weight_ptr,  # [rows, K], [K, D]
    x_ptr, norm_weight_ptr, mean_ptr, rstd_ptr, residual_ptr,  # [rows, D], [D], [rows], [rows], [rows, D] or None
    dx_ptr, parts_ptr,  # [rows, D] or None, [tiles, 2, D] or None
    rows, K, D,
    COMPUTE: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """dx = rstd (n - mean(n) - xhat mean(n xhat)) + residual, n = normed w, normed = dy W.

    dw = sum normed xhat and db = sum normed in parts, one for each tile. A program has whole rows, as two halves of
    BLOCK_N columns, which take fewer registers one after the other.
    """
    wait_for_previous_launch()
    tile = tl.program_id(0)
    offs_m = tl.arange(0, BLOCK_M)  # 32 bits within the tile
    left = tl.arange(0, BLOCK_N)
    right = BLOCK_N + tl.arange(0, BLOCK_N)
    mask_m = offs_m < rows - tile * BLOCK_M
    first_row = tile.to(tl.int64) * BLOCK_M
    dy_ptr += first_row * K
    normed_left = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    normed_right = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    for first in range(0, K, BLOCK_K):
        offs_k = first + tl.arange(0, BLOCK_K)
        inside = mask_m[:, None] & (offs_k < K)[None, :]
        dy = tl.load(dy_ptr + offs_m[:, None] * K + offs_k[None, :], mask=inside, other=0.0).to(COMPUTE)
        weight = _weight_tile(weight_ptr, offs_k, left, K, D).to(COMPUTE)
        normed_left = tl.dot(dy, weight, normed_left, input_precision=PRECISION)
        weight = _weight_tile(weight_ptr, offs_k, right, K, D).to(COMPUTE)
        normed_right = tl.dot(dy, weight, normed_right, input_precision=PRECISION)

    x_ptr += first_row * D
    mean = tl.load(mean_ptr + first_row + offs_m, mask=mask_m, other=0.0)
    rstd = tl.load(rstd_ptr + first_row + offs_m, mask=mask_m, other=0.0)
    if parts_ptr is not None:
        parts_ptr += tile.to(tl.int64) * 2 * D
    n_left, nx_left = _norm_sums(normed_left, x_ptr, norm_weight_ptr, parts_ptr, mean, rstd, offs_m, left, mask_m, D)
    n_right, nx_right = _norm_sums(
        normed_right, x_ptr, norm_weight_ptr, parts_ptr, mean, rstd, offs_m, right, mask_m, D
    )
    if dx_ptr is not None:
        dx_ptr += first_row * D
        if residual_ptr is not None:
            residual_ptr += first_row * D
        mean_n = (n_left + n_right) / D
        mean_nx = (nx_left + nx_right) / D
        _store_dx(
            normed_left, x_ptr, norm_weight_ptr, residual_ptr, dx_ptr, mean, rstd, mean_n, mean_nx,
            offs_m, left, mask_m, D,
        )  # fmt: skip
        _store_dx(
            normed_right, x_ptr, norm_weight_ptr, residual_ptr, dx_ptr, mean, rstd, mean_n, mean_nx,
            offs_m, right, mask_m, D,
        )  # fmt: skip


def norm_rows(D: int, compute: torch.dtype) -> int:
    """Rows of a tile of `norm_backward`, which holds whole rows in registers."""
    return max(16, (16384 if compute != torch.float32 else 8192) // block(D))


def norm_backward(
    dy: Tensor, weight: Tensor, x: Tensor, norm_weight: Tensor, stats: tuple[Tensor, Tensor], residual: Tensor | None,
    dx: Tensor | None, parts: Tensor | None, compute: torch.dtype,
) -> None:  # fmt: skip
    """Gradients of x and of the LayerNorm's parameters from dy, the gradient of LN(x) weight^T.

    Args:
        dy: [rows, K].
        weight: [K, D].
        x: [rows, D].
        norm_weight: [D].
        stats: means and 1 / deviations of the rows, [rows] each.
        residual: [rows, D], what is added to the gradient of x, or None.
        dx: [rows, D], where the gradient of x goes, or None.
        parts: [tiles, 2, D], where the parts of the gradients of weight and bias go, or None.
        compute: the dtype of products.
    """
    rows, D = x.shape
    tile, wide = norm_rows(D, compute), block(D)
    shortest = 32 if wide <= 512 else 16
    configs = ({"BLOCK_K": shortest, "num_warps": 8, "num_stages": 2}, {"BLOCK_K": 16, "num_warps": 8, "num_stages": 2})
    if compute != torch.float32 and wide <= 256:
        configs = ({"BLOCK_K": 64, "num_warps": 8, "num_stages": 2}, configs[0])
    launch(
        _norm_backward_kernel,
        lambda c: (triton.cdiv(rows, tile),),
        {
            "dy_ptr": dy, "weight_ptr": weight, "x_ptr": x, "norm_weight_ptr": norm_weight, "mean_ptr": stats[0],
            "rstd_ptr": stats[1], "residual_ptr": residual, "dx_ptr": dx, "parts_ptr": parts,
            "rows": rows, "K": dy.shape[1], "D": D,
        },
        {
            "COMPUTE": TL_DTYPE[compute], "PRECISION": dot_precision(compute),
            "BLOCK_M": tile, "BLOCK_N": max(wide // 2, 16),
        },
        {80: configs},
        key=(rows, dy.shape[1], D, compute),
    )  # fmt: skip


@triton.jit
def _weight_gradient_kernel(
    dy_ptr, x_ptr, norm_weight_ptr, norm_bias_ptr, mean_ptr, rstd_ptr,  # [rows, M], [rows, K], and [K], [rows] or None
    weight_parts_ptr, bias_parts_ptr,  # [M, K] and [M] of every split, stride_split apart
    rows, rows_of_split, M, K, stride_split,
    COMPUTE: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_R: tl.constexpr,
):  # fmt: skip
    """dy^T LN(x) and the sum of dy over the rows of one split; x itself instead of LN(x) where there is no norm."""
    wait_for_previous_launch()
    tiles_m = tl.cdiv(M, BLOCK_M)
    tiles_n = tl.cdiv(K, BLOCK_N)
    tile_n = tl.program_id(0) % tiles_n
    tile_m = tl.program_id(0) // tiles_n % tiles_m
    split = tl.program_id(0) // tiles_n // tiles_m
    offs_m = tile_m * BLOCK_M + tl.arange(0, BLOCK_M)
    offs_n = tile_n * BLOCK_N + tl.arange(0, BLOCK_N)
    mask_m = offs_m < M
    mask_n = offs_n < K
    weight = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    bias = tl.zeros([BLOCK_M], tl.float32)
    end = tl.minimum((split + 1) * rows_of_split, rows)
    for first in range(split * rows_of_split, end, BLOCK_R):
        offs_r = first + tl.arange(0, BLOCK_R)
        mask_r = offs_r < end
        row = offs_r.to(tl.int64)
        dy = tl.load(dy_ptr + row[:, None] * M + offs_m[None, :], mask=mask_r[:, None] & mask_m[None, :], other=0.0)
        if norm_weight_ptr is not None:
            mean = tl.load(mean_ptr + row, mask=mask_r, other=0.0)
            rstd = tl.load(rstd_ptr + row, mask=mask_r, other=0.0)
            x = normed_tile(x_ptr, norm_weight_ptr, norm_bias_ptr, row, mask_r, mean, rstd, offs_n, K)
        else:
            x = tl.load(x_ptr + row[:, None] * K + offs_n[None, :], mask=mask_r[:, None] & mask_n[None, :], other=0.0)
        weight = tl.dot(tl.trans(dy.to(COMPUTE)), x.to(COMPUTE), weight, input_precision=PRECISION)
        bias += tl.sum(dy.to(tl.float32), 0)
    part = split.to(tl.int64) * stride_split
    at = part + offs_m[:, None] * K + offs_n[None, :]
    tl.store(weight_parts_ptr + at, weight, mask=mask_m[:, None] & mask_n[None, :])
    if tile_n == 0:
        tl.store(bias_parts_ptr + part + offs_m, bias, mask=mask_m)


def splits_of(rows: int) -> int:
    """Of how many parts a weight gradient over so many rows is made."""
    return min(max(rows // 512, 1), 16)


def weight_gradient(
    dy: Tensor, x: Tensor, norm: tuple[Tensor, Tensor, Tensor, Tensor] | None, weight_parts: Tensor, bias_parts: Tensor,
    compute: torch.dtype,
) -> None:  # fmt: skip
    """dy^T LN(x) and the sum of dy, each in parts.

    Args:
        dy: [rows, M].
        x: [rows, K].
        norm: weight, bias, means and 1 / deviations of the LayerNorm; None: x itself instead of LN(x).
        weight_parts: [splits, M, K] float32, where the parts of the product go.
        bias_parts: [splits, M] float32, where the parts of the sum go.
        compute: the dtype of products.
    """
    (rows, M), K = dy.shape, x.shape[1]
    splits = weight_parts.shape[0]
    norm_weight, norm_bias, mean, rstd = norm or (None,) * 4
    wide = {"num_stages": 2, "BLOCK_R": 64}
    if compute == torch.float32:
        small = {"BLOCK_M": 64, "BLOCK_N": 64, "num_warps": 8, "num_stages": 2}
        configs = {80: ({**small, "BLOCK_R": 16}, {**small, "BLOCK_R": 32})}
    else:
        tall = {**wide, "BLOCK_M": 128, "BLOCK_N": 64, "num_warps": 4}
        large = {**wide, "BLOCK_M": 128, "BLOCK_N": 128, "num_warps": 8}
        configs = {80: (tall, large), 90: (tall, large, {**wide, "BLOCK_M": 64, "BLOCK_N": 64, "num_warps": 4})}
    launch(
        _weight_gradient_kernel,
        lambda c: (triton.cdiv(M, c["BLOCK_M"]) * triton.cdiv(K, c["BLOCK_N"]) * splits,),
        {
            "dy_ptr": dy, "x_ptr": x, "norm_weight_ptr": norm_weight, "norm_bias_ptr": norm_bias, "mean_ptr": mean,
            "rstd_ptr": rstd, "weight_parts_ptr": weight_parts, "bias_parts_ptr": bias_parts,
            "rows": rows, "rows_of_split": triton.cdiv(triton.cdiv(rows, splits), 64) * 64, "M": M, "K": K,
            "stride_split": weight_parts.stride(0),
        },
        {"COMPUTE": TL_DTYPE[compute], "PRECISION": dot_precision(compute)},
        configs,
        key=(rows, M, K, compute, norm is None),
    )  # fmt: skip
