"""Patch embedding on a GPU as a matrix product: a patch of the channels-last features is one row of K = P * S numbers.

    out[b, n, :] = rows[b, n, :] W^T + bias + pos[n, :],   W [D, K] = weight[d, s, p] in the order (p, s)

Forward: one launch writes W in the dtype of products, one multiplies. The backward is in backward.py.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from xmae_fast.ops._device import wait_for_previous_launch
from xmae_fast.ops._launch import TL_DTYPE, Config, block, dot_precision, launch
from xmae_fast.ops.patch_embed.triton import backward as triton_backward
from xmae_fast.ops.patch_embed.triton import schema

_PACK = {80: ({"num_warps": 4}, {"num_warps": 8})}


@triton.jit
def _pack_kernel(weight_ptr, packed_ptr, S, P, BLOCK_S: tl.constexpr, BLOCK_P: tl.constexpr):
    """packed[d, p * S + s] = weight[d, s, p] for one d and a block of p."""
    wait_for_previous_launch()
    d = tl.program_id(0).to(tl.int64)
    offs_p = tl.program_id(1) * BLOCK_P + tl.arange(0, BLOCK_P)
    for first in range(0, S, BLOCK_S):
        offs_s = first + tl.arange(0, BLOCK_S)
        mask = (offs_s < S)[:, None] & (offs_p < P)[None, :]
        value = tl.load(weight_ptr + d * S * P + offs_s[:, None] * P + offs_p[None, :], mask=mask)
        tl.store(packed_ptr + d * S * P + offs_p[None, :] * S + offs_s[:, None], value, mask=mask)


@triton.jit
def _forward_kernel(
    features_ptr, packed_ptr, bias_ptr, pos_ptr, stride_pn, stride_pd,  # [rows, K], [D, K], [D], [N, D]
    out_ptr,  # [rows, D]
    rows, N, K, D,
    COMPUTE: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    wait_for_previous_launch()
    row = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    offs_d = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    mask_m, mask_d = row < rows, offs_d < D
    features_at = features_ptr + row.to(tl.int64)[:, None] * K
    packed_at = packed_ptr + offs_d.to(tl.int64)[:, None] * K

    acc = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    for start in range(0, K, BLOCK_K):
        offs_k = start + tl.arange(0, BLOCK_K)
        mask_k = (offs_k < K)[None, :]
        a = tl.load(features_at + offs_k[None, :], mask=mask_m[:, None] & mask_k, other=0.0).to(COMPUTE)
        b = tl.load(packed_at + offs_k[None, :], mask=mask_d[:, None] & mask_k, other=0.0)
        acc = tl.dot(a, tl.trans(b), acc, input_precision=PRECISION)

    acc += tl.load(bias_ptr + offs_d, mask=mask_d, other=0.0).to(tl.float32)[None, :]
    inside = mask_m[:, None] & mask_d[None, :]
    pos_at = (row % N).to(tl.int64)[:, None] * stride_pn + offs_d.to(tl.int64)[None, :] * stride_pd
    acc += tl.load(pos_ptr + pos_at, mask=inside, other=0.0).to(tl.float32)
    tl.store(out_ptr + row.to(tl.int64)[:, None] * D + offs_d[None, :], acc, mask=inside)


def _configs(compute: torch.dtype, rows: int) -> dict[int, tuple[Config, ...]]:
    """With blocks of 128 x 128 two programs fill a multiprocessor; few rows need smaller blocks."""
    choices = triton_backward.choices
    if compute == torch.float32:
        return {80: choices((64, 64, 16, 8, 2), (32, 64, 16, 4, 2))}
    large, small = (128, 128, 64, 8, 3), (64, 64, 64, 4, 4)
    return {
        80: choices((64, 128, 64, 4, 3), (64, 64, 64, 4, 4)),
        89: choices((64, 64, 64, 4, 3), (64, 128, 32, 4, 3)),
        90: choices(*((small, large) if rows <= 64 * 128 else (large, small)), (64, 256, 64, 8, 3)),
    }


def pack(weight: Tensor, compute: torch.dtype) -> Tensor:
    """weight [D, S, P] -> [D, P * S] in `compute`."""
    packed = schema.empty_packed(weight, compute)
    D, S, P = weight.shape
    BLOCK_P = min(block(P, 1), 64)
    launch(
        _pack_kernel,
        lambda c: (D, triton.cdiv(P, BLOCK_P)),
        {"weight_ptr": weight.contiguous(), "packed_ptr": packed, "S": S, "P": P},
        {"BLOCK_S": min(block(S, 1), 32), "BLOCK_P": BLOCK_P},
        _PACK,
    )
    return packed


def patch_embed(
    features: Tensor, weight: Tensor, bias: Tensor, pos: Tensor, compute: torch.dtype
) -> tuple[Tensor, Tensor]:
    """The launcher of `patch_embed_triton`: features [B, L, S] -> tokens [B, N, D], packed weight [D, P * S]."""
    features = features.contiguous()
    packed = pack(weight, compute)
    out = schema.empty_output(features, weight, pos, compute)
    (B, N, D), K = out.shape, packed.shape[1]
    launch(
        _forward_kernel,
        lambda c: (triton.cdiv(B * N, c["BLOCK_M"]), triton.cdiv(D, c["BLOCK_N"])),
        {
            "features_ptr": features, "packed_ptr": packed, "bias_ptr": bias.contiguous(), "pos_ptr": pos,
            "stride_pn": pos.stride(1), "stride_pd": pos.stride(2), "out_ptr": out,
            "rows": B * N, "N": N, "K": K, "D": D,
        },
        {"COMPUTE": TL_DTYPE[compute], "PRECISION": dot_precision(compute)},
        _configs(compute, B * N),
        key=(B * N, K, D, compute),
    )  # fmt: skip
    return out, packed


def patch_embed_backward(
    grad: Tensor, features: Tensor, weight: Tensor, bias: Tensor, pos: Tensor, compute: torch.dtype,
    packed: Tensor, needs: int,
) -> list[Tensor]:  # fmt: skip
    """The launcher of `patch_embed_backward_triton`: gradients of features, weight, bias and pos."""
    return triton_backward.gradients(grad, features, weight, bias, pos, packed, needs)
