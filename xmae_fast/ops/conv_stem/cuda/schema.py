"""The CUDA C++ kernels of conv_stem as operators: their schemas and the shapes of their results.

Weights come in the order of `params.flatten`; `ids_keep` [B, Nk] int64 are visible patches of `patch_len` samples,
which the kernel for evaluation takes out of x itself. Training serves one stem or two in one set of launches. `flat` is
[stems, numbers] float32, the weights of each stem, without the running statistics where the batch's are used; `sizes`
are B and L of each stem, and rows the sum of B * L.

    conv_stem_train_cuda     x (flat, the samples of the second stem after those of the first; float32 or `compute`) ->
        features [rows, 32]  in `compute`
        norms                [stems, 5, channels + 1] float32, as in triton/layout.py
        kept                 [numbers] in `compute`: outputs before BatchNorm of units 1 to 16, mix2, mix1, each [rows
                             of its level in all stems, channels], then PACKED_NUMBERS of packed weights for each stem
        moments              [stems, 36] float32: moments of x, for the statistics of the layers that read it
    conv_stem_backward_cuda  gradients of the features of each stem, contiguous [B, L, 32] in the dtype of `kept` ->
        gradients            [stems, numbers] float32: gradients of the trained part of `flat`
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from xmae_fast.ops.conv_stem.cuda.limits import TRAINED_CHANNELS, WIDTHS
from xmae_fast.ops.conv_stem.params import CONVS, TRAINED, WEIGHTS
from xmae_fast.ops.conv_stem.several import Training, features_of_stems, joined, sizes_of, used_weights
from xmae_fast.ops.conv_stem.triton import layout as triton_layout

PACKED_NUMBERS = (
    696_832  # packed weights of a stem, forward and backward, as csrc/cuda/conv_stem/train_plan.h lays them
)
MOMENTS = 36

_library = torch.library.Library("xmae_fast", "FRAGMENT")
_library.define(
    "conv_stem_eval_cuda(Tensor x, Tensor[] weights, Tensor? ids_keep, int patch_len, ScalarType compute) -> Tensor"
)
_library.define(
    "conv_stem_train_cuda(Tensor x, Tensor flat, SymInt[] sizes, bool batch_statistics, ScalarType compute)"
    " -> (Tensor, Tensor, Tensor, Tensor)"
)
_library.define(
    "conv_stem_backward_cuda(Tensor[] grads, Tensor x, Tensor flat, Tensor norms, Tensor kept, Tensor moments,"
    " SymInt[] sizes, bool batch_statistics) -> Tensor"
)
_EVAL = torch.ops.xmae_fast.conv_stem_eval_cuda.default
TRAIN = torch.ops.xmae_fast.conv_stem_train_cuda.default
BACKWARD = torch.ops.xmae_fast.conv_stem_backward_cuda.default


@torch.library.register_fake("xmae_fast::conv_stem_eval_cuda")
def _(x, weights, ids_keep, patch_len, compute):
    L = x.shape[2] if ids_keep is None else ids_keep.shape[1] * patch_len
    return x.new_empty((x.shape[0], L, weights[CONVS - 1].shape[0]), dtype=compute)


def layout() -> triton_layout.Layout:
    """The layout of a stem with the only widths that the kernels train."""
    return triton_layout.layout(WIDTHS, TRAINED_CHANNELS)


def kept_numbers(sizes: Sequence[int]) -> int:
    """How many numbers `kept` has."""
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


def evaluate(
    x: Tensor, weights: Sequence[Tensor], compute: torch.dtype, ids_keep: Tensor | None = None, patch_len: int = 1
) -> Tensor:
    """Features [B, L, S] in `compute`, of x [B, 1, L] or of its visible patches side by side.

    Args:
        x: [B, 1, L].
        weights: see above.
        compute: the dtype of matrix products.
        ids_keep: [B, Nk] int64, visible patches in 0..L / patch_len - 1, which are not checked; None: all of x.
        patch_len: samples of a patch.
    """
    if any(weight.dtype != torch.float32 or not weight.is_contiguous() for weight in weights):
        sizes = [weight.numel() for weight in weights]
        flat = torch.cat([weight.reshape(-1) for weight in weights]).float()  # two launches, not one for each
        weights = [part.view(weight.shape) for part, weight in zip(flat.split(sizes), weights, strict=True)]
    x = x.contiguous() if x.dtype in (torch.float32, compute) else x.float().contiguous()
    return _EVAL(x, weights, None if ids_keep is None else ids_keep.contiguous(), patch_len, compute)


def train(
    xs: Sequence[Tensor], weights: Sequence[Tensor], batch_statistics: bool, compute: torch.dtype
) -> tuple[tuple[Tensor, ...], Tensor, tuple[Tensor, ...]]:
    """See `operators`; what `limits.limit` refuses is not checked here."""
    sizes, x = sizes_of(xs), joined(xs)
    x = x if x.dtype in (torch.float32, compute) else x.float()
    used = used_weights(weights, TRAINED if batch_statistics else WEIGHTS)
    flat = joined(used).float().view(len(xs), -1)
    features, norms, kept, moments = TRAIN(x, flat, sizes, batch_statistics, compute)
    return features_of_stems(features, sizes), norms, (x, flat, norms, kept, moments)


def backward(
    grads: Sequence[Tensor], saved: Sequence[Tensor], call: Training, want_x: bool
) -> tuple[list[None], list[Tensor | None]]:
    """See `operators`; the gradients of the weights are views of one buffer, and x has none."""
    flat = BACKWARD([grad.contiguous() for grad in grads], *saved, call.sizes, call.batch_statistics)
    return [None] * len(grads), call.gradients_of_weights(flat)
