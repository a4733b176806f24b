"""Schemas, fakes and autograd of the stem's CUDA C++ kernels for training, of one stem or two in one set of launches.

`flat` [stems, numbers] float32: the weights of each stem in the order of `schema.flatten`, without the running
statistics where the batch's are used. `sizes`: B and L of each stem; rows: the sum of B * L.

    conv_stem_train_cuda     x (flat, the samples of the second stem behind those of the first; float32 or `compute`) ->
        features [rows, 32]  in `compute`
        norms                [stems, 5, channels + 1] float32, as in triton_layout.py
        kept                 [numbers] in `compute`: outputs before BatchNorm of units 1 to 16, mix2, mix1, each [rows
                             of its level in all stems, channels], then PACKED_NUMBERS of packed weights for each stem
        moments              [stems, 36] float32: of x, for the statistics of the layers that read it
    conv_stem_backward_cuda  grads: of the features of each stem, contiguous [B, L, 32] in the dtype of `kept` ->
        gradients            [stems, numbers] float32: of the trained part of `flat`
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from xmae_fast.ops._checks import once_differentiable
from xmae_fast.ops.conv_stem import several
from xmae_fast.ops.conv_stem.cuda.schema import TRAINED_CHANNELS, WIDTHS
from xmae_fast.ops.conv_stem.params import StemParams
from xmae_fast.ops.conv_stem.schema import TRAINED, WEIGHTS
from xmae_fast.ops.conv_stem.triton import layout as triton_layout

PACKED_NUMBERS = 696_832  # packed weights of a stem, forward and backward, as csrc/cuda/train_plan.h lays them
MOMENTS = 36

_library = torch.library.Library("xmae_fast", "FRAGMENT")
_library.define(
    "conv_stem_train_cuda(Tensor x, Tensor flat, SymInt[] sizes, bool batch_statistics, ScalarType compute)"
    " -> (Tensor, Tensor, Tensor, Tensor)"
)
_library.define(
    "conv_stem_backward_cuda(Tensor[] grads, Tensor x, Tensor flat, Tensor norms, Tensor kept, Tensor moments,"
    " SymInt[] sizes, bool batch_statistics) -> Tensor"
)
TRAIN = torch.ops.xmae_fast.conv_stem_train_cuda.default
BACKWARD = torch.ops.xmae_fast.conv_stem_backward_cuda.default


def layout() -> triton_layout.Layout:
    """Of the only widths that the kernels train."""
    return triton_layout.layout(WIDTHS, TRAINED_CHANNELS)


def kept_numbers(sizes: Sequence[int]) -> int:
    """Numbers in `kept`."""
    shapes = triton_layout.kept_shapes(layout(), sizes)[1 : triton_layout.UNITS + 2]  # no unit 0: x gives it again
    return sum(rows * channels for rows, channels in shapes) + len(sizes) // 2 * PACKED_NUMBERS


@torch.library.register_fake("xmae_fast::conv_stem_train_cuda")
def _(x, flat, sizes, batch_statistics, compute):
    stems, single = len(sizes) // 2, {"dtype": torch.float32}
    return (
        x.new_empty((x.shape[0], TRAINED_CHANNELS), dtype=compute),
        x.new_empty((stems, 5, layout().channels + 1), **single),
        x.new_empty(kept_numbers(sizes), dtype=compute),
        x.new_empty((stems, MOMENTS), **single),
    )


@torch.library.register_fake("xmae_fast::conv_stem_backward_cuda")
def _(grads, x, flat, norms, kept, moments, sizes, batch_statistics):
    plan = layout()
    return x.new_empty((len(sizes) // 2, plan.weights + 2 * plan.channels), dtype=torch.float32)


class CudaStemFunction(torch.autograd.Function):
    """`norms` and the features [B, L, 32] of one or two stems, with gradients of all trained weights and none of x.

    tensors: x [B, 1, L] of each stem, then the weights of each. The weights' gradients are views of one buffer.
    """

    @staticmethod
    def forward(ctx, count: int, batch_statistics: bool, compute: torch.dtype, *tensors: Tensor) -> tuple[Tensor, ...]:
        xs, weights = tensors[:count], tensors[count:]
        ctx.sizes, ctx.trained = several.sizes_of(xs), several.Trained.of(weights)
        x = several.end_to_end(xs)
        x = x if x.dtype in (torch.float32, compute) else x.float()
        used = several.used_weights(weights, TRAINED if batch_statistics else WEIGHTS)
        flat = several.end_to_end(used).float().view(count, -1)
        features, norms, kept, moments = TRAIN(x, flat, ctx.sizes, batch_statistics, compute)
        ctx.batch_statistics = batch_statistics
        ctx.save_for_backward(x, flat, norms, kept, moments)
        ctx.mark_non_differentiable(norms)
        return norms, *several.features_of_stems(features, ctx.sizes)

    @staticmethod
    @once_differentiable
    def backward(ctx, _norms: Tensor | None, *grads: Tensor) -> tuple[Tensor | None, ...]:
        gradients = BACKWARD([grad.contiguous() for grad in grads], *ctx.saved_tensors, ctx.sizes, ctx.batch_statistics)
        return None, None, None, *[None] * len(grads), *ctx.trained.gradients(gradients)


def train(
    xs: Sequence[Tensor], params: Sequence[StemParams], training: bool, compute: torch.dtype
) -> tuple[Tensor, ...]:
    """As `several.train`; what `schema_cuda.limit` refuses is not checked here."""
    return several.train(CudaStemFunction, xs, params, training, compute)
