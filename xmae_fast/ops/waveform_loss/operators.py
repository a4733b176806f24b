"""The operators of each implementation of waveform_loss, and autograd over them. target and mask get no gradients."""

from __future__ import annotations

import torch
from torch import Tensor

from xmae_fast.ops._compiling import check_backward
from xmae_fast.ops._gradients import asked_for, once_differentiable, wants_gradient
from xmae_fast.ops._triton import compute_dtype
from xmae_fast.ops.waveform_loss import schema
from xmae_fast.ops.waveform_loss.triton import schema as triton_schema

OPERATORS = {"cpu": schema, "triton": triton_schema}


class _DecodeWaveform(torch.autograd.Function):
    @staticmethod
    def forward(ctx, impl: str, compute: torch.dtype, tokens: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(tokens, weight)
        ctx.impl, ctx.compute, ctx.bias_dtype = impl, compute, bias.dtype
        out = OPERATORS[impl].decode_waveform(tokens, weight, bias, compute)
        of_tokens, *of_weights = ctx.needs_input_grad[2:]
        if impl == "triton":
            check_backward(
                (tokens, weight, bias, out), ("decode_waveform", compute, of_tokens, any(of_weights)),
                lambda: OPERATORS[impl].decode_waveform_backward(
                    out, tokens, weight, bias.dtype, compute, of_tokens, any(of_weights)
                ),
            )  # fmt: skip
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        wanted = ctx.needs_input_grad[2:]
        gradients = OPERATORS[ctx.impl].decode_waveform_backward(
            grad, *ctx.saved_tensors, ctx.bias_dtype, ctx.compute, wanted[0], wanted[1] or wanted[2]
        )
        return None, None, *asked_for(gradients, wanted)


class _MaskedMSE(torch.autograd.Function):
    @staticmethod
    def forward(ctx, impl: str, dtype: torch.dtype, prediction: Tensor, target: Tensor, mask: Tensor) -> Tensor:
        loss, *kept = OPERATORS[impl].masked_mse_train(prediction, target, mask, dtype)
        if impl == "triton":
            check_backward(
                (loss, *kept), ("masked_mse", dtype), lambda: OPERATORS[impl].masked_mse_backward(loss, *kept)
            )
        ctx.save_for_backward(*kept)
        ctx.impl = impl
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        return None, None, OPERATORS[ctx.impl].masked_mse_backward(grad, *ctx.saved_tensors), None, None


class _WaveformLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx, impl: str, compute: torch.dtype, dtype: torch.dtype, tokens: Tensor, weight: Tensor, bias: Tensor,
        target: Tensor, mask: Tensor,
    ) -> Tensor:  # fmt: skip
        loss, *kept = OPERATORS[impl].waveform_loss_train(tokens, weight, bias, target, mask, compute, dtype)
        of_tokens, *of_weights = ctx.needs_input_grad[3:6]
        if impl == "triton":
            check_backward(
                (tokens, weight, bias, loss, *kept), ("waveform_loss", compute, of_tokens, any(of_weights)),
                lambda: OPERATORS[impl].waveform_loss_backward(
                    loss, tokens, weight, bias.dtype, compute, of_tokens, any(of_weights), *kept
                ),
            )  # fmt: skip
        ctx.save_for_backward(tokens, weight, *kept)
        ctx.impl, ctx.compute, ctx.bias_dtype = impl, compute, bias.dtype
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        tokens, weight, *kept = ctx.saved_tensors
        wanted = ctx.needs_input_grad[3:6]
        gradients = OPERATORS[ctx.impl].waveform_loss_backward(
            grad, tokens, weight, ctx.bias_dtype, ctx.compute, wanted[0], wanted[1] or wanted[2], *kept
        )
        return None, None, None, *asked_for(gradients, wanted), None, None


def _loss_dtype(prediction: torch.dtype, target: Tensor, mask: Tensor) -> torch.dtype:
    """The dtype of PyTorch's (mask * (prediction - target).square()).sum(), which autocast on CUDA takes in float32."""
    if target.device.type == "cuda" and torch.is_autocast_enabled("cuda"):
        return torch.float32
    return torch.promote_types(torch.promote_types(prediction, target.dtype), mask.dtype)


def decode_waveform(tokens: Tensor, weight: Tensor, bias: Tensor, impl: str) -> Tensor:
    """`reference.decode_waveform` by the kernels of `impl`."""
    compute = compute_dtype(tokens, impl)
    if wants_gradient(tokens, weight, bias):
        return _DecodeWaveform.apply(impl, compute, tokens, weight, bias)
    return OPERATORS[impl].decode_waveform(tokens, weight, bias, compute)


def masked_mse(prediction: Tensor, target: Tensor, mask: Tensor, impl: str) -> Tensor:
    """`reference.masked_mse` of [B, L] by the kernels of `impl`."""
    dtype = _loss_dtype(prediction.dtype, target, mask)
    if wants_gradient(prediction):
        return _MaskedMSE.apply(impl, dtype, prediction, target, mask)
    return OPERATORS[impl].masked_mse(prediction, target, mask, dtype)


def waveform_loss(tokens: Tensor, weight: Tensor, bias: Tensor, target: Tensor, mask: Tensor, impl: str) -> Tensor:
    """`reference.waveform_loss` by the kernels of `impl`."""
    compute = compute_dtype(tokens, impl)
    dtype = _loss_dtype(torch.promote_types(compute, bias.dtype), target, mask)
    if wants_gradient(tokens, weight, bias):
        return _WaveformLoss.apply(impl, compute, dtype, tokens, weight, bias, target, mask)
    return OPERATORS[impl].waveform_loss(tokens, weight, bias, target, mask, compute, dtype)
