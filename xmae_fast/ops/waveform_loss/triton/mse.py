"""masked_mse on a GPU: two launches forward, one backward; samples are [B, L] of any strides.

A program adds mask (prediction - target)^2 and mask over BLOCK_L samples; one further program adds those partial sums
in fixed order. The backward computes 2 mask (prediction - target) again, which moves no more memory than keeping it.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from xmae_fast.ops._device import wait_for_previous_launch
from xmae_fast.ops._launch import launch

_BLOCK_L = 1024  # samples of a program: the number of partial sums must not depend on what is tuned
_CONFIGS = {80: ({"num_warps": 4}, {"num_warps": 8}, {"num_warps": 2})}
_FINISH = {80: ({"BLOCK": 1024, "num_warps": 4}, {"BLOCK": 4096, "num_warps": 8}, {"BLOCK": 512, "num_warps": 4})}


@triton.jit
def _load(x_ptr, stride_xb, stride_xl, b, offs_l, mask):
    return tl.load(x_ptr + b * stride_xb + offs_l.to(tl.int64) * stride_xl, mask=mask, other=0).to(tl.float32)


@triton.jit
def _mse_kernel(
    prediction_ptr, stride_pb, stride_pl, target_ptr, stride_tb, stride_tl, mask_ptr, stride_mb, stride_ml,  # [B, L]
    squares_ptr, weights_ptr,  # float32 [B, programs of a sample]
    L,
    BLOCK_L: tl.constexpr,
):  # fmt: skip
    """Partial sums of mask (prediction - target)^2 and of mask."""
    wait_for_previous_launch()
    b = tl.program_id(0).to(tl.int64)
    offs_l = tl.program_id(1) * BLOCK_L + tl.arange(0, BLOCK_L)
    mask_l = offs_l < L
    difference = _load(prediction_ptr, stride_pb, stride_pl, b, offs_l, mask_l)
    difference -= _load(target_ptr, stride_tb, stride_tl, b, offs_l, mask_l)
    weight = _load(mask_ptr, stride_mb, stride_ml, b, offs_l, mask_l)
    program = b * tl.num_programs(1) + tl.program_id(1)
    tl.store(squares_ptr + program, tl.sum(weight * difference * difference, axis=0))
    tl.store(weights_ptr + program, tl.sum(weight, axis=0))


@triton.jit
def _finish_kernel(
    squares_ptr, weights_ptr, loss_ptr, inverse_ptr,  # float32 [count] twice, [], float32 []
    count,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """inverse = 1 / max(sum(weights), 1), loss = sum(squares) / max(sum(weights), 1)."""
    wait_for_previous_launch()
    squares = tl.zeros([BLOCK], tl.float32)
    weights = tl.zeros([BLOCK], tl.float32)
    for start in range(0, count, BLOCK):
        at = start + tl.arange(0, BLOCK)
        squares += tl.load(squares_ptr + at, mask=at < count, other=0.0)
        weights += tl.load(weights_ptr + at, mask=at < count, other=0.0)
    denominator = tl.maximum(tl.sum(weights, axis=0), 1.0)
    tl.store(loss_ptr, tl.sum(squares, axis=0) / denominator)
    tl.store(inverse_ptr, 1.0 / denominator)


@triton.jit
def _mse_backward_kernel(
    prediction_ptr, stride_pb, stride_pl, target_ptr, stride_tb, stride_tl, mask_ptr, stride_mb, stride_ml,  # [B, L]
    grad_ptr, inverse_ptr, out_ptr,  # [], float32 [], [B, L]
    L,
    BLOCK_L: tl.constexpr,
):  # fmt: skip
    """out = grad * inverse * 2 mask (prediction - target)."""
    wait_for_previous_launch()
    b = tl.program_id(0).to(tl.int64)
    offs_l = tl.program_id(1) * BLOCK_L + tl.arange(0, BLOCK_L)
    mask_l = offs_l < L
    difference = _load(prediction_ptr, stride_pb, stride_pl, b, offs_l, mask_l)
    difference -= _load(target_ptr, stride_tb, stride_tl, b, offs_l, mask_l)
    weight = _load(mask_ptr, stride_mb, stride_ml, b, offs_l, mask_l)
    scale = tl.load(grad_ptr).to(tl.float32) * tl.load(inverse_ptr)
    tl.store(out_ptr + b * L + offs_l, 2.0 * weight * difference * scale, mask=mask_l)


def _samples(prediction: Tensor, target: Tensor, mask: Tensor) -> dict[str, Tensor | int]:
    args: dict[str, Tensor | int] = {"L": prediction.shape[1]}
    for name, letter, x in (("prediction", "p", prediction), ("target", "t", target), ("mask", "m", mask)):
        args |= {f"{name}_ptr": x, f"stride_{letter}b": x.stride(0), f"stride_{letter}l": x.stride(1)}
    return args


def finish_loss(squares: Tensor, weights: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Partial sums of mask (prediction - target)^2 and of mask -> the loss in `dtype`, 1 / max(sum(mask), 1)."""
    loss, inverse = squares.new_empty((), dtype=dtype), squares.new_empty(())
    args = {"squares_ptr": squares, "weights_ptr": weights, "loss_ptr": loss, "inverse_ptr": inverse}
    launch(_finish_kernel, lambda c: (1,), args | {"count": squares.numel()}, {}, _FINISH, key=(squares.numel(),))
    return loss, inverse


def masked_mse(prediction: Tensor, target: Tensor, mask: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """`reference.masked_mse` of [B, L] in `dtype`, and 1 / max(sum(mask), 1) in float32."""
    B, L = prediction.shape
    programs = B, triton.cdiv(L, _BLOCK_L)
    squares, weights = (prediction.new_empty(programs, dtype=torch.float32) for _ in range(2))
    args = _samples(prediction, target, mask) | {"squares_ptr": squares, "weights_ptr": weights}
    launch(_mse_kernel, lambda c: programs, args, {"BLOCK_L": _BLOCK_L}, _CONFIGS, key=(L,))
    return finish_loss(squares, weights, dtype)


def masked_mse_backward(grad: Tensor, inverse: Tensor, prediction: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """The gradient of `prediction` [B, L]; grad [] and inverse [] are on the device."""
    B, L = prediction.shape
    out = prediction.new_empty((B, L))
    args = _samples(prediction, target, mask) | {"grad_ptr": grad, "inverse_ptr": inverse, "out_ptr": out}
    launch(
        _mse_backward_kernel,
        lambda c: (B, triton.cdiv(L, c["BLOCK_L"])),
        args,
        {"BLOCK_L": _BLOCK_L},
        _CONFIGS,
        key=(L,),
    )
    return out
