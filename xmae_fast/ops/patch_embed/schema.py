"""torch.library schemas of patch_embed's kernels, their fakes, and the autograd function around them.

The kernels take the features channels last, [B, L, S]: a patch is then one row of P * S numbers.
"""

from __future__ import annotations

import torch
from torch import Tensor

from xmae_fast.ops._checks import wants_gradient

_library = torch.library.Library("xmae_fast", "FRAGMENT")
_library.define("patch_embed(Tensor features, Tensor weight, Tensor bias, Tensor pos, bool keep) -> Tensor")
_library.define(
    "patch_embed_backward(Tensor grad, Tensor features, Tensor weight, bool want_features, bool want_weight,"
    " bool want_sums) -> (Tensor, Tensor, Tensor, Tensor)"
)


@torch.library.register_fake("xmae_fast::patch_embed")
def _(features, weight, bias, pos, keep):
    return features.new_empty((features.shape[0], pos.shape[1], weight.shape[0]))


@torch.library.register_fake("xmae_fast::patch_embed_backward")
def _(grad, features, weight, want_features, want_weight, want_sums):
    _, N, D = grad.shape
    return (
        grad.new_empty(features.shape if want_features else (0,)),
        grad.new_empty(weight.shape if want_weight else (0,)),
        grad.new_empty((D,) if want_sums else (0,)),
        grad.new_empty((1, N, D) if want_sums else (0,)),
    )


_kernel = torch.ops.xmae_fast.patch_embed.default
_backward_kernel = torch.ops.xmae_fast.patch_embed_backward.default


class _PatchEmbed(torch.autograd.Function):
    @staticmethod
    def forward(ctx, features: Tensor, weight: Tensor, bias: Tensor, pos: Tensor) -> Tensor:
        rows = features.transpose(1, 2).contiguous()
        ctx.save_for_backward(rows, weight)
        return _kernel(rows, weight, bias, pos, False)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        rows, weight = ctx.saved_tensors
        want_features, want_weight, want_bias, want_pos = ctx.needs_input_grad
        d_rows, d_weight, d_bias, d_pos = _backward_kernel(
            grad, rows, weight, want_features, want_weight, want_bias or want_pos
        )
        return (
            d_rows.transpose(1, 2) if want_features else None,
            d_weight if want_weight else None,
            d_bias if want_bias else None,
            d_pos if want_pos else None,
        )


def patch_embed(features: Tensor, weight: Tensor, bias: Tensor, pos: Tensor) -> Tensor:
    """`reference.patch_embed` by the kernels: features [B, S, N * P] -> [B, N, D]."""
    tensors = (features, weight, bias, pos)
    if wants_gradient(*tensors):
        return _PatchEmbed.apply(*tensors)
    return _kernel(features.transpose(1, 2), weight, bias, pos, True)
