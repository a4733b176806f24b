"""torch.library schemas of lag_attention's kernels, their fakes, and autograd around them.

weights: the tensors of AttentionParams in order, without norm_kv_* for self-attention; seed: int64 [2], or None where
nothing is dropped. Positions are [B or 1, Nq] and [B or 1, Nk], and None exactly where bias_table is.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from xmae_fast.ops._checks import once_differentiable, wants_gradient
from xmae_fast.ops._dropout import bits, draw_seed
from xmae_fast.ops._triton import compute_dtype, define_triton
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


def out_dtype(x: Tensor, compute: torch.dtype) -> torch.dtype:
    """What plain PyTorch returns for a residual x and products in `compute`."""
    return torch.promote_types(x.dtype, compute)


def empty_kept(
    x: Tensor, key_value: Tensor | None, num_heads: int, seed: Tensor | None, compute: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """Room for what the Triton kernels keep for their backward.

    Returns:
        kept, in `compute`: qkv [B N, 3 D], or q [B Nq, D] and k | v [B Nk, 2 D]; context [B Nq, D].
        stats, float32: means and 1 / deviations of x's rows, then of key_value's; log-sum-exps [B, H, Nq].
        masks, uint8 [B H, Nq Nk to whole groups of 64]: 1 where a probability is kept; empty without dropout.
    """
    B, queries, D = x.shape
    keys = queries if key_value is None else key_value.shape[1]
    normed = queries if key_value is None else queries + keys
    drawn = 0 if seed is None else B * num_heads * ((queries * keys + 63) // 64 * 64)
    return (
        x.new_empty(2 * B * D * (queries + keys), dtype=compute),
        x.new_empty(B * (2 * normed + num_heads * queries), dtype=torch.float32),
        x.new_empty(drawn, dtype=torch.uint8),
    )


def empty_gradients(
    x: Tensor, key_value: Tensor | None, weights: list[Tensor], bias_table: Tensor | None, needs: int
) -> list[Tensor]:
    """Room for the gradients whose bit in `needs` is set, each in the dtype of its tensor; the others are empty."""
    tensors = enumerate((x, key_value, *weights, bias_table))
    return [x.new_empty(0) if t is None or not needs >> i & 1 else t.new_empty(t.shape) for i, t in tensors]


def _eval_triton(x, key_value, weights, num_heads, bias_table, query_pos, key_pos, seed, p, compute):
    return x.new_empty(x.shape, dtype=out_dtype(x, compute))


def _train_triton(x, key_value, weights, num_heads, bias_table, query_pos, key_pos, seed, p, compute):
    return x.new_empty(x.shape, dtype=out_dtype(x, compute)), *empty_kept(x, key_value, num_heads, seed, compute)


def _backward_triton(
    grad, x, key_value, weights, num_heads, bias_table, query_pos, key_pos, seed, p, compute, kept, stats, masks, needs
):
    return empty_gradients(x, key_value, weights, bias_table, needs)


class _Operators(NamedTuple):
    eval: torch._ops.OpOverload
    train: torch._ops.OpOverload
    backward: torch._ops.OpOverload


_TRITON_INPUTS = f"{_INPUTS}, ScalarType compute"
_OPERATORS = {
    "cpu": _Operators(
        torch.ops.xmae_fast.lag_attention_eval.default,
        torch.ops.xmae_fast.lag_attention_train.default,
        torch.ops.xmae_fast.lag_attention_backward.default,
    ),
    "triton": _Operators(
        define_triton("lag_attention", f"lag_attention_eval({_TRITON_INPUTS}) -> Tensor", _eval_triton),
        # as above, with what `empty_kept` says
        define_triton(
            "lag_attention",
            f"lag_attention_train({_TRITON_INPUTS}) -> (Tensor, Tensor, Tensor, Tensor)",
            _train_triton,
        ),
        define_triton(
            "lag_attention",
            f"lag_attention_backward(Tensor grad, {_TRITON_INPUTS}, Tensor kept, Tensor stats, Tensor masks, "
            "int needs) -> Tensor[]",
            _backward_triton,
        ),
    ),
}


class _LagAttention(torch.autograd.Function):
    """compute: (the dtype of products,), () for the C++ kernels, which have one."""

    @staticmethod
    def forward(
        ctx, x, key_value, bias_table, query_pos, key_pos, seed, p, num_heads, implementation, compute, *weights
    ):
        inputs = (x, key_value, list(weights), num_heads, bias_table, query_pos, key_pos, seed, p, *compute)
        out, *kept = _OPERATORS[implementation].train(*inputs)
        ctx.save_for_backward(x, key_value, bias_table, query_pos, key_pos, seed, *weights, *kept)
        ctx.p, ctx.num_heads, ctx.implementation, ctx.compute = p, num_heads, implementation, compute
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        x, key_value, table, query_pos, key_pos, seed, *saved = ctx.saved_tensors
        wanted = ctx.needs_input_grad
        needs = (*wanted[:2], *wanted[10:], wanted[2])
        weights, kept = saved[: len(wanted) - 10], saved[len(wanted) - 10 :]
        gradients = _OPERATORS[ctx.implementation].backward(
            grad, x, key_value, weights, ctx.num_heads, table, query_pos, key_pos, seed, ctx.p, *ctx.compute,
            *kept, bits(needs),
        )  # fmt: skip
        dx, dkey_value, *dweights, dtable = (g if need else None for g, need in zip(gradients, needs, strict=True))
        return dx, dkey_value, dtable, None, None, None, None, None, None, None, *dweights


def lag_attention(
    x: Tensor,
    key_value: Tensor | None,
    params: AttentionParams,
    num_heads: int,
    table: Tensor | None,
    query_pos: Tensor | None,
    key_pos: Tensor | None,
    p: float,
    implementation: str = "cpu",
) -> Tensor:
    """The kernels of "cpu" or "triton": x [B, Nq, D], key_value [B, Nk, D] or None -> [B, Nq, D]."""
    on_gpu = implementation == "triton"
    seed = draw_seed(p, x.device) if on_gpu else draw_seed(p)
    weights = kernel_weights(params, key_value is not None)
    compute = (compute_dtype(x),) if on_gpu else ()  # autocast is off in the backward
    if wants_gradient(x, key_value, table, *weights):
        return _LagAttention.apply(
            x, key_value, table, query_pos, key_pos, seed, p, num_heads, implementation, compute, *weights
        )
    return _OPERATORS[implementation].eval(
        x, key_value, weights, num_heads, table, query_pos, key_pos, seed, p, *compute
    )


def kernel_weights(params: AttentionParams, cross: bool) -> list[Tensor]:
    """The weights as the kernels take them. One norm given twice would be two inputs to autograd, and to torch.compile
    an error."""
    return [*params] if cross else [*params[:2], *params[4:]]
