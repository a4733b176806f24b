"""The C++ kernels of waveform_loss as operators: their schemas and the shapes of their results.

The denominator of the loss is known before the waveform, so a forward that will be followed by a backward returns the
loss and its gradient with respect to the waveform together. Neither `target` nor `mask` gets a gradient here.
"""

from __future__ import annotations

import torch
from torch import Tensor

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


_DECODE = torch.ops.xmae_fast.decode_waveform.default
_DECODE_BACKWARD = torch.ops.xmae_fast.decode_waveform_backward.default
_MASKED_MSE = torch.ops.xmae_fast.masked_mse.default
_WAVEFORM_LOSS = torch.ops.xmae_fast.waveform_loss.default


def _as_weights(mask: Tensor, like: Tensor) -> Tensor:
    return mask if mask.is_floating_point() else mask.to(like.dtype)


def decode_waveform(tokens: Tensor, weight: Tensor, bias: Tensor, compute: torch.dtype) -> Tensor:
    return _DECODE(tokens, weight, bias)


def decode_waveform_backward(
    grad: Tensor, tokens: Tensor, weight: Tensor, bias_dtype: torch.dtype, compute: torch.dtype,
    want_tokens: bool, want_weight: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    return _DECODE_BACKWARD(grad, None, tokens, weight, want_tokens, want_weight)


def masked_mse(prediction: Tensor, target: Tensor, mask: Tensor, dtype: torch.dtype) -> Tensor:
    return _MASKED_MSE(prediction, target, _as_weights(mask, prediction), False)[0]


def masked_mse_train(prediction: Tensor, target: Tensor, mask: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The loss and, for the backward, its gradient with respect to `prediction`."""
    return _MASKED_MSE(prediction, target, _as_weights(mask, prediction), True)


def masked_mse_backward(grad: Tensor, gradient: Tensor) -> Tensor:
    return gradient * grad


def waveform_loss(
    tokens: Tensor, weight: Tensor, bias: Tensor, target: Tensor, mask: Tensor, compute: torch.dtype, dtype: torch.dtype
) -> Tensor:
    return _WAVEFORM_LOSS(tokens, weight, bias, target, _as_weights(mask, tokens), False)[0]


def waveform_loss_train(
    tokens: Tensor, weight: Tensor, bias: Tensor, target: Tensor, mask: Tensor, compute: torch.dtype, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """The loss and, for the backward, its gradient with respect to the waveform."""
    return _WAVEFORM_LOSS(tokens, weight, bias, target, _as_weights(mask, tokens), True)


def waveform_loss_backward(
    grad: Tensor, tokens: Tensor, weight: Tensor, bias_dtype: torch.dtype, compute: torch.dtype,
    want_tokens: bool, want_weight: bool, gradient: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    return _DECODE_BACKWARD(gradient, grad, tokens, weight, want_tokens, want_weight)
