"""lag_attention: LayerNorm, multi-head attention with an optional bias by lag, projection, residual.

README.md in this folder defines the lag, draws the table and derives the backward.
"""

from __future__ import annotations

import torch
from torch import Tensor

from xmae_fast import backend
from xmae_fast.ops._checks import check_like, check_probability, dims, kernel_dtype
from xmae_fast.ops._gradients import wants_gradient
from xmae_fast.ops.lag_attention import operators, reference
from xmae_fast.ops.lag_attention.params import AttentionParams
from xmae_fast.ops.lag_attention.tables import gaussian_table, lag_seconds, window_table

__all__ = ["AttentionParams", "attention_weights", "gaussian_table", "lag_attention", "lag_seconds", "window_table"]


def _triton_limit(D: int, num_heads: int) -> str:
    if D > 1024 or D // num_heads > 256:
        return f"its kernels serve D <= 1024 and D / num_heads <= 256, got D = {D} and {num_heads} heads"
    return ""


_OPERATORS = ("lag_attention_eval", "lag_attention_train", "lag_attention_backward")
backend.declare("lag_attention")
_IN_BFLOAT16 = ("lag_attention_train_bf16", "lag_attention_backward_bf16")
backend.register("lag_attention", "cpu", _OPERATORS, bfloat16="lag_attention_eval_bf16", bfloat16_training=_IN_BFLOAT16)
backend.register("lag_attention", "triton", tuple(f"{name}_triton" for name in _OPERATORS), limit=_triton_limit)


def lag_attention(
    x: Tensor,
    key_value: Tensor | None,
    params: AttentionParams,
    *,
    num_heads: int,
    bias_table: Tensor | None = None,
    query_pos: Tensor | None = None,
    key_pos: Tensor | None = None,
    dropout_p: float = 0.0,
    impl: str = "auto",
) -> Tensor:
    """The attention sublayer of a pre-norm block, self (key_value None) or cross.

    score[b, h, i, j] = q_i . k_j / sqrt(D / H) + bias_table[h, key_pos[b, j] - query_pos[b, i] + N - 1]

    Args:
        x: [B, Nq, D], the queries and the residual.
        key_value: [B, Nk, D], or None for self-attention.
        params: the weights; for self-attention norm_kv_* may be None.
        num_heads: H, a divisor of D.
        bias_table: [H, 2N - 1] or None for plain attention. -inf makes a lag inadmissible; a query without any
            admissible key gets zeros from attention (so x + out_bias).
        query_pos: [Nq] or [B, Nq] int64, patch index of each query in 0..N-1; default 0..Nq-1.
        key_pos: [Nk] or [B, Nk] int64, patch index of each key in 0..N-1; default 0..Nk-1.
        dropout_p: probability that an attention probability is dropped, in [0, 1); 0 in evaluation.
        impl: which implementation runs, see `xmae_fast.backend`.

    Returns:
        [B, Nq, D] = x + out_proj(attention(LayerNorm(x), LayerNorm(key_value))).

    Raises:
        ValueError: shapes or num_heads do not fit, or positions or dropout_p are out of their range.
        TypeError: dtype or device differ from the weights'.
        BackendError: `impl` cannot serve this call.
    """
    query_pos, key_pos = _check(x, key_value, params, num_heads, bias_table, query_pos, key_pos)
    check_probability("dropout_p", dropout_p)
    inference = not wants_gradient(x, key_value, bias_table, *params)
    call = x.shape[-1], num_heads
    chosen = backend.resolve(
        "lag_attention", impl, x.device, kernel_dtype(x, params.in_weight), call, inference=inference
    )
    if chosen != "reference":
        try:
            return operators.lag_attention(
                x, key_value, params, num_heads, bias_table, query_pos, key_pos, float(dropout_p), chosen
            )
        except backend.KernelFailure as failure:
            backend.do_without("lag_attention", chosen, impl, failure)
    return reference.lag_attention(x, key_value, params, num_heads, bias_table, query_pos, key_pos, dropout_p)


def attention_weights(
    x: Tensor,
    key_value: Tensor | None,
    params: AttentionParams,
    *,
    num_heads: int,
    bias_table: Tensor | None = None,
    query_pos: Tensor | None = None,
    key_pos: Tensor | None = None,
) -> Tensor:
    """The attention probabilities of `lag_attention`, to look at them.

    Args:
        x, key_value, params, num_heads, bias_table, query_pos, key_pos: as in `lag_attention`.

    Returns:
        [B, H, Nq, Nk], by plain PyTorch and without dropout.

    Raises:
        ValueError, TypeError: as in `lag_attention`.
    """
    query_pos, key_pos = _check(x, key_value, params, num_heads, bias_table, query_pos, key_pos)
    return reference.attention_weights(x, key_value, params, num_heads, bias_table, query_pos, key_pos)


def _check(
    x: Tensor,
    key_value: Tensor | None,
    params: AttentionParams,
    num_heads: int,
    bias_table: Tensor | None,
    query_pos: Tensor | None,
    key_pos: Tensor | None,
) -> tuple[Tensor | None, Tensor | None]:
    B, queries, D = dims("x", x, "B Nq D")
    keys = queries if key_value is None else dims("key_value", key_value, "B Nk D", B=B, D=D)[1]
    dims("in_weight", params.in_weight, "3D D", **{"3D": 3 * D, "D": D})
    check_like("x", x, "in_weight", params.in_weight)
    if key_value is not None:
        check_like("key_value", key_value, "x", x)
    if num_heads < 1 or D % num_heads:
        raise ValueError(f"num_heads: expected a divisor of D = {D}, got {num_heads}")
    if bias_table is None:
        return None, None
    _, columns = dims("bias_table", bias_table, "H 2N-1", H=num_heads)
    N = (columns + 1) // 2
    if columns % 2 == 0:
        raise ValueError(f"bias_table: expected an odd number of columns 2N - 1, got {columns}")
    return (
        _positions("query_pos", query_pos, B, queries, N, x.device),
        _positions("key_pos", key_pos, B, keys, N, x.device),
    )


def _positions(name: str, pos: Tensor | None, B: int, count: int, N: int, device: torch.device) -> Tensor:
    """Positions as [B, count] or [1, count]; values are checked for eager CPU tensors only, as by `validate_ids`."""
    if pos is None:
        if count > N:
            raise ValueError(f"{name}: needed, because there are {count} tokens and bias_table is made for N = {N}")
        return torch.arange(count, device=device)[None]
    pos = pos[None] if pos.dim() == 1 else pos
    if pos.shape not in ((1, count), (B, count)):
        raise ValueError(f"{name}: expected shape [{count}] or [{B}, {count}], got {list(pos.shape)}")
    if pos.dtype != torch.int64 or pos.device != device:
        raise TypeError(f"{name}: expected int64 on {device}, got {pos.dtype} on {pos.device}")
    if pos.numel() and backend.may_read_values(device):
        low, high = (int(bound) for bound in pos.aminmax())
        if low < 0 or high >= N:
            raise ValueError(f"{name}: expected patch indices in 0..{N - 1}, got {low if low < 0 else high}")
    return pos
