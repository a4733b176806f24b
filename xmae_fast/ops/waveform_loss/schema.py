"""torch.library schemas of waveform_loss' kernels, their fakes, and the autograd functions around them.

The denominator of the loss is known before the waveform, so a forward that will be followed by a backward returns the
loss and its gradient by the waveform together. Neither `target` nor `mask` gets a gradient here.
"""

from __future__ import annotations

import torch
from torch import Tensor

from xmae_fast.ops._checks import once_differentiable, wants_gradient

_library = torch.library.Library("xmae_fast", "FRAGMENT")
_library.define("decode_waveform(Tensor tokens, Tensor weight, Tensor bias) -> Tensor")
_library.define(
    "decode_waveform_backward(Tensor gradient, Tensor? scale, Tensor tokens, Tensor weight, bool want_tokens,"
    " bool want_weight) -> (Tensor, Tensor, Tensor)"
)
_library.define("masked_mse(Tensor prediction, Tensor target, Tensor mask, bool want_gradient) -> (Tensor, Tensor)")
_library.define(
    "waveform_loss(Tensor tokens, Tensor weight, Tensor bias, Tensor target, Tensor mask, bool want_gradient)"
    " -> (Tensor, Tensor)"
)


def _waveform_like(tokens: Tensor, weight: Tensor) -> Tensor:
    return tokens.new_empty((tokens.shape[0], 1, tokens.shape[1] * weight.shape[2]))


@torch.library.register_fake("xmae_fast::decode_waveform")
def _(tokens, weight, bias):
    return _waveform_like(tokens, weight)


@torch.library.register_fake("xmae_fast::decode_waveform_backward")
def _(gradient, scale, tokens, weight, want_tokens, want_weight):
    return (
        gradient.new_empty(tokens.shape if want_tokens else (0,)),
        gradient.new_empty(weight.shape if want_weight else (0,)),
        gradient.new_empty((1,) if want_weight else (0,)),
    )


@torch.library.register_fake("xmae_fast::masked_mse")
def _(prediction, target, mask, want_gradient):
    return prediction.new_empty(()), prediction.new_empty(prediction.shape if want_gradient else (0,))


@torch.library.register_fake("xmae_fast::waveform_loss")
def _(tokens, weight, bias, target, mask, want_gradient):
    return tokens.new_empty(()), _waveform_like(tokens, weight) if want_gradient else tokens.new_empty((0,))


_decode_waveform = torch.ops.xmae_fast.decode_waveform.default
_decode_waveform_backward = torch.ops.xmae_fast.decode_waveform_backward.default
_masked_mse = torch.ops.xmae_fast.masked_mse.default
_waveform_loss = torch.ops.xmae_fast.waveform_loss.default


def _decoder_gradients(ctx, gradient: Tensor, scale: Tensor | None) -> tuple[Tensor | None, ...]:
    tokens, weight = ctx.saved_tensors[:2]
    want_tokens, want_weight, want_bias = ctx.needs_input_grad[:3]
    d_tokens, d_weight, d_bias = _decode_waveform_backward(
        gradient, scale, tokens, weight, want_tokens, want_weight or want_bias
    )
    return d_tokens if want_tokens else None, d_weight if want_weight else None, d_bias if want_bias else None


class _DecodeWaveform(torch.autograd.Function):
    @staticmethod
    def forward(ctx, tokens: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(tokens, weight)
        return _decode_waveform(tokens, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        return _decoder_gradients(ctx, grad, None)


class _MaskedMSE(torch.autograd.Function):
    @staticmethod
    def forward(ctx, prediction: Tensor, target: Tensor, mask: Tensor) -> Tensor:
        loss, gradient = _masked_mse(prediction, target, mask, True)
        ctx.save_for_backward(gradient)
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return gradient * grad, None, None


class _WaveformLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx, tokens: Tensor, weight: Tensor, bias: Tensor, target: Tensor, mask: Tensor) -> Tensor:
        loss, gradient = _waveform_loss(tokens, weight, bias, target, mask, True)
        ctx.save_for_backward(tokens, weight, gradient)
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        return *_decoder_gradients(ctx, ctx.saved_tensors[2], grad), None, None


def _as_weights(mask: Tensor, like: Tensor) -> Tensor:
    return mask if mask.is_floating_point() else mask.to(like.dtype)


def decode_waveform(tokens: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """`reference.decode_waveform` by the kernels."""
    function = _DecodeWaveform.apply if wants_gradient(tokens, weight, bias) else _decode_waveform
    return function(tokens, weight, bias)


def masked_mse(prediction: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """`reference.masked_mse` of [B, L] by the kernels, with a gradient of `prediction` alone."""
    mask = _as_weights(mask, prediction)
    if wants_gradient(prediction):
        return _MaskedMSE.apply(prediction, target, mask)
    return _masked_mse(prediction, target, mask, False)[0]


def waveform_loss(tokens: Tensor, weight: Tensor, bias: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """`reference.waveform_loss` by the kernels, without gradients of `target` and `mask`."""
    mask = _as_weights(mask, tokens)
    if wants_gradient(tokens, weight, bias):
        return _WaveformLoss.apply(tokens, weight, bias, target, mask)
    return _waveform_loss(tokens, weight, bias, target, mask, False)[0]
