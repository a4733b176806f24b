"""Schemas, fakes and autograd of the stem's Triton kernels. Weights come in the order of `schema.flatten`."""

from __future__ import annotations

import torch
from torch import Tensor

from xmae_fast.ops._triton import define_triton
from xmae_fast.ops.conv_stem.schema import CONVS, TRAINED, WEIGHTS
from xmae_fast.ops.conv_stem.triton_layout import HEAD, kept_shapes, layout_of, layout_of_kept


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
    def forward(
        ctx, count: int, batch_statistics: bool, compute: torch.dtype, *tensors: Tensor
    ) -> tuple[Tensor, ...]:
        xs, weights = tensors[:count], tensors[count:]
        ctx.sizes = [size for x in xs for size in (x.shape[0], x.shape[2])]
        x = xs[0].reshape(-1) if count == 1 else torch.cat([x.reshape(-1) for x in xs])
        features, norms, kept = TRAIN(x, weights, ctx.sizes, batch_statistics, compute)
        ctx.batch_statistics = batch_statistics
        trained = [weight for number, weight in enumerate(weights) if number % WEIGHTS < TRAINED]
        ctx.weights = [(weight.shape, weight.dtype) for weight in trained]
        ctx.save_for_backward(x, norms, *kept)
        ctx.mark_non_differentiable(norms)
        parts = features.split([x.numel() for x in xs])
        return norms, *(part.view(x.shape[0], x.shape[2], -1) for part, x in zip(parts, xs, strict=True))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, _norms: Tensor | None, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, norms, *kept = ctx.saved_tensors
        count, dtype = len(grads), ctx.weights[0][1]
        want_x = any(ctx.needs_input_grad[3 : 3 + count])
        for _, other in ctx.weights:
            dtype = torch.promote_types(dtype, other)
        flat, x_gradient = BACKWARD(grads, x, norms, kept, ctx.sizes, ctx.batch_statistics, want_x, dtype)
        parts = flat.view(-1).split([shape.numel() for shape, _ in ctx.weights])
        gradients = [part.view(shape).to(of) for part, (shape, of) in zip(parts, ctx.weights, strict=True)]
        of_stems = [gradients[first : first + TRAINED] for first in range(0, len(gradients), TRAINED)]
        of_weights = [gradient for some in of_stems for gradient in [*some, *[None] * (WEIGHTS - TRAINED)]]
        shapes = [(B, 1, L) for B, L in zip(ctx.sizes[::2], ctx.sizes[1::2], strict=True)]
        of_xs: list[Tensor | None] = [None] * count
        if want_x:
            pieces = x_gradient.split([B * L for B, _, L in shapes])
            of_xs = [piece.view(shape) for piece, shape in zip(pieces, shapes, strict=True)]
        return None, None, None, *of_xs, *of_weights
