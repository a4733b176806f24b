"""Products with a weight on a GPU: out = LN(x) W^T + bias + residual, each part but the product optional.

One kernel serves the projections in (with a LayerNorm before them), the projection out (with a residual after it) and,
with the weight's strides exchanged, the gradient of the context. A program makes one tile [BLOCK_M, BLOCK_N] of `out`.
The LayerNorm's statistics come from two passes over its rows; the second pass and the product find the rows in the L1
cache. In training with dropout the first projection also draws the masks: every program writes an equal share of them.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from xmae_fast.ops._device import philox_words, wait_for_previous_launch
from xmae_fast.ops._launch import TL_DTYPE, dot_precision, launch

EPS = tl.constexpr(1e-5)
DRAWS = tl.constexpr(1024)  # Philox draws, of four elements each, that a program makes at a time

_HALF = {
    80: (
        {"BLOCK_M": 128, "BLOCK_N": 128, "BLOCK_K": 64, "num_warps": 8, "num_stages": 2},
        {"BLOCK_M": 64, "BLOCK_N": 64, "BLOCK_K": 64, "num_warps": 4, "num_stages": 2},
    ),
    89: (
        {"BLOCK_M": 64, "BLOCK_N": 64, "BLOCK_K": 64, "num_warps": 4, "num_stages": 2},
        {"BLOCK_M": 64, "BLOCK_N": 128, "BLOCK_K": 32, "num_warps": 4, "num_stages": 2},
    ),
    90: (
        {"BLOCK_M": 128, "BLOCK_N": 128, "BLOCK_K": 64, "num_warps": 8, "num_stages": 2},
        {"BLOCK_M": 64, "BLOCK_N": 128, "BLOCK_K": 64, "num_warps": 4, "num_stages": 2},
        {"BLOCK_M": 128, "BLOCK_N": 128, "BLOCK_K": 64, "num_warps": 8, "num_stages": 3},
    ),
}
_SINGLE = {
    80: (
        {"BLOCK_M": 64, "BLOCK_N": 64, "BLOCK_K": 16, "num_warps": 4, "num_stages": 2},
        {"BLOCK_M": 64, "BLOCK_N": 64, "BLOCK_K": 16, "num_warps": 8, "num_stages": 2},
    ),
    90: (
        {"BLOCK_M": 64, "BLOCK_N": 64, "BLOCK_K": 32, "num_warps": 8, "num_stages": 2},
        {"BLOCK_M": 64, "BLOCK_N": 64, "BLOCK_K": 16, "num_warps": 4, "num_stages": 2},
    ),
}


@triton.jit
def normed_tile(x_ptr, norm_weight_ptr, norm_bias_ptr, row, mask_m, mean, rstd, offs_k, K):
    """(x - mean) rstd w + b for rows of x [rows, K] -> float32 [BLOCK_M, BLOCK_K]; 0 in columns beyond K."""
    mask_k = offs_k < K
    x = tl.load(x_ptr + row[:, None] * K + offs_k[None, :], mask=mask_m[:, None] & mask_k[None, :], other=0.0)
    weight = tl.load(norm_weight_ptr + offs_k, mask=mask_k, other=0.0).to(tl.float32)
    bias = tl.load(norm_bias_ptr + offs_k, mask=mask_k, other=0.0).to(tl.float32)
    return (x.to(tl.float32) - mean[:, None]) * (rstd[:, None] * weight[None, :]) + bias[None, :]


@triton.jit
def _statistics(x_ptr, row, mask_m, K, BLOCK_M: tl.constexpr, BLOCK_K: tl.constexpr):
    """Mean and 1 / sqrt(variance + eps) of rows of x [rows, K], by two passes.

    The first pass adds distances from the first number of each row: the rounding of a sum of equal numbers would leave
    the mean many deviations away.
    """
    about = tl.load(x_ptr + row * K, mask=mask_m, other=0.0).to(tl.float32)
    total = tl.zeros([BLOCK_M, BLOCK_K], tl.float32)
    for first in range(0, K, BLOCK_K):
        offs_k = first + tl.arange(0, BLOCK_K)
        mask = mask_m[:, None] & (offs_k < K)[None, :]
        x = tl.load(x_ptr + row[:, None] * K + offs_k[None, :], mask=mask, other=0.0).to(tl.float32)
        total += tl.where(mask, x - about[:, None], 0.0)
    mean = about + tl.sum(total, 1) / K
    total = tl.zeros([BLOCK_M, BLOCK_K], tl.float32)
    for first in range(0, K, BLOCK_K):
        offs_k = first + tl.arange(0, BLOCK_K)
        mask = mask_m[:, None] & (offs_k < K)[None, :]
        x = tl.load(x_ptr + row[:, None] * K + offs_k[None, :], mask=mask, other=0.0).to(tl.float32)
        centred = tl.where(mask, x - mean[:, None], 0.0)
        total += centred * centred
    return mean, 1.0 / tl.sqrt(tl.sum(total, 1) / K + EPS)


@triton.jit
def _draw_masks(seed_ptr, kept_ptr, draws, draws_of_row, threshold):
    """This program's share of `kept` [draws / draws_of_row, 4 draws_of_row], 1 where an element is kept.

    The masks are those of csrc/cpu/base/dropout.h.
    """
    programs = tl.num_programs(0)
    share = (draws + programs - 1) // programs
    start = tl.program_id(0) * (share + tl.zeros([], tl.int64))
    end = tl.minimum(start + share, draws)
    for first in range(start, end, DRAWS):
        draw = first + tl.arange(0, DRAWS)
        mask = draw < end
        row = draw // draws_of_row
        drawn = draw % draws_of_row
        at = kept_ptr + row * 4 * draws_of_row + (drawn // 16) * 64 + drawn % 16
        w0, w1, w2, w3 = philox_words(seed_ptr, drawn, row)
        tl.store(at, (w0.to(tl.int64) >= threshold).to(tl.uint8), mask=mask)
        tl.store(at + 16, (w1.to(tl.int64) >= threshold).to(tl.uint8), mask=mask)
        tl.store(at + 32, (w2.to(tl.int64) >= threshold).to(tl.uint8), mask=mask)
        tl.store(at + 48, (w3.to(tl.int64) >= threshold).to(tl.uint8), mask=mask)


@triton.jit
def _linear_kernel(
    x_ptr, norm_weight_ptr, norm_bias_ptr,  # [rows, K], and [K] or None
    weight_ptr, bias_ptr, residual_ptr,  # [cols, K] by its strides, [cols] or None, [rows, cols] or None
    out_ptr, mean_ptr, rstd_ptr,  # [rows, cols], and [rows] or None
    seed_ptr, kept_ptr, draws, draws_of_row, threshold,  # int64 [2] or None: masks to draw
    rows, cols, K, stride_wn, stride_wk,
    COMPUTE: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    wait_for_previous_launch()
    tiles_n = tl.cdiv(cols, BLOCK_N)
    tile_m = tl.program_id(0) // tiles_n  # neighbours share rows
    tile_n = tl.program_id(0) % tiles_n
    offs_m = tile_m * BLOCK_M + tl.arange(0, BLOCK_M)
    offs_n = tile_n * BLOCK_N + tl.arange(0, BLOCK_N)
    mask_m = offs_m < rows
    mask_n = offs_n < cols
    row = offs_m.to(tl.int64)
    if seed_ptr is not None:
        _draw_masks(seed_ptr, kept_ptr, draws, draws_of_row, threshold)
    if norm_weight_ptr is not None:
        mean, rstd = _statistics(x_ptr, row, mask_m, K, BLOCK_M, BLOCK_K)
        if mean_ptr is not None:  # noqa: SIM102  # the compiler decides this one
            if tile_n == 0:
                tl.store(mean_ptr + row, mean, mask=mask_m)
                tl.store(rstd_ptr + row, rstd, mask=mask_m)

    out = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    for first in range(0, K, BLOCK_K):
        offs_k = first + tl.arange(0, BLOCK_K)
        mask_k = offs_k < K
        if norm_weight_ptr is not None:
            x = normed_tile(x_ptr, norm_weight_ptr, norm_bias_ptr, row, mask_m, mean, rstd, offs_k, K)
        else:
            x = tl.load(x_ptr + row[:, None] * K + offs_k[None, :], mask=mask_m[:, None] & mask_k[None, :], other=0.0)
        weight = tl.load(
            weight_ptr + offs_n[None, :] * stride_wn + offs_k[:, None] * stride_wk,
            mask=mask_n[None, :] & mask_k[:, None], other=0.0,
        )  # [BLOCK_K, BLOCK_N]  # fmt: skip
        out = tl.dot(x.to(COMPUTE), weight.to(COMPUTE), out, input_precision=PRECISION)
    if bias_ptr is not None:
        out += tl.load(bias_ptr + offs_n, mask=mask_n, other=0.0).to(tl.float32)[None, :]
    at = row[:, None] * cols + offs_n[None, :]
    inside = mask_m[:, None] & mask_n[None, :]
    if residual_ptr is not None:
        out += tl.load(residual_ptr + at, mask=inside, other=0.0).to(tl.float32)
    tl.store(out_ptr + at, out.to(out_ptr.dtype.element_ty), mask=inside)


def linear(
    x: Tensor, weight: Tensor, out: Tensor, compute: torch.dtype, *, bias: Tensor | None = None,
    norm: tuple[Tensor, Tensor] | None = None, stats: tuple[Tensor, Tensor] | None = None,
    residual: Tensor | None = None, masks: dict[str, object] | None = None,
) -> None:  # fmt: skip
    """out = LN(x) weight^T + bias + residual.

    Args:
        x: [rows, K].
        weight: [cols, K], of any strides.
        out: [rows, cols], which is written.
        compute: the dtype of products.
        bias: [cols], or None.
        residual: [rows, cols], or None.
        norm: weight and bias of the LayerNorm; None: x itself instead of LN(x).
        stats: [rows] twice, where the LayerNorm's means and 1 / deviations go, or None.
        masks: arguments of the kernel from seed_ptr to threshold, where masks of dropout are to be drawn.
    """
    rows, cols = out.shape
    norm_weight, norm_bias = norm or (None, None)
    mean, rstd = stats or (None, None)
    launch(
        _linear_kernel,
        lambda c: (triton.cdiv(rows, c["BLOCK_M"]) * triton.cdiv(cols, c["BLOCK_N"]),),
        {
            "x_ptr": x, "norm_weight_ptr": norm_weight, "norm_bias_ptr": norm_bias,
            "weight_ptr": weight, "bias_ptr": bias, "residual_ptr": residual,
            "out_ptr": out, "mean_ptr": mean, "rstd_ptr": rstd,
            **(masks or {"seed_ptr": None, "kept_ptr": None, "draws": 0, "draws_of_row": 1, "threshold": 0}),
            "rows": rows, "cols": cols, "K": x.shape[1], "stride_wn": weight.stride(0), "stride_wk": weight.stride(1),
        },
        {"COMPUTE": TL_DTYPE[compute], "PRECISION": dot_precision(compute)},
        _SINGLE if compute == torch.float32 else _HALF,
        key=(rows, cols, x.shape[1], compute, norm is None),
    )  # fmt: skip
