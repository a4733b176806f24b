"""The convolutional stem in plain PyTorch: the oracle of conv_stem."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from xmae_fast.ops.conv_stem.params import ConvBN, Inception, StemParams

EPS = 1e-5
MOMENTUM = 0.1


def conv_bn(x: Tensor, layer: ConvBN, training: bool, stride: int = 1) -> Tensor:
    """Convolution with padding k // 2, then BatchNorm: x [B, c_in, L] -> [B, c_out, ceil(L / stride)]."""
    if training:
        layer.num_batches_tracked.add_(1)
    x = F.conv1d(x, layer.weight, stride=stride, padding=layer.weight.shape[-1] // 2)
    return F.batch_norm(
        x, layer.running_mean, layer.running_var, layer.gamma, layer.beta, training, momentum=MOMENTUM, eps=EPS
    )


def conv_bn_silu(x: Tensor, layer: ConvBN, training: bool, stride: int = 1) -> Tensor:
    return F.silu(conv_bn(x, layer, training, stride), inplace=not training)  # in training autograd would copy


def inception(x: Tensor, block: Inception, training: bool) -> Tensor:
    branches = torch.cat([conv_bn_silu(x, branch, training) for branch in block.branches], dim=1)
    return conv_bn_silu(branches, block.fuse, training)


def merge_levels(fine: Tensor, lateral: Tensor, coarse: Tensor, reduce: Tensor) -> Tensor:
    """1x1 convolution of the fine level + linearly interpolated 1x1 convolution of the coarse level.

    fine [B, c, L], coarse [B, c', L'] -> [B, c, L].
    """
    up = F.interpolate(F.conv1d(coarse, reduce), size=fine.shape[-1], mode="linear", align_corners=False)
    return F.conv1d(fine, lateral) + up


def conv_stem(x: Tensor, params: StemParams, training: bool) -> Tensor:
    """x [B, 1, L] -> [B, S, L]; a small U-net over three levels plus a linear skip from the input."""
    e1 = x
    for block in params.enc1:
        e1 = inception(e1, block, training)
    e2 = conv_bn_silu(e1, params.down1, training, stride=2)
    for block in params.enc2:
        e2 = inception(e2, block, training)
    e3 = conv_bn_silu(e2, params.down2, training, stride=2)
    for block in params.enc3:
        e3 = inception(e3, block, training)
    t2 = conv_bn_silu(merge_levels(e2, params.lat2, e3, params.red3to2), params.smooth2, training)
    t1 = conv_bn_silu(merge_levels(e1, params.lat1, t2, params.red2to1), params.smooth1, training)
    return conv_bn_silu(t1, params.head, training) + conv_bn(x, params.skip, training)
