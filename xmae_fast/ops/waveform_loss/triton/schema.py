"""The Triton kernels of waveform_loss as operators: their schemas and the shapes of their results. Imports no Triton.

As with the C++ kernels, neither `target` nor `mask` gets a gradient. Here the loss keeps for its backward
error = 2 mask (prediction - target) and inverse = 1 / max(sum(mask), 1), both float32. `compute` is the dtype of matrix
products, `dtype` that of the loss.
"""

from __future__ import annotations

import torch
from torch import Tensor

from xmae_fast.ops._triton import define_triton

_OP = "waveform_loss"


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


decode_waveform = define_triton(
    _OP, "decode_waveform(Tensor tokens, Tensor weight, Tensor bias, ScalarType compute) -> Tensor", _decoded
)
_DECODE_BACKWARD = define_triton(
    _OP,
    "decode_waveform_backward(Tensor gradient, Tensor? scale, Tensor? inverse, Tensor tokens, Tensor weight,"
    " ScalarType compute, ScalarType bias_dtype, bool want_tokens, bool want_weight) -> (Tensor, Tensor, Tensor)",
    _decoded_backward,
)
_MASKED_MSE = define_triton(
    _OP,
    "masked_mse(Tensor prediction, Tensor target, Tensor mask, ScalarType dtype) -> (Tensor, Tensor)",
    _mse,
)
masked_mse_backward = define_triton(
    _OP,
    "masked_mse_backward(Tensor grad, Tensor inverse, Tensor prediction, Tensor target, Tensor mask) -> Tensor",
    _mse_backward,
)
_WAVEFORM_LOSS = define_triton(
    _OP,
    "waveform_loss(Tensor tokens, Tensor weight, Tensor bias, Tensor target, Tensor mask, ScalarType compute,"
    " ScalarType dtype, bool want_error) -> (Tensor, Tensor, Tensor)",
    _loss,
)


def decode_waveform_backward(
    grad: Tensor, tokens: Tensor, weight: Tensor, bias_dtype: torch.dtype, compute: torch.dtype,
    want_tokens: bool, want_weight: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    return _DECODE_BACKWARD(grad, None, None, tokens, weight, compute, bias_dtype, want_tokens, want_weight)


def masked_mse(prediction: Tensor, target: Tensor, mask: Tensor, dtype: torch.dtype) -> Tensor:
    return _MASKED_MSE(prediction, target, mask, dtype)[0]


def masked_mse_train(prediction: Tensor, target: Tensor, mask: Tensor, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """The loss, then what the backward needs: inverse [], and the inputs."""
    return *_MASKED_MSE(prediction, target, mask, dtype), prediction, target, mask


def waveform_loss(
    tokens: Tensor, weight: Tensor, bias: Tensor, target: Tensor, mask: Tensor, compute: torch.dtype, dtype: torch.dtype
) -> Tensor:
    return _WAVEFORM_LOSS(tokens, weight, bias, target, mask, compute, dtype, False)[0]


def waveform_loss_train(
    tokens: Tensor, weight: Tensor, bias: Tensor, target: Tensor, mask: Tensor, compute: torch.dtype, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """The loss, then what the backward needs: error [B, 1, L] and inverse []."""
    return _WAVEFORM_LOSS(tokens, weight, bias, target, mask, compute, dtype, True)


def waveform_loss_backward(
    grad: Tensor, tokens: Tensor, weight: Tensor, bias_dtype: torch.dtype, compute: torch.dtype,
    want_tokens: bool, want_weight: bool, error: Tensor, inverse: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    return _DECODE_BACKWARD(error, grad, inverse, tokens, weight, compute, bias_dtype, want_tokens, want_weight)
