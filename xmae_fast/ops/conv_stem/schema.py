"""torch.library schemas of the stem's kernels, their fakes, and the order in which they take the weights."""

from __future__ import annotations

import torch
from torch import Tensor

from xmae_fast.ops.conv_stem.params import ConvBN, StemParams

_library = torch.library.Library("xmae_fast", "FRAGMENT")
_library.define("conv_stem_eval(Tensor x, Tensor[] weights) -> Tensor")

BLOCKS = 2  # Inception blocks on a level that the kernels take


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
    return x.new_empty((x.shape[0], x.shape[2], weights[29].shape[0]))
