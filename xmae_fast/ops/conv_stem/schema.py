"""torch.library schemas of the stem's kernels, their fakes, and the order in which they take the weights."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from xmae_fast.ops._checks import once_differentiable
from xmae_fast.ops.conv_stem.params import ConvBN, StemParams
from xmae_fast.ops.conv_stem.reference import MOMENTUM

_library = torch.library.Library("xmae_fast", "FRAGMENT")
_library.define("conv_stem_eval(Tensor x, Tensor[] weights) -> Tensor")
_library.define("conv_stem_train(Tensor x, Tensor[] weights, bool batch_statistics) -> (Tensor, Tensor, Tensor[])")
_library.define(
    "conv_stem_backward(Tensor grad, Tensor x, Tensor[] weights, Tensor statistics, Tensor[] kept,"
    " bool batch_statistics, bool want_x) -> Tensor[]"
)

CONVS, MIXES = 30, 4
TRAINED = CONVS + MIXES + 2 * CONVS  # of the flattened weights; running statistics follow
WEIGHTS = TRAINED + 2 * CONVS


def conv_bns(params: StemParams) -> list[ConvBN]:
    """The 30 ConvBN in the order of the kernels: levels from fine to coarse, smooth2, smooth1, head, skip."""
    layers: list[ConvBN] = []
    for level, down in ((params.enc1, None), (params.enc2, params.down1), (params.enc3, params.down2)):
        layers += [down] if down is not None else []
        for block in level:
            layers += [*block.branches, block.fuse]
    return [*layers, params.smooth2, params.smooth1, params.head, params.skip]


def flatten(params: StemParams) -> list[Tensor]:
    """Weights, then gammas, betas, running means and running variances, each of all layers."""
    layers = conv_bns(params)
    mixes = [params.lat2, params.lat1, params.red3to2, params.red2to1]
    norms = [getattr(layer, name) for name in ("gamma", "beta", "running_mean", "running_var") for layer in layers]
    return [*(layer.weight for layer in layers), *mixes, *norms]


@torch.library.register_fake("xmae_fast::conv_stem_eval")
def _(x, weights):
    return x.new_empty((x.shape[0], x.shape[2], weights[CONVS - 1].shape[0]))


def kept_shapes(L: int, channels: int, widths: tuple[int, int, int]) -> list[tuple[int, int]]:
    """Rows and channels of one sample's kept activations, in the order of the kernels."""
    c1, c2, c3 = widths
    L2 = (L + 1) // 2
    L3 = (L2 + 1) // 2
    units = [(L, c1)] * 4 + [(L2, c2)] * 5 + [(L3, c3)] * 5 + [(L2, c2), (L, c1), (L, channels)]
    return [*units, (L2, c2), (L, c1)]


@torch.library.register_fake("xmae_fast::conv_stem_train")
def _(x, weights, batch_statistics):
    B, _, L = x.shape
    S, c1 = weights[CONVS - 1].shape[0], weights[CONVS + 1].shape[0]
    c2, c3 = weights[CONVS + 2].shape[:2]
    kept = [x.new_empty((B, *shape)) for shape in kept_shapes(L, S, (c1, c2, c3))]
    channels = sum(weight.shape[0] for weight in weights[:CONVS])
    return x.new_empty((B, L, S)), x.new_empty((4, channels)), kept


@torch.library.register_fake("xmae_fast::conv_stem_backward")
def _(grad, x, weights, statistics, kept, batch_statistics, want_x):
    return [*(torch.empty_like(w, memory_format=torch.contiguous_format) for w in weights),
            x.new_empty((x.shape[0] if want_x else 0, 1, x.shape[2]))]  # fmt: skip


class StemFunction(torch.autograd.Function):
    """Features [B, L, S] and the statistics used [4, channels], with gradients of x and of all trained weights."""

    @staticmethod
    def forward(ctx, batch_statistics: bool, x: Tensor, *weights: Tensor) -> tuple[Tensor, Tensor]:
        features, statistics, kept = torch.ops.xmae_fast.conv_stem_train(x, weights, batch_statistics)
        ctx.batch_statistics = batch_statistics
        ctx.save_for_backward(x, *weights[:TRAINED], statistics, *kept)
        ctx.mark_non_differentiable(statistics)
        return features, statistics

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor, _statistics: Tensor | None) -> tuple[Tensor | None, ...]:
        x, *rest = ctx.saved_tensors
        weights, statistics, kept = rest[:TRAINED], rest[TRAINED], rest[TRAINED + 1 :]
        want_x = ctx.needs_input_grad[1]
        *gradients, x_gradient = torch.ops.xmae_fast.conv_stem_backward(
            grad, x, weights, statistics, kept, ctx.batch_statistics, want_x
        )
        return None, x_gradient if want_x else None, *gradients, *[None] * (2 * CONVS)


@torch.no_grad()
def update_running_statistics(params: Sequence[StemParams], statistics: Tensor) -> None:
    """Move the running statistics towards the batch's (mean and unbiased variance), as torch.nn.BatchNorm1d does.

    params: of stems of the same widths; statistics: [stems, 3 or more, channels], as `StemFunction` returns it.
    """
    layers = [layer for stem in params for layer in conv_bns(stem)]
    sizes = [len(layer.gamma) for layer in conv_bns(params[0])]
    running = [layer.running_mean for layer in layers] + [layer.running_var for layer in layers]
    batch = [part for row in (0, 2) for stem in statistics for part in stem[row].split(sizes)]
    torch._foreach_mul_(running, 1 - MOMENTUM)
    torch._foreach_add_(running, batch, alpha=MOMENTUM)
    torch._foreach_add_([layer.num_batches_tracked for layer in layers], 1)
