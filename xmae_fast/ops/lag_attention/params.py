"""The parameters of the attention sublayer, and the order in which its kernels take them. Letter: D width."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor


class AttentionParams(NamedTuple):
    """LayerNorms, and the packed projections of torch.nn.MultiheadAttention (query, key, value stacked in that order).

    Self-attention has one LayerNorm, norm_q_*: norm_kv_* are None there, and are not looked at if they are not.
    """

    norm_q_weight: Tensor  # [D]
    norm_q_bias: Tensor  # [D]
    norm_kv_weight: Tensor | None  # [D]
    norm_kv_bias: Tensor | None  # [D]
    in_weight: Tensor  # [3 D, D]
    in_bias: Tensor  # [3 D]
    out_weight: Tensor  # [D, D]
    out_bias: Tensor  # [D]


def kernel_weights(params: AttentionParams, cross: bool) -> list[Tensor]:
    """The weights as the kernels take them: in the order of AttentionParams, for self-attention without norm_kv_*.

    One norm passed twice would be two inputs to autograd, and to torch.compile an error.
    """
    weights: Any = params if cross else (*params[:2], *params[4:])  # none of them is None
    return [*weights]
