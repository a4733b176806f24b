"""torch.library schemas of lag_attention's kernels, their fakes, and autograd around them.

weights: the tensors of AttentionParams in order, without norm_kv_* for self-attention; seed: int64 [2], or None where
nothing is dropped. Positions are [B or 1, Nq] and [B or 1, Nk], and None exactly where bias_table is.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from xmae_fast.ops._checks import wants_gradient
from xmae_fast.ops._dropout import bits, draw_seed
from xmae_fast.ops.lag_attention.params import AttentionParams

_INPUTS = (
    "Tensor x, Tensor? key_value, Tensor[] weights, int num_heads, Tensor? bias_table, Tensor? query_pos, "
    "Tensor? key_pos, Tensor? seed, float p"
)
_library = torch.library.Library("xmae_fast", "FRAGMENT")
_library.define(f"lag_attention_eval({_INPUTS}) -> Tensor")
# out, and for the backward: kept (q [B Nq, D], k | v [B Nk, 2 D], context [B Nq, D]), statistics of the LayerNorms
_library.define(f"lag_attention_train({_INPUTS}) -> (Tensor, Tensor, Tensor)")
# gradients of x, key_value, the weights and bias_table, empty where the bit in `needs` is not set or there is none
_library.define(
    f"lag_attention_backward(Tensor grad, {_INPUTS}, Tensor kept, Tensor stats, int needs) -> Tensor[]"
)


@torch.library.register_fake("xmae_fast::lag_attention_eval")
def _(x, key_value, weights, num_heads, bias_table, query_pos, key_pos, seed, p):
    return x.new_empty(x.shape)


@torch.library.register_fake("xmae_fast::lag_attention_train")
def _(x, key_value, weights, num_heads, bias_table, query_pos, key_pos, seed, p):
    B, queries, D = x.shape
    keys = queries if key_value is None else key_value.shape[1]
    normed = queries if key_value is None else queries + keys
    return x.new_empty(x.shape), x.new_empty(2 * B * D * (queries + keys)), x.new_empty(2 * B * normed)


@torch.library.register_fake("xmae_fast::lag_attention_backward")
def _(grad, x, key_value, weights, num_heads, bias_table, query_pos, key_pos, seed, p, kept, stats, needs):
    tensors = enumerate((x, key_value, *weights, bias_table))
    return [x.new_empty(0 if t is None or not needs >> i & 1 else t.shape) for i, t in tensors]


_eval = torch.ops.xmae_fast.lag_attention_eval.default
_train = torch.ops.xmae_fast.lag_attention_train.default
_backward = torch.ops.xmae_fast.lag_attention_backward.default


class _LagAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, key_value, bias_table, query_pos, key_pos, seed, p, num_heads, *weights):
        out, kept, stats = _train(x, key_value, list(weights), num_heads, bias_table, query_pos, key_pos, seed, p)
        ctx.save_for_backward(x, key_value, bias_table, query_pos, key_pos, seed, kept, stats, *weights)
        ctx.p, ctx.num_heads = p, num_heads
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        x, key_value, table, query_pos, key_pos, seed, kept, stats, *weights = ctx.saved_tensors
        wanted = ctx.needs_input_grad
        needs = (*wanted[:2], *wanted[8:], wanted[2])
        gradients = _backward(
            grad, x, key_value, weights, ctx.num_heads, table, query_pos, key_pos, seed, ctx.p,
            kept, stats, bits(needs),
        )  # fmt: skip
        dx, dkey_value, *dweights, dtable = (g if need else None for g, need in zip(gradients, needs, strict=True))
        return dx, dkey_value, dtable, None, None, None, None, None, *dweights


def lag_attention(
    x: Tensor,
    key_value: Tensor | None,
    params: AttentionParams,
    num_heads: int,
    table: Tensor | None,
    query_pos: Tensor | None,
    key_pos: Tensor | None,
    p: float,
) -> Tensor:
    """The C++ kernels: x [B, Nq, D], key_value [B, Nk, D] or None -> [B, Nq, D]."""
    seed, weights = draw_seed(p), kernel_weights(params, key_value is not None)
    if wants_gradient(x, key_value, table, *weights):
        return _LagAttention.apply(x, key_value, table, query_pos, key_pos, seed, p, num_heads, *weights)
    return _eval(x, key_value, weights, num_heads, table, query_pos, key_pos, seed, p)


def kernel_weights(params: AttentionParams, cross: bool) -> list[Tensor]:
    """The weights as the kernels take them. One norm given twice would be two inputs to autograd, and to torch.compile
    an error."""
    return [*params] if cross else [*params[:2], *params[4:]]
