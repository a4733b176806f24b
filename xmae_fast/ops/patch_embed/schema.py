"""torch.library schemas of patch_embed's kernels, their fakes, and the autograd function around them.

The kernels take the features channels last, [B, L, S]: a patch is then one row of P * S numbers.
"""

from __future__ import annotations

import torch
from torch import Tensor

from xmae_fast.ops._checks import once_differentiable, wants_gradient
from xmae_fast.ops._dropout import bits
from xmae_fast.ops._triton import compute_dtype, define_triton

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
    @once_differentiable
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


def empty_output(features: Tensor, weight: Tensor, pos: Tensor, compute: torch.dtype) -> Tensor:
    """Room for tokens [B, N, D], typed as plain PyTorch types convolution + pos."""
    shape = (features.shape[0], pos.shape[1], weight.shape[0])
    return features.new_empty(shape, dtype=torch.promote_types(compute, pos.dtype))


def empty_packed(weight: Tensor, compute: torch.dtype) -> Tensor:
    """Room for the weight as [D, P * S]."""
    return weight.new_empty((weight.shape[0], weight.shape[1] * weight.shape[2]), dtype=compute)


def empty_gradients(features: Tensor, weight: Tensor, bias: Tensor, pos: Tensor, needs: int) -> list[Tensor]:
    """Room for gradients, of the features channels last; empty where the bit in `needs` is not set."""
    tensors = enumerate((features, weight, bias, pos))
    return [t.new_empty(t.shape if needs >> i & 1 else (0,)) for i, t in tensors]


def _forward_fake(features, weight, bias, pos, compute):
    return empty_output(features, weight, pos, compute), empty_packed(weight, compute)


def _backward_fake(grad, features, weight, bias, pos, packed, needs):
    return empty_gradients(features, weight, bias, pos, needs)


# features [B, L, S] -> tokens, and for the backward the weight [D, P * S] in the dtype of products
_kernel_triton = define_triton(
    "patch_embed",
    "patch_embed(Tensor features, Tensor weight, Tensor bias, Tensor pos, ScalarType compute) -> (Tensor, Tensor)",
    _forward_fake,
)
# gradients of features [B, L, S], weight, bias, pos; those whose bit in `needs` is not set are empty
_backward_triton = define_triton(
    "patch_embed",
    "patch_embed_backward(Tensor grad, Tensor features, Tensor weight, Tensor bias, Tensor pos, Tensor packed,"
    " int needs) -> Tensor[]",
    _backward_fake,
)


class _PatchEmbedTriton(torch.autograd.Function):
    @staticmethod
    def forward(ctx, features, weight, bias, pos, compute):
        rows = features.transpose(1, 2).contiguous()
        out, packed = _kernel_triton(rows, weight, bias, pos, compute)
        ctx.save_for_backward(rows, weight, bias, pos, packed)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        needs = ctx.needs_input_grad[:4]
        gradients = _backward_triton(grad, *ctx.saved_tensors, bits(needs))
        d_rows, *others = (gradient if need else None for gradient, need in zip(gradients, needs, strict=True))
        return None if d_rows is None else d_rows.transpose(1, 2), *others, None


def patch_embed_triton(features: Tensor, weight: Tensor, bias: Tensor, pos: Tensor) -> Tensor:
    """`reference.patch_embed` by the Triton kernels: features [B, S, N * P] -> [B, N, D]."""
    tensors, compute = (features, weight, bias, pos), compute_dtype(features)
    if wants_gradient(*tensors):
        return _PatchEmbedTriton.apply(*tensors, compute)
    return _kernel_triton(features.transpose(1, 2).contiguous(), weight, bias, pos, compute)[0]
