"""Patch embedding in plain PyTorch: the oracle of patch_embed."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def patch_embed(features: Tensor, weight: Tensor, bias: Tensor, pos: Tensor) -> Tensor:
    """features [B, S, N * P], weight [D, S, P], bias [D], pos [1, N, D] -> [B, N, D]."""
    return F.conv1d(features, weight, bias, stride=weight.shape[-1]).transpose(1, 2) + pos
