"""Schemas, fakes and autograd of the stem's Triton kernels. Weights come in the order of `schema.flatten`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from xmae_fast.ops._checks import once_differentiable
from xmae_fast.ops._triton import define_triton
from xmae_fast.ops.conv_stem import several
from xmae_fast.ops.conv_stem.params import StemParams
from xmae_fast.ops.conv_stem.schema import CONVS, flatten
from xmae_fast.ops.conv_stem.triton.layout import HEAD, kept_shapes, layout_of, layout_of_kept


def _eval(x, weights, compute):
    return x.new_empty((x.shape[0], x.shape[2], weights[CONVS - 1].shape[0]), dtype=compute)


def _train(x, weights, sizes, batch_statistics, compute):
    plan = layout_of(weights)
    kept = [x.new_empty(shape, dtype=compute) for shape in kept_shapes(plan, sizes)]
    norms = x.new_empty((len(sizes) // 2, 5, plan.channels + 1), dtype=torch.float32)
    return x.new_empty((x.shape[0], kept[HEAD].shape[1]), dtype=compute), norms, kept


def _backward(grads, x, norms, kept, sizes, batch_statistics, want_x, dtype):
    plan = layout_of_kept(kept)
    numbers = plan.weights + 2 * plan.channels
    return x.new_empty((len(grads), numbers), dtype=dtype), x.new_empty(x.shape if want_x else (0,))


EVAL = define_triton("conv_stem", "conv_stem_eval(Tensor x, Tensor[] weights, ScalarType compute) -> Tensor", _eval)
# Of one stem or two: x flat, the samples of the second behind those of the first; B and L of each.
TRAIN = define_triton(
    "conv_stem",
    "conv_stem_train(Tensor x, Tensor[] weights, SymInt[] sizes, bool batch_statistics, ScalarType compute)"
    " -> (Tensor, Tensor, Tensor[])",
    _train,
)
BACKWARD = define_triton(
    "conv_stem",
    "conv_stem_backward(Tensor[] grads, Tensor x, Tensor norms, Tensor[] kept, SymInt[] sizes, bool batch_statistics,"
    " bool want_x, ScalarType dtype) -> (Tensor, Tensor)",
    _backward,
)


class TritonStemFunction(torch.autograd.Function):
    """`norms` [stems, 5, channels + 1] and the features [B, L, S] of one or two stems, with gradients of their x and
    of all trained weights.

    tensors: x [B, 1, L] of each stem, then the weights of each. The weights' gradients are views of one buffer.
    """

    @staticmethod
    def forward(ctx, count: int, batch_statistics: bool, compute: torch.dtype, *tensors: Tensor) -> tuple[Tensor, ...]:
        xs, weights = tensors[:count], tensors[count:]
        ctx.sizes, ctx.trained = several.sizes_of(xs), several.Trained.of(weights)
        x = several.end_to_end(xs)
        features, norms, kept = TRAIN(x, weights, ctx.sizes, batch_statistics, compute)
        ctx.batch_statistics = batch_statistics
        ctx.save_for_backward(x, norms, *kept)
        ctx.mark_non_differentiable(norms)
        return norms, *several.features_of_stems(features, ctx.sizes)

    @staticmethod
    @once_differentiable
    def backward(ctx, _norms: Tensor | None, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, norms, *kept = ctx.saved_tensors
        count = len(grads)
        want_x = any(ctx.needs_input_grad[3 : 3 + count])
        flat, x_gradient = BACKWARD(grads, x, norms, kept, ctx.sizes, ctx.batch_statistics, want_x, ctx.trained.dtype)
        of_xs: list[Tensor | None] = [None] * count
        if want_x:
            shapes = [(B, 1, L) for B, L in zip(ctx.sizes[::2], ctx.sizes[1::2], strict=True)]
            pieces = x_gradient.split([B * L for B, _, L in shapes])
            of_xs = [piece.view(shape) for piece, shape in zip(pieces, shapes, strict=True)]
        return None, None, None, *of_xs, *ctx.trained.gradients(flat)


def evaluate(x: Tensor, params: StemParams, compute: torch.dtype) -> Tensor:
    """Features [B, L, S] in `compute`, of x [B, 1, L], with running statistics."""
    return EVAL(x, flatten(params), compute)


def train(
    xs: Sequence[Tensor], params: Sequence[StemParams], training: bool, compute: torch.dtype
) -> tuple[Tensor, ...]:
    """As `several.train`."""
    return several.train(TritonStemFunction, xs, params, training, compute)
