"""The C++ kernels of patch_embed as operators: their schemas and the shapes of their results.

The kernels take the features channels last, [B, L, S]: a patch is then one row of P * S numbers.
"""

from __future__ import annotations

import torch
from torch import Tensor

from xmae_fast.ops import _frozen

_library = torch.library.Library("xmae_fast", "FRAGMENT")
_library.define("patch_embed(Tensor features, Tensor weight, Tensor bias, Tensor pos, bool keep) -> Tensor")
_library.define("patch_embed_bf16(Tensor features, Tensor weight, Tensor bias, Tensor pos) -> Tensor")
_library.define(
    "patch_embed_backward(Tensor grad, Tensor features, Tensor weight, bool want_features, bool want_weight,"
    " bool want_sums) -> (Tensor, Tensor, Tensor, Tensor)"
)


@torch.library.register_fake("xmae_fast::patch_embed")
def _(features, weight, bias, pos, keep):
    return features.new_empty((features.shape[0], pos.shape[1], weight.shape[0]))


@torch.library.register_fake("xmae_fast::patch_embed_bf16")
def _(features, weight, bias, pos):
    return weight.new_empty((features.shape[0], pos.shape[1], weight.shape[0]))


@torch.library.register_fake("xmae_fast::patch_embed_backward")
def _(grad, features, weight, want_features, want_weight, want_sums):
    _, N, D = grad.shape
    return (
        grad.new_empty(features.shape if want_features else (0,)),
        grad.new_empty(weight.shape if want_weight else (0,)),
        grad.new_empty((D,) if want_sums else (0,)),
        grad.new_empty((1, N, D) if want_sums else (0,)),
    )


_EMBED = torch.ops.xmae_fast.patch_embed.default
_EMBED_BF16 = torch.ops.xmae_fast.patch_embed_bf16.default
_BACKWARD = torch.ops.xmae_fast.patch_embed_backward.default


def evaluate(features: Tensor, weight: Tensor, bias: Tensor, pos: Tensor, compute: torch.dtype) -> Tensor:
    """The packed weight is kept for the next call."""
    if compute == torch.bfloat16:
        return _frozen.call(_EMBED_BF16, (weight,), features, weight, bias, pos)
    return _frozen.call(_EMBED, (weight,), features, weight, bias, pos, True)


def train(features: Tensor, weight: Tensor, bias: Tensor, pos: Tensor, compute: torch.dtype) -> tuple[Tensor]:
    return (_EMBED(features, weight, bias, pos, False),)


def backward(
    grad: Tensor, features: Tensor, weight: Tensor, bias: Tensor, pos: Tensor, compute: torch.dtype, needs: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The sums over samples that are the gradients of bias and pos come together."""
    return _BACKWARD(grad, features, weight, bool(needs & 1), bool(needs & 2), bool(needs & 12))
