"""waveform_loss on a GPU: tokens to samples, and the loss in the same pass. The gradients are in backward.py.

A program turns BLOCK_R tokens into BLOCK_P samples of each: prediction = tokens @ weight + bias, added up in float32.
For the loss it goes on, without writing them, to error = 2 mask (prediction - target) and to its share of
sum(mask (prediction - target)^2) and of sum(mask); one further program adds the shares in fixed order:

    loss = sum(mask (prediction - target)^2) inverse,    inverse = 1 / max(sum(mask), 1),    d loss = error inverse

`error` is kept without `inverse`, so that it stays in the range of float16 products; the backward applies it.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from xmae_fast.ops._device import wait_for_previous_launch
from xmae_fast.ops._launch import TL_DTYPE, block, dot_precision, launch
from xmae_fast.ops.waveform_loss.triton.backward import decode_waveform_backward
from xmae_fast.ops.waveform_loss.triton.mse import finish_loss, masked_mse, masked_mse_backward

__all__ = ["decode_waveform", "decode_waveform_backward", "masked_mse", "masked_mse_backward", "waveform_loss"]

_BLOCK_R = 64  # tokens of a program: the number of partial losses must not depend on what is tuned
_CONFIGS = {
    80: (
        {"BLOCK_K": 64, "num_warps": 4, "num_stages": 3},
        {"BLOCK_K": 32, "num_warps": 4, "num_stages": 3},
        {"BLOCK_K": 64, "num_warps": 4, "num_stages": 2},
    ),
    89: ({"BLOCK_K": 64, "num_warps": 4, "num_stages": 2}, {"BLOCK_K": 32, "num_warps": 4, "num_stages": 3}),
    90: (
        {"BLOCK_K": 64, "num_warps": 4, "num_stages": 3},
        {"BLOCK_K": 32, "num_warps": 4, "num_stages": 3},
        {"BLOCK_K": 64, "num_warps": 4, "num_stages": 4},
    ),
}
# Products in float32 outside tensor cores ("ieee") hold whole rows in registers: small tiles.
_CONFIGS_FLOAT32 = {
    80: ({"BLOCK_K": 32, "num_warps": 8, "num_stages": 2}, {"BLOCK_K": 16, "num_warps": 4, "num_stages": 3}),
}


@triton.jit
def _predict(
    tokens_ptr, weight_ptr, bias_ptr, row, offs_p, rows, D,
    P: tl.constexpr, COMPUTE: tl.constexpr, PRECISION: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """tokens [rows, D] @ weight [D, P] + bias at tokens `row`, samples `offs_p` -> float32 [len(row), len(offs_p)]."""
    total = tl.zeros([row.shape[0], offs_p.shape[0]], tl.float32)
    for start in range(0, D, BLOCK_K):
        offs_k = start + tl.arange(0, BLOCK_K)
        mask_x = (row < rows)[:, None] & (offs_k < D)[None, :]
        x = tl.load(tokens_ptr + row.to(tl.int64)[:, None] * D + offs_k[None, :], mask=mask_x, other=0.0)
        mask_w = (offs_k < D)[:, None] & (offs_p < P)[None, :]
        w = tl.load(weight_ptr + offs_k[:, None] * P + offs_p[None, :], mask=mask_w, other=0.0)
        total = tl.dot(x.to(COMPUTE), w.to(COMPUTE), total, input_precision=PRECISION)
    return total + tl.load(bias_ptr).to(tl.float32)


@triton.jit
def _decode_kernel(
    tokens_ptr, weight_ptr, bias_ptr,  # [rows, D], [D, P], [1]
    waveform_ptr,  # [rows, P]
    rows, D,
    P: tl.constexpr, COMPUTE: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_R: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    wait_for_previous_launch()
    row = tl.program_id(0) * BLOCK_R + tl.arange(0, BLOCK_R)
    offs_p = tl.program_id(1) * BLOCK_P + tl.arange(0, BLOCK_P)
    waveform = _predict(
        tokens_ptr, weight_ptr, bias_ptr, row, offs_p, rows, D, P, COMPUTE, PRECISION, BLOCK_K
    )  # [BLOCK_R, BLOCK_P]
    mask = (row < rows)[:, None] & (offs_p < P)[None, :]
    tl.store(waveform_ptr + row.to(tl.int64)[:, None] * P + offs_p[None, :], waveform, mask=mask)


@triton.jit
def _loss_kernel(
    tokens_ptr, weight_ptr, bias_ptr,  # [B * N, D], [D, P], [1]
    target_ptr, stride_tb, stride_tl, mask_ptr, stride_mb, stride_ml,  # [B, N * P] twice
    error_ptr, squares_ptr, weights_ptr,  # float32 [B * N, P], [programs] twice
    rows, N, D,
    P: tl.constexpr, WANT_ERROR: tl.constexpr, COMPUTE: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_R: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    wait_for_previous_launch()
    row = tl.program_id(0) * BLOCK_R + tl.arange(0, BLOCK_R)
    offs_p = tl.program_id(1) * BLOCK_P + tl.arange(0, BLOCK_P)
    waveform = _predict(
        tokens_ptr, weight_ptr, bias_ptr, row, offs_p, rows, D, P, COMPUTE, PRECISION, BLOCK_K
    )  # [BLOCK_R, BLOCK_P]
    inside = (row < rows)[:, None] & (offs_p < P)[None, :]
    b = (row // N).to(tl.int64)
    sample = ((row % N) * P).to(tl.int64)[:, None] + offs_p[None, :]
    target = tl.load(target_ptr + b[:, None] * stride_tb + sample * stride_tl, mask=inside, other=0.0).to(tl.float32)
    weight = tl.load(mask_ptr + b[:, None] * stride_mb + sample * stride_ml, mask=inside, other=0).to(tl.float32)
    difference = tl.where(inside, waveform - target, 0.0)
    weighted = weight * difference
    if WANT_ERROR:
        tl.store(error_ptr + row.to(tl.int64)[:, None] * P + offs_p[None, :], 2.0 * weighted, mask=inside)
    program = tl.program_id(0) * tl.num_programs(1) + tl.program_id(1)
    tl.store(squares_ptr + program, tl.sum(tl.sum(weighted * difference, axis=1), axis=0))
    tl.store(weights_ptr + program, tl.sum(tl.sum(weight, axis=1), axis=0))


def _configs(compute: torch.dtype) -> dict:
    return _CONFIGS_FLOAT32 if compute == torch.float32 else _CONFIGS


def _product(tokens: Tensor, weight: Tensor, bias: Tensor, compute: torch.dtype) -> tuple[dict, dict]:
    """The arguments and constants that both kernels take."""
    B, N, D = tokens.shape
    P = weight.shape[2]
    args = {"tokens_ptr": tokens.contiguous(), "weight_ptr": weight.contiguous(), "bias_ptr": bias}
    constants = {"P": P, "COMPUTE": TL_DTYPE[compute], "PRECISION": dot_precision(compute)}
    return args | {"rows": B * N, "D": D}, constants | {"BLOCK_R": _BLOCK_R, "BLOCK_P": min(block(P), 64)}


def decode_waveform(tokens: Tensor, weight: Tensor, bias: Tensor, compute: torch.dtype) -> Tensor:
    """`reference.decode_waveform`; the product is taken in `compute`."""
    B, N, D = tokens.shape
    P = weight.shape[2]
    waveform = tokens.new_empty((B, 1, N * P), dtype=torch.promote_types(compute, bias.dtype))
    args, constants = _product(tokens, weight, bias, compute)
    launch(
        _decode_kernel,
        lambda c: (triton.cdiv(B * N, c["BLOCK_R"]), triton.cdiv(P, c["BLOCK_P"])),
        {**args, "waveform_ptr": waveform},
        constants,
        _configs(compute),
        key=(D, P, compute),
    )
    return waveform


def waveform_loss(
    tokens: Tensor, weight: Tensor, bias: Tensor, target: Tensor, mask: Tensor,
    compute: torch.dtype, dtype: torch.dtype, want_error: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """`reference.waveform_loss` in `dtype`; error [B, 1, L] ([0] unless wanted) and inverse [], both float32."""
    B, N, D = tokens.shape
    P = weight.shape[2]
    error = tokens.new_empty((B, 1, N * P) if want_error else (0,), dtype=torch.float32)
    args, constants = _product(tokens, weight, bias, compute)
    programs = triton.cdiv(B * N, _BLOCK_R), triton.cdiv(P, constants["BLOCK_P"])
    squares, weights = (tokens.new_empty((programs[0] * programs[1],), dtype=torch.float32) for _ in range(2))
    args |= {"target_ptr": target, "stride_tb": target.stride(0), "stride_tl": target.stride(2)}
    args |= {"mask_ptr": mask, "stride_mb": mask.stride(0), "stride_ml": mask.stride(2)}
    args |= {"error_ptr": error, "squares_ptr": squares, "weights_ptr": weights, "N": N}
    constants |= {"WANT_ERROR": want_error}
    launch(_loss_kernel, lambda c: programs, args, constants, _configs(compute), key=(D, P, compute))
    loss, inverse = finish_loss(squares, weights, dtype)
    return loss, error, inverse
