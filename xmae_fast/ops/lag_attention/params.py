"""Parameters of the attention sublayer. Letter: D width."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class AttentionParams(NamedTuple):
    """LayerNorms, and the packed projections of torch.nn.MultiheadAttention (query, key, value stacked in that order).

    For self-attention norm_kv_* are not looked at.
    """

    norm_q_weight: Tensor  # [D]
    norm_q_bias: Tensor  # [D]
    norm_kv_weight: Tensor  # [D]
    norm_kv_bias: Tensor  # [D]
    in_weight: Tensor  # [3 D, D]
    in_bias: Tensor  # [3 D]
    out_weight: Tensor  # [D, D]
    out_bias: Tensor  # [D]
