"""The operators of each implementation of conv_stem, and autograd over them.

Every implementation has, in the `schema.py` of its folder,

    evaluate(x, weights, compute) -> features [B, L, S]
    train(xs, weights, batch_statistics, compute) -> features [B, L, S] of each stem, norms, tensors to save
    backward(gradients of the features, saved tensors, Training, want_x) -> gradients of each x and of all weights

with `weights` in the order of `params.flatten`, those of two stems one after the other. The first rows of `norms`
[rows, channels or more] of a stem are mean, 1 / deviation and unbiased variance of every channel.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from xmae_fast.ops._compiling import check_backward
from xmae_fast.ops._gradients import once_differentiable, wants_gradient
from xmae_fast.ops._triton import compute_dtype
from xmae_fast.ops.conv_stem import schema
from xmae_fast.ops.conv_stem.cuda import schema as cuda_schema
from xmae_fast.ops.conv_stem.params import StemParams, conv_bns, flatten
from xmae_fast.ops.conv_stem.reference import MOMENTUM
from xmae_fast.ops.conv_stem.several import MOST_VALUES, Training
from xmae_fast.ops.conv_stem.triton import schema as triton_schema
from xmae_fast.ops.conv_stem.triton.layout import layout_of

OPERATORS = {"cpu": schema, "triton": triton_schema, "cuda": cuda_schema}
_JOINING = ("triton", "cuda")  # implementations that train two stems of the same widths in one set of launches


class _ConvStem(torch.autograd.Function):
    """`norms`, then the features [B, L, S] of each stem, with gradients of their x and of all trained weights."""

    @staticmethod
    def forward(
        ctx, impl: str, count: int, batch_statistics: bool, compute: torch.dtype, *tensors: Tensor
    ) -> tuple[Tensor, ...]:
        """tensors: x [B, 1, L] of each of `count` stems, then the weights of each."""
        xs, weights = tensors[:count], tensors[count:]
        features, norms, saved = OPERATORS[impl].train(xs, weights, batch_statistics, compute)
        ctx.save_for_backward(*saved)
        ctx.mark_non_differentiable(norms)
        ctx.impl, ctx.call = impl, Training.of(xs, weights, batch_statistics)
        want_x = any(ctx.needs_input_grad[4 : 4 + count])
        if impl == "triton":
            check_backward(
                (*xs, *features, *saved), ("conv_stem", batch_statistics, compute, want_x, ctx.call.dtypes),
                lambda: OPERATORS[impl].backward(features, saved, ctx.call, want_x),
            )  # fmt: skip
        return norms, *features

    @staticmethod
    @once_differentiable
    def backward(ctx, _norms: Tensor | None, *grads: Tensor):
        want_x = any(ctx.needs_input_grad[4 : 4 + len(grads)])
        of_xs, of_weights = OPERATORS[ctx.impl].backward(grads, ctx.saved_tensors, ctx.call, want_x)
        return None, None, None, None, *of_xs, *of_weights


def conv_stem(x: Tensor, params: StemParams, training: bool, impl: str) -> Tensor:
    """`reference.conv_stem` by the kernels of `impl`: x [B, 1, L] -> [B, S, L]."""
    if not training:
        weights = flatten(params)
        if not wants_gradient(x, *weights):
            return OPERATORS[impl].evaluate(x, weights, compute_dtype(x, impl, inference=True)).transpose(1, 2)
    return conv_stems((x,), (params,), training, impl)[0]


def conv_stems(xs: Sequence[Tensor], params: Sequence[StemParams], training: bool, impl: str) -> tuple[Tensor, ...]:
    """`reference.conv_stem` of one stem, or of two that `may_join`, by the kernels of `impl` that keep what a backward
    needs: [B, 1, L] of each stem -> [B, S, L] of each."""
    for x in xs:
        _check_values(x, training)
    return train(xs, params, training, compute_dtype(xs[0], impl, trains_in_bfloat16=True), impl)


def train(
    xs: Sequence[Tensor], params: Sequence[StemParams], training: bool, compute: torch.dtype, impl: str
) -> tuple[Tensor, ...]:
    """`conv_stems` without its check.

    Args:
        xs: [B, 1, L] of each stem; B and L may differ.
        params: the weights of each; in training the running statistics in them are updated in place.
        training: normalise by the batch's statistics instead of the running ones.
        compute: the dtype of matrix products.
        impl: the name of an implementation.

    Returns:
        [B, S, L] of each stem.
    """
    weights = [weight for stem in params for weight in flatten(stem)]
    norms, *features = _ConvStem.apply(impl, len(xs), training, compute, *xs, *weights)
    if training:
        update_running_statistics(params, norms.view(len(xs), -1, norms.shape[-1]))
    return tuple(part.transpose(1, 2) for part in features)


def may_join(xs: Sequence[Tensor], params: Sequence[StemParams], training: bool, impl: str) -> bool:
    """Whether the kernels of `impl` can train two stems in one set of launches, and are to train at all."""
    if impl not in _JOINING or not min(x.numel() for x in xs) or sum(x.numel() for x in xs) >= MOST_VALUES:
        return False
    weights = [flatten(stem) for stem in params]
    alike = layout_of(weights[0]) == layout_of(weights[1]) and xs[0].dtype == xs[1].dtype
    wants = {wants_gradient(x, *some) for x, some in zip(xs, weights, strict=True)}
    return alike and len(wants) == 1 and (training or True in wants)


@torch.no_grad()
def update_running_statistics(params: Sequence[StemParams], norms: Tensor) -> None:
    """Move the running statistics towards the batch's (mean and unbiased variance), as torch.nn.BatchNorm1d does.

    Args:
        params: weights of stems of the same widths.
        norms: [stems, 3 or more, channels or more], see above.
    """
    layers = [layer for stem in params for layer in conv_bns(stem)]
    sizes = [len(layer.gamma) for layer in conv_bns(params[0])]
    running = [layer.running_mean for layer in layers] + [layer.running_var for layer in layers]
    batch = [part for row in (0, 2) for stem in norms for part in stem[row, : sum(sizes)].split(sizes)]
    # torch's stubs do not export these, though torch.optim is made of them.
    torch._foreach_mul_(running, 1 - MOMENTUM)  # pyright: ignore[reportPrivateImportUsage]
    torch._foreach_add_(running, batch, alpha=MOMENTUM)  # pyright: ignore[reportPrivateImportUsage]
    counts = [layer.num_batches_tracked for layer in layers]
    torch._foreach_add_(counts, 1)  # pyright: ignore[reportPrivateImportUsage]


def _check_values(x: Tensor, training: bool) -> None:
    if training and x.shape[0] * -(-x.shape[2] // 4) == 1:  # values per channel on the coarsest level
        raise ValueError(f"x: expected more than one value per channel for BatchNorm in training, got {list(x.shape)}")
