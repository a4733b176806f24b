"""Gradients of decode_waveform and of waveform_loss on a GPU, in three launches.

d_tokens = scale * gradient @ weight^T is one product, each program BLOCK_R tokens by BLOCK_D columns. For
d_weight = scale * tokens^T @ gradient and d_bias = scale * sum(gradient) a program adds up its share over the tokens of
one slice, and one further launch adds the shares of all slices in fixed order. `scale` (the loss' gradient times
1 / max(sum(mask), 1)) is read on the device.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from xmae_fast.ops._device import sum_parts, wait_for_previous_launch
from xmae_fast.ops._launch import TL_DTYPE, block, dot_precision, launch

_SLICES = 128  # at most; a slice has a multiple of 256 tokens, which every BLOCK_R divides


def _config(BLOCK_R: int, BLOCK_D: int, num_warps: int, num_stages: int, **more: int) -> dict[str, int]:
    return {"BLOCK_R": BLOCK_R, "BLOCK_D": BLOCK_D, "num_warps": num_warps, "num_stages": num_stages, **more}


# Products in float32 outside tensor cores ("ieee") hold whole rows in registers: small tiles.
_TOKENS = {
    80: (_config(64, 64, 4, 2, BLOCK_P=64), _config(64, 128, 8, 2, BLOCK_P=64), _config(64, 32, 4, 2, BLOCK_P=64)),
}
_TOKENS_FLOAT32 = {80: (_config(32, 64, 4, 2, BLOCK_P=16), _config(32, 32, 4, 2, BLOCK_P=16))}
_WEIGHT = {
    80: (_config(64, 64, 4, 2), _config(32, 64, 4, 2), _config(64, 32, 4, 2)),
    90: (_config(64, 64, 4, 2), _config(32, 64, 4, 2), _config(64, 64, 4, 3)),
}
_WEIGHT_FLOAT32 = {80: (_config(32, 32, 4, 2), _config(16, 32, 4, 2))}
_SUMS = {
    80: (
        {"BLOCK_W": 64, "BLOCK_S": 32, "num_warps": 4},
        {"BLOCK_W": 128, "BLOCK_S": 16, "num_warps": 4},
        {"BLOCK_W": 32, "BLOCK_S": 64, "num_warps": 4},
    ),
}


@triton.jit
def _scale(scale_ptr, inverse_ptr):
    """scale * inverse in float32, 1 where there are none."""
    if scale_ptr is None:
        return 1.0
    else:
        return tl.load(scale_ptr).to(tl.float32) * tl.load(inverse_ptr)


@triton.jit
def _tokens_kernel(
    gradient_ptr, scale_ptr, inverse_ptr, weight_ptr,  # [rows, P], [] or None, [] or None, [D, P]
    d_tokens_ptr,  # [rows, D]
    rows, D,
    P: tl.constexpr,  # known to the compiler, which then moves several samples at once
    COMPUTE: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_R: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_P: tl.constexpr,
):  # fmt: skip
    """d_tokens = scale * gradient @ weight^T."""
    wait_for_previous_launch()
    row = tl.program_id(0).to(tl.int64) * BLOCK_R
    offs_r = tl.arange(0, BLOCK_R)[:, None]
    offs_d = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    mask_r = row + offs_r < rows
    d_tokens = tl.zeros([BLOCK_R, BLOCK_D], tl.float32)
    for start in range(0, P, BLOCK_P):
        offs_p = start + tl.arange(0, BLOCK_P)[None, :]
        mask_p = offs_p < P
        gradient = tl.load(gradient_ptr + row * P + (offs_r * P + offs_p), mask=mask_r & mask_p, other=0.0)
        mask_w = (offs_d < D)[:, None] & mask_p
        weight = tl.load(weight_ptr + offs_d[:, None] * P + offs_p, mask=mask_w, other=0.0)  # [BLOCK_D, BLOCK_P]
        d_tokens = tl.dot(gradient.to(COMPUTE), tl.trans(weight.to(COMPUTE)), d_tokens, input_precision=PRECISION)
    d_tokens *= _scale(scale_ptr, inverse_ptr)
    at = offs_r * D + offs_d[None, :]
    tl.store(d_tokens_ptr + row * D + at, d_tokens, mask=mask_r & (offs_d < D)[None, :])


@triton.jit
def _weight_kernel(
    gradient_ptr, scale_ptr, inverse_ptr, tokens_ptr,  # [rows, P], [] or None, [] or None, [rows, D]
    weight_parts_ptr, bias_parts_ptr,  # float32 [slices, D, P], [slices, blocks of P]
    rows, per_slice, D,
    P: tl.constexpr, COMPUTE: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_R: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_P: tl.constexpr,
):  # fmt: skip
    """scale * tokens^T @ gradient and scale * sum(gradient) over the tokens of one slice."""
    wait_for_previous_launch()
    part = tl.program_id(0).to(tl.int64)
    offs_r = tl.arange(0, BLOCK_R)[:, None]
    offs_d = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    offs_p = tl.program_id(2) * BLOCK_P + tl.arange(0, BLOCK_P)
    mask_d, mask_p = offs_d < D, offs_p < P
    at_g = offs_r * P + offs_p[None, :]
    at_x = offs_r * D + offs_d[None, :]
    d_weight = tl.zeros([BLOCK_D, BLOCK_P], tl.float32)
    d_bias = tl.zeros([BLOCK_R], tl.float32)
    first = part * per_slice
    for step in range(0, tl.minimum(rows - first, per_slice), BLOCK_R):
        row = first + step
        mask_r = row + offs_r < rows
        gradient = tl.load(gradient_ptr + row * P + at_g, mask=mask_r & mask_p[None, :], other=0.0)
        tokens = tl.load(tokens_ptr + row * D + at_x, mask=mask_r & mask_d[None, :], other=0.0)
        d_weight = tl.dot(tl.trans(tokens.to(COMPUTE)), gradient.to(COMPUTE), d_weight, input_precision=PRECISION)
        d_bias += tl.sum(gradient.to(tl.float32), axis=1)
    scale = _scale(scale_ptr, inverse_ptr)
    at_w = offs_d[:, None] * P + offs_p[None, :]
    tl.store(weight_parts_ptr + part * D * P + at_w, d_weight * scale, mask=mask_d[:, None] & mask_p[None, :])
    if tl.program_id(1) == 0:
        total = tl.sum(d_bias, axis=0) * scale
        tl.store(bias_parts_ptr + part * tl.num_programs(2) + tl.program_id(2), total)


@triton.jit
def _sums_kernel(
    weight_parts_ptr, bias_parts_ptr,  # float32 [slices, width], [bias_parts]
    d_weight_ptr, d_bias_ptr,  # [width], [1]
    slices, width, bias_parts,
    BLOCK_W: tl.constexpr, BLOCK_S: tl.constexpr,
):  # fmt: skip
    """d_weight = weight_parts.sum(0), d_bias = bias_parts.sum()."""
    wait_for_previous_launch()
    at = tl.program_id(0) * BLOCK_W + tl.arange(0, BLOCK_W)
    total = sum_parts(weight_parts_ptr, slices, width, at, at < width, BLOCK_S)
    tl.store(d_weight_ptr + at, total, mask=at < width)
    if tl.program_id(0) == 0:
        one = tl.arange(0, 1)
        tl.store(d_bias_ptr + one, sum_parts(bias_parts_ptr, bias_parts, 1, one, one < 1, BLOCK_S))


def decode_waveform_backward(
    gradient: Tensor, scale: Tensor | None, inverse: Tensor | None, tokens: Tensor, weight: Tensor,
    compute: torch.dtype, bias_dtype: torch.dtype, want_tokens: bool, want_weight: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of tokens, weight and bias, from that of the waveform, which is gradient * scale * inverse.

    Args:
        gradient: [B, 1, N * P].
        scale, inverse: [] on the device, or both None.
        tokens: [B, N, D].
        weight: [D, 1, P].
        compute: the dtype of products.
        bias_dtype: the dtype of the bias.
        want_tokens, want_weight: whether the gradient of tokens, and those of weight and bias, are wanted.

    Returns:
        [B, N, D], [D, 1, P], [1]; [0] where not wanted.
    """
    B, N, D = tokens.shape
    P, rows = weight.shape[2], B * N
    d_tokens = tokens.new_empty(tokens.shape if want_tokens else (0,))
    d_weight = weight.new_empty(weight.shape if want_weight else (0,))
    d_bias = weight.new_empty((1,) if want_weight else (0,), dtype=bias_dtype)
    shared = {"gradient_ptr": gradient.contiguous(), "scale_ptr": scale, "inverse_ptr": inverse, "rows": rows, "D": D}
    constants = {"P": P, "COMPUTE": TL_DTYPE[compute], "PRECISION": dot_precision(compute)}
    wide = compute == torch.float32
    if want_tokens:
        launch(
            _tokens_kernel,
            lambda c: (triton.cdiv(rows, c["BLOCK_R"]), triton.cdiv(D, c["BLOCK_D"])),
            shared | {"weight_ptr": weight.contiguous(), "d_tokens_ptr": d_tokens},
            constants,
            _TOKENS_FLOAT32 if wide else _TOKENS,
            key=(D, P, compute),
        )
    if want_weight:
        per_slice = 256 * max(1, triton.cdiv(rows, 256 * _SLICES))
        slices, BLOCK_P = triton.cdiv(rows, per_slice), min(block(P), 64)
        blocks = triton.cdiv(P, BLOCK_P)
        weight_parts, bias_parts = (
            weight.new_empty(shape, dtype=torch.float32) for shape in ((slices, D * P), (slices * blocks,))
        )
        parts = {"weight_parts_ptr": weight_parts, "bias_parts_ptr": bias_parts}
        launch(
            _weight_kernel,
            lambda c: (slices, triton.cdiv(D, c["BLOCK_D"]), blocks),
            shared | parts | {"tokens_ptr": tokens.contiguous(), "per_slice": per_slice},
            constants | {"BLOCK_P": BLOCK_P},
            _WEIGHT_FLOAT32 if wide else _WEIGHT,
            key=(D, P, compute),
        )
        sums = {"d_weight_ptr": d_weight, "d_bias_ptr": d_bias, "slices": slices, "width": D * P}
        launch(
            _sums_kernel,
            lambda c: (triton.cdiv(D * P, c["BLOCK_W"]),),
            parts | sums | {"bias_parts": slices * blocks},
            {},
            _SUMS,
            key=(slices, D, P),
        )
    return d_tokens, d_weight, d_bias
