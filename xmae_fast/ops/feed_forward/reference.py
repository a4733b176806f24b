"""Feed-forward sublayer in plain PyTorch: the oracle of feed_forward."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from xmae_fast.ops.feed_forward.params import FeedForwardParams


def feed_forward(x: Tensor, params: FeedForwardParams, dropout_p: float) -> Tensor:
    """x + dropout(down(gelu(up(layer_norm(x))))), GELU exact: x [B, N, D] -> [B, N, D]."""
    h = F.layer_norm(x, x.shape[-1:], params.norm_weight, params.norm_bias)
    h = F.gelu(F.linear(h, params.up_weight, params.up_bias))
    h = F.linear(h, params.down_weight, params.down_bias)
    return x + F.dropout(h, dropout_p, training=dropout_p > 0)
