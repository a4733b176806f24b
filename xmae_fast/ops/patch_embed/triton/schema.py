"""The Triton kernels of patch_embed as operators: their schemas and the shapes of their results. Imports no Triton.

As for the C++ kernels, features are channels last, [B, L, S]; products are taken in `compute`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from xmae_fast.ops._gradients import empty_gradients
from xmae_fast.ops._triton import define_triton

_INPUTS = "Tensor features, Tensor weight, Tensor bias, Tensor pos, ScalarType compute"


def empty_output(features: Tensor, weight: Tensor, pos: Tensor, compute: torch.dtype) -> Tensor:
    """Uninitialised tokens [B, N, D] of the dtype that plain PyTorch gives convolution + pos."""
    shape = (features.shape[0], pos.shape[1], weight.shape[0])
    return features.new_empty(shape, dtype=torch.promote_types(compute, pos.dtype))


def empty_packed(weight: Tensor, compute: torch.dtype) -> Tensor:
    """Uninitialised [D, P * S] for the weight in `compute`."""
    return weight.new_empty((weight.shape[0], weight.shape[1] * weight.shape[2]), dtype=compute)


def _train_fake(features, weight, bias, pos, compute):
    return empty_output(features, weight, pos, compute), empty_packed(weight, compute)


def _backward_fake(grad, features, weight, bias, pos, compute, packed, needs):
    return empty_gradients((features, weight, bias, pos), needs)


# The tokens, and for the backward the weight [D, P * S] in the dtype of products.
train = define_triton("patch_embed", f"patch_embed({_INPUTS}) -> (Tensor, Tensor)", _train_fake)
# The gradients of features [B, L, S], weight, bias, pos; those whose bit in `needs` is not set have no elements.
backward = define_triton(
    "patch_embed",
    f"patch_embed_backward(Tensor grad, {_INPUTS}, Tensor packed, int needs) -> Tensor[]",
    _backward_fake,
)


def evaluate(features: Tensor, weight: Tensor, bias: Tensor, pos: Tensor, compute: torch.dtype) -> Tensor:
    return train(features.contiguous(), weight, bias, pos, compute)[0]
