"""The stem's parameters as plain tuples of tensors, and the order in which its kernels take them."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class ConvBN(NamedTuple):
    """A convolution without bias and the BatchNorm after it. c_out = len(gamma)."""

    weight: Tensor  # [c_out, c_in, k]
    gamma: Tensor  # [c_out]
    beta: Tensor  # [c_out]
    running_mean: Tensor  # [c_out], updated in place in training
    running_var: Tensor  # [c_out], updated in place in training
    num_batches_tracked: Tensor  # [], updated in place in training


class Inception(NamedTuple):
    """Three parallel branches (kernels 3, 5, 7), concatenated in that order, and a 1x1 convolution that fuses them."""

    branches: tuple[ConvBN, ConvBN, ConvBN]
    fuse: ConvBN


class StemParams(NamedTuple):
    """All of the stem: widths c1, c2, c3 on three levels (L, L/2, L/4), S channels out."""

    enc1: tuple[Inception, ...]  # 1 -> c1 -> c1
    down1: ConvBN  # c1 -> c2, stride 2
    enc2: tuple[Inception, ...]
    down2: ConvBN  # c2 -> c3, stride 2
    enc3: tuple[Inception, ...]
    lat2: Tensor  # [c2, c2, 1]
    lat1: Tensor  # [c1, c1, 1]
    red3to2: Tensor  # [c2, c3, 1]
    red2to1: Tensor  # [c1, c2, 1]
    smooth2: ConvBN
    smooth1: ConvBN
    head: ConvBN  # c1 -> S
    skip: ConvBN  # 1 -> S, k = 1, no activation


CONVS, MIXES = 30, 4
TRAINED = CONVS + MIXES + 2 * CONVS  # so many of the flattened weights are trained; running statistics follow them
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
    """Convolution weights, then gammas, betas, running means and running variances, each of all layers."""
    layers = conv_bns(params)
    mixes = [params.lat2, params.lat1, params.red3to2, params.red2to1]
    norms = [getattr(layer, name) for name in ("gamma", "beta", "running_mean", "running_var") for layer in layers]
    return [*(layer.weight for layer in layers), *mixes, *norms]
