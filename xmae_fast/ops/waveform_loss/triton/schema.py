"""torch.library schemas of waveform_loss' Triton kernels, their fakes, and the autograd functions around them.

As in schema.py, neither `target` nor `mask` gets a gradient. Here the loss keeps error = 2 mask (prediction - target)
and inverse = 1 / max(sum(mask), 1) for its backward, both float32. `compute` is the dtype of matrix products.
"""

from __future__ import annotations

import torch
from torch import Tensor

from xmae_fast.ops._checks import once_differentiable, wants_gradient
from xmae_fast.ops._triton import compute_dtype, define_triton


def _decoded(tokens, weight, bias, compute):
    B, N, _ = tokens.shape
    return tokens.new_empty((B, 1, N * weight.shape[2]), dtype=torch.promote_types(compute, bias.dtype))


def _decoded_backward(gradient, scale, inverse, tokens, weight, compute, bias_dtype, want_tokens, want_weight):
    return (
        tokens.new_empty(tokens.shape if want_tokens else (0,)),
        weight.new_empty(weight.shape if want_weight else (0,)),
        weight.new_empty((1,) if want_weight else (0,), dtype=bias_dtype),
    )


def _mse(prediction, target, mask, dtype):
    return prediction.new_empty((), dtype=dtype), prediction.new_empty((), dtype=torch.float32)


def _mse_backward(grad, inverse, prediction, target, mask):
    return prediction.new_empty(prediction.shape)


def _loss(tokens, weight, bias, target, mask, compute, dtype, want_error):
    error = (tokens.shape[0], 1, tokens.shape[1] * weight.shape[2]) if want_error else (0,)
    return (
        tokens.new_empty((), dtype=dtype),
        tokens.new_empty(error, dtype=torch.float32),
        tokens.new_empty((), dtype=torch.float32),
    )


_decode_waveform = define_triton(
    "waveform_loss",
    "decode_waveform(Tensor tokens, Tensor weight, Tensor bias, ScalarType compute) -> Tensor",
    _decoded,
)
_decode_waveform_backward = define_triton(
    "waveform_loss",
    "decode_waveform_backward(Tensor gradient, Tensor? scale, Tensor? inverse, Tensor tokens, Tensor weight,"
    " ScalarType compute, ScalarType bias_dtype, bool want_tokens, bool want_weight) -> (Tensor, Tensor, Tensor)",
    _decoded_backward,
)
_masked_mse = define_triton(
    "waveform_loss",
    "masked_mse(Tensor prediction, Tensor target, Tensor mask, ScalarType dtype) -> (Tensor, Tensor)",
    _mse,
)
_masked_mse_backward = define_triton(
    "waveform_loss",
    "masked_mse_backward(Tensor grad, Tensor inverse, Tensor prediction, Tensor target, Tensor mask) -> Tensor",
    _mse_backward,
)
_waveform_loss = define_triton(
    "waveform_loss",
    "waveform_loss(Tensor tokens, Tensor weight, Tensor bias, Tensor target, Tensor mask, ScalarType compute,"
    " ScalarType dtype, bool want_error) -> (Tensor, Tensor, Tensor)",
    _loss,
)


def _decoder_gradients(
    ctx, gradient: Tensor, scale: Tensor | None, inverse: Tensor | None
) -> tuple[Tensor | None, ...]:
    tokens, weight = ctx.saved_tensors[:2]
    want_tokens, want_weight, want_bias = ctx.needs_input_grad[:3]
    d_tokens, d_weight, d_bias = _decode_waveform_backward(
        gradient, scale, inverse, tokens, weight, ctx.compute, ctx.bias_dtype, want_tokens, want_weight or want_bias
    )
    return d_tokens if want_tokens else None, d_weight if want_weight else None, d_bias if want_bias else None


class _DecodeWaveform(torch.autograd.Function):
    @staticmethod
    def forward(ctx, tokens: Tensor, weight: Tensor, bias: Tensor, compute: torch.dtype) -> Tensor:
        ctx.save_for_backward(tokens, weight)
        ctx.compute, ctx.bias_dtype = compute, bias.dtype
        return _decode_waveform(tokens, weight, bias, compute)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        return *_decoder_gradients(ctx, grad, None, None), None


class _MaskedMSE(torch.autograd.Function):
    @staticmethod
    def forward(ctx, prediction: Tensor, target: Tensor, mask: Tensor, dtype: torch.dtype) -> Tensor:
        loss, inverse = _masked_mse(prediction, target, mask, dtype)
        ctx.save_for_backward(inverse, prediction, target, mask)
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        return _masked_mse_backward(grad, *ctx.saved_tensors), None, None, None


class _WaveformLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx, tokens: Tensor, weight: Tensor, bias: Tensor, target: Tensor, mask: Tensor,
        compute: torch.dtype, dtype: torch.dtype,
    ) -> Tensor:  # fmt: skip
        loss, error, inverse = _waveform_loss(tokens, weight, bias, target, mask, compute, dtype, True)
        ctx.save_for_backward(tokens, weight, error, inverse)
        ctx.compute, ctx.bias_dtype = compute, bias.dtype
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        _, _, error, inverse = ctx.saved_tensors
        return *_decoder_gradients(ctx, error, grad, inverse), None, None, None, None


def _loss_dtype(prediction: torch.dtype, target: Tensor, mask: Tensor) -> torch.dtype:
    """The dtype of PyTorch's (mask * (prediction - target).square()).sum(), which autocast on CUDA takes in float32."""
    if target.device.type == "cuda" and torch.is_autocast_enabled("cuda"):
        return torch.float32
    return torch.promote_types(torch.promote_types(prediction, target.dtype), mask.dtype)


def decode_waveform(tokens: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """`reference.decode_waveform` by the kernels."""
    function = _DecodeWaveform.apply if wants_gradient(tokens, weight, bias) else _decode_waveform
    return function(tokens, weight, bias, compute_dtype(tokens))


def masked_mse(prediction: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """`reference.masked_mse` of [B, L] by the kernels, with a gradient of `prediction` alone."""
    dtype = _loss_dtype(prediction.dtype, target, mask)
    if wants_gradient(prediction):
        return _MaskedMSE.apply(prediction, target, mask, dtype)
    return _masked_mse(prediction, target, mask, dtype)[0]


def waveform_loss(tokens: Tensor, weight: Tensor, bias: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """`reference.waveform_loss` by the kernels, without gradients of `target` and `mask`."""
    compute = compute_dtype(tokens)
    dtype = _loss_dtype(torch.promote_types(compute, bias.dtype), target, mask)
    if wants_gradient(tokens, weight, bias):
        return _WaveformLoss.apply(tokens, weight, bias, target, mask, compute, dtype)
    return _waveform_loss(tokens, weight, bias, target, mask, compute, dtype, False)[0]
