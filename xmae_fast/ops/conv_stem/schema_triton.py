"""Schemas, fakes and autograd of the stem's Triton kernels. Weights come in the order of `schema.flatten`."""

from __future__ import annotations

import torch
from torch import Tensor

from xmae_fast.ops._triton import define_triton
from xmae_fast.ops.conv_stem.schema import CONVS, TRAINED
from xmae_fast.ops.conv_stem.triton_layout import kept_shapes, layout_of, layout_of_kept


def _eval(x, weights, compute):
    return x.new_empty((x.shape[0], x.shape[2], weights[CONVS - 1].shape[0]), dtype=compute)


def _train(x, weights, batch_statistics, compute):
    plan = layout_of(weights)
    B, _, L = x.shape
    kept = [x.new_empty(shape, dtype=compute) for shape in kept_shapes(plan, B, L)]
    norms = x.new_empty((5, plan.channels + 1), dtype=torch.float32)
    return _eval(x, weights, compute), norms, kept


def _backward(grad, x, norms, kept, batch_statistics, want_x, dtype):
    plan = layout_of_kept(kept)
    return (
        x.new_empty(plan.weights + 2 * plan.channels, dtype=dtype),
        x.new_empty((x.shape[0] if want_x else 0, 1, x.shape[2])),
    )


EVAL = define_triton("conv_stem", "conv_stem_eval(Tensor x, Tensor[] weights, ScalarType compute) -> Tensor", _eval)
TRAIN = define_triton(
    "conv_stem",
    "conv_stem_train(Tensor x, Tensor[] weights, bool batch_statistics, ScalarType compute)"
    " -> (Tensor, Tensor, Tensor[])",
    _train,
)
BACKWARD = define_triton(
    "conv_stem",
    "conv_stem_backward(Tensor grad, Tensor x, Tensor norms, Tensor[] kept, bool batch_statistics, bool want_x,"
    " ScalarType dtype) -> (Tensor, Tensor)",
    _backward,
)


class TritonStemFunction(torch.autograd.Function):
    """Features [B, L, S] and `norms` [5, channels + 1], with gradients of x and of all trained weights.

    The weights' gradients are views of one buffer.
    """

    @staticmethod
    def forward(
        ctx, batch_statistics: bool, compute: torch.dtype, x: Tensor, *weights: Tensor
    ) -> tuple[Tensor, Tensor]:
        features, norms, kept = TRAIN(x, weights, batch_statistics, compute)
        ctx.batch_statistics = batch_statistics
        ctx.weights = [(weight.shape, weight.dtype) for weight in weights[:TRAINED]]
        ctx.save_for_backward(x, norms, *kept)
        ctx.mark_non_differentiable(norms)
        return features, norms

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor, _norms: Tensor | None) -> tuple[Tensor | None, ...]:
        x, norms, *kept = ctx.saved_tensors
        want_x = ctx.needs_input_grad[2]
        dtype = ctx.weights[0][1]
        for _, other in ctx.weights:
            dtype = torch.promote_types(dtype, other)
        flat, x_gradient = BACKWARD(grad, x, norms, kept, ctx.batch_statistics, want_x, dtype)
        parts = flat.split([shape.numel() for shape, _ in ctx.weights])
        gradients = [part.view(shape).to(of) for part, (shape, of) in zip(parts, ctx.weights, strict=True)]
        return None, None, x_gradient if want_x else None, *gradients, *[None] * (2 * CONVS)
