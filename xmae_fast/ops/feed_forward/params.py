"""Parameters of the feed-forward sublayer. Letters: D width, F hidden width."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class FeedForwardParams(NamedTuple):
    norm_weight: Tensor  # [D]
    norm_bias: Tensor  # [D]
    up_weight: Tensor  # [F, D]
    up_bias: Tensor  # [F]
    down_weight: Tensor  # [D, F]
    down_bias: Tensor  # [D]
