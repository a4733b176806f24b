"""The second launch of the feed-forward's backward: each program's share of the gradients of W1, b1 and W2."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from xmae_fast.ops._device import gelu, gelu_grad, wait_for_previous_launch
from xmae_fast.ops._launch import TL_DTYPE, Config, block, dot_precision, launch
from xmae_fast.ops.feed_forward.triton.rows import choices, hidden_chunk

_PROGRAMS = 128  # about one for each multiprocessor of an H200, where 32 hidden units belong to a program
_ROWS = 128  # shares of rows are multiples of this


@triton.jit
def _weights_kernel(
    g_ptr, xn_ptr,  # [rows, D]: gradient after dropout, normalised rows
    up_ptr, up_bias_ptr, down_ptr,
    shares_ptr,  # [splits, 2 F D + F]: gradients of W1 [F, D], W2 [D, F], b1 [F]
    rows, rows_per_split,
    D: tl.constexpr, F: tl.constexpr, COMPUTE: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_D: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_F: tl.constexpr, IN_LOOP: tl.constexpr,
):  # fmt: skip
    wait_for_previous_launch()
    split = tl.program_id(1)
    offs_d = tl.arange(0, BLOCK_D)
    mask_d = offs_d < D
    offs_f, mask_f, up, down = hidden_chunk(up_ptr, down_ptr, tl.program_id(0) * BLOCK_F, offs_d, mask_d, D, F, BLOCK_F)
    up_bias = tl.load(up_bias_ptr + offs_f, mask=mask_f, other=0.0).to(tl.float32)[None, :]

    d_up = tl.zeros([BLOCK_D, BLOCK_F], tl.float32)  # transposed: tensor cores want the longer side first
    d_down = tl.zeros([BLOCK_D, BLOCK_F], tl.float32)
    d_up_bias = tl.zeros([BLOCK_F], tl.float32)
    first = split * rows_per_split
    end = tl.minimum(first + rows_per_split, rows)
    offs_m = tl.arange(0, BLOCK_M)
    at = offs_m[:, None] * D + offs_d[None, :]  # [BLOCK_M, BLOCK_D]
    xn_ptr += first.to(tl.int64) * D
    g_ptr += first.to(tl.int64) * D
    # On sm_90 the compiler would take the operands' descriptors out of the loop, and they fill the registers.
    for start in tl.range(first, end, BLOCK_M, disable_licm=IN_LOOP):
        inside = (offs_m < end - start)[:, None] & mask_d[None, :]
        xn = tl.load(xn_ptr + at, mask=inside, other=0.0)
        pre = tl.dot(xn, tl.trans(up), input_precision=PRECISION) + up_bias  # [BLOCK_M, BLOCK_F]
        g = tl.load(g_ptr + at, mask=inside, other=0.0)
        dpre = tl.dot(g, down, input_precision=PRECISION) * gelu_grad(pre)
        d_up_bias += tl.sum(dpre, axis=0)
        d_up = tl.dot(tl.trans(xn), dpre.to(COMPUTE), d_up, input_precision=PRECISION)
        d_down = tl.dot(tl.trans(g), gelu(pre).to(COMPUTE), d_down, input_precision=PRECISION)
        xn_ptr += BLOCK_M * D
        g_ptr += BLOCK_M * D

    share = shares_ptr + split.to(tl.int64) * (2 * F * D + F)
    inside = mask_d[:, None] & mask_f[None, :]
    tl.store(share + offs_f[None, :] * D + offs_d[:, None], d_up, mask=inside)
    tl.store(share + F * D + offs_d[:, None] * F + offs_f[None, :], d_down, mask=inside)
    tl.store(share + 2 * F * D + offs_f, d_up_bias, mask=mask_f)


def _configs(compute: torch.dtype, BLOCK_D: int) -> dict[int, tuple[Config, ...]]:
    if compute == torch.float32:
        return {80: choices((16, 16, 8, 1), (16, 16, 4, 1), IN_LOOP=False)}
    if BLOCK_D > 256:
        return {80: choices((16, 16, 8, 1), (16, 16, 16, 1), IN_LOOP=False)}
    return {
        80: choices((32, 32, 8, 2), (64, 16, 8, 1), (32, 16, 8, 2), IN_LOOP=False),
        90: choices((64, 32, 8, 2), (128, 32, 8, 1), (64, 32, 8, 1), IN_LOOP=True),
    }


def weight_shares(g: Tensor, xn: Tensor, up: Tensor, up_bias: Tensor, down: Tensor, compute: torch.dtype) -> Tensor:
    """Gradients of W1, W2, b1 over shares of the rows g, xn [rows, D]: float32 [splits, 2 F D + F], to be added up."""
    (rows, D), F = xn.shape, up_bias.shape[0]
    tiles = triton.cdiv(rows, _ROWS)
    per_split = max(1, triton.cdiv(tiles, max(1, _PROGRAMS // triton.cdiv(F, 32)))) * _ROWS
    splits = triton.cdiv(rows, per_split)
    shares = xn.new_empty((splits, 2 * F * D + F), dtype=torch.float32)
    BLOCK_D = block(D)
    launch(
        _weights_kernel,
        lambda c: (triton.cdiv(F, c["BLOCK_F"]), splits),
        {
            "g_ptr": g, "xn_ptr": xn, "up_ptr": up, "up_bias_ptr": up_bias, "down_ptr": down, "shares_ptr": shares,
            "rows": rows, "rows_per_split": per_split,
        },
        {
            "D": D, "F": F, "COMPUTE": TL_DTYPE[compute], "PRECISION": dot_precision(compute), "BLOCK_D": BLOCK_D,
        },
        _configs(compute, BLOCK_D),
        key=(D, F, compute, rows),
    )  # fmt: skip
    return shares
