"""The Triton kernels of conv_stem as operators: their schemas and the shapes of their results. Imports no Triton.

Weights come in the order of `params.flatten`. Training serves one stem or two in one set of launches: x is flat, the
samples of the second stem after those of the first, and `sizes` are B and L of each.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from xmae_fast.ops._triton import define_triton
from xmae_fast.ops.conv_stem.params import CONVS
from xmae_fast.ops.conv_stem.several import Training, features_of_stems, joined, sizes_of
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


def evaluate(x: Tensor, weights: Sequence[Tensor], compute: torch.dtype) -> Tensor:
    """Features [B, L, S] in `compute`, of x [B, 1, L], by running statistics."""
    return EVAL(x, weights, compute)


def train(
    xs: Sequence[Tensor], weights: Sequence[Tensor], batch_statistics: bool, compute: torch.dtype
) -> tuple[tuple[Tensor, ...], Tensor, tuple[Tensor, ...]]:
    """See `operators`."""
    sizes, x = sizes_of(xs), joined(xs)
    features, norms, kept = TRAIN(x, weights, sizes, batch_statistics, compute)
    return features_of_stems(features, sizes), norms, (x, norms, *kept)


def backward(
    grads: Sequence[Tensor], saved: Sequence[Tensor], call: Training, want_x: bool
) -> tuple[list[Tensor | None], list[Tensor | None]]:
    """See `operators`; the gradients of the weights are views of one buffer."""
    x, norms, *kept = saved
    flat, of_x = BACKWARD(grads, x, norms, kept, call.sizes, call.batch_statistics, want_x, call.dtype)
    return call.gradients_of_xs(of_x) if want_x else [None] * len(grads), call.gradients_of_weights(flat)
