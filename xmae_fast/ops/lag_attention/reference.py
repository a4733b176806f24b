"""Attention sublayer with a lag bias in plain PyTorch: the oracle of lag_attention."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from xmae_fast.ops.lag_attention.params import AttentionParams
from xmae_fast.ops.lag_attention.tables import gather_bias


def project(
    x: Tensor, key_value: Tensor | None, params: AttentionParams, num_heads: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Normalised and projected: x [B, Nq, D], key_value [B, Nk, D] or None (self) -> q, k, v [B, H, N, D / H]."""
    D = x.shape[-1]
    normed = F.layer_norm(x, (D,), params.norm_q_weight, params.norm_q_bias)
    if key_value is None:
        parts = F.linear(normed, params.in_weight, params.in_bias).chunk(3, dim=-1)
    else:
        normed_kv = F.layer_norm(key_value, (D,), params.norm_kv_weight, params.norm_kv_bias)
        q = F.linear(normed, params.in_weight[:D], params.in_bias[:D])
        parts = (q, *F.linear(normed_kv, params.in_weight[D:], params.in_bias[D:]).chunk(2, dim=-1))
    q, k, v = (part.unflatten(-1, (num_heads, -1)).transpose(1, 2) for part in parts)
    return q, k, v


def probabilities(q: Tensor, k: Tensor, bias: Tensor | None) -> Tensor:
    """softmax(q k^T / sqrt(D / H) + bias) over admissible keys (bias > -inf); zeros where a row has none.

    q [B, H, Nq, d], k [B, H, Nk, d], bias [B or 1, H, Nq, Nk] or None -> [B, H, Nq, Nk].
    """
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
    if bias is None:
        return scores.softmax(-1)
    has_key = (bias > -torch.inf).any(-1, keepdim=True)
    return (scores + bias).masked_fill(~has_key, 0).softmax(-1) * has_key


def attention_weights(
    x: Tensor,
    key_value: Tensor | None,
    params: AttentionParams,
    num_heads: int,
    table: Tensor | None,
    query_pos: Tensor | None,
    key_pos: Tensor | None,
) -> Tensor:
    """The attention probabilities of the sublayer, [B, H, Nq, Nk]."""
    q, k, _ = project(x, key_value, params, num_heads)
    return probabilities(q, k, _bias(table, query_pos, key_pos))


def lag_attention(
    x: Tensor,
    key_value: Tensor | None,
    params: AttentionParams,
    num_heads: int,
    table: Tensor | None,
    query_pos: Tensor | None,
    key_pos: Tensor | None,
    dropout_p: float,
) -> Tensor:
    """x + out_proj(dropout(probabilities) v): x [B, Nq, D], key_value [B, Nk, D] or None -> [B, Nq, D]."""
    q, k, v = project(x, key_value, params, num_heads)
    weights = probabilities(q, k, _bias(table, query_pos, key_pos))
    context = F.dropout(weights, dropout_p, training=dropout_p > 0) @ v
    return x + F.linear(context.transpose(1, 2).flatten(2), params.out_weight, params.out_bias)


def _bias(table: Tensor | None, query_pos: Tensor | None, key_pos: Tensor | None) -> Tensor | None:
    """The bias by lag, [B or 1, H, Nq, Nk]; None without a table, where no positions are needed."""
    if table is None:
        return None
    assert query_pos is not None
    assert key_pos is not None
    return gather_bias(table, query_pos, key_pos)
