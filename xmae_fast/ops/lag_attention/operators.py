"""The operators of each implementation of lag_attention, and autograd over them."""

from __future__ import annotations

import torch
from torch import Tensor

from xmae_fast.ops._compiling import check_backward
from xmae_fast.ops._dropout import draw_seed
from xmae_fast.ops._gradients import asked_for, bits, once_differentiable, wants_gradient
from xmae_fast.ops._triton import compute_dtype
from xmae_fast.ops.lag_attention import schema
from xmae_fast.ops.lag_attention.params import AttentionParams, kernel_weights
from xmae_fast.ops.lag_attention.schema import Inputs
from xmae_fast.ops.lag_attention.triton import schema as triton_schema

OPERATORS = {"cpu": schema, "triton": triton_schema}


class _LagAttention(torch.autograd.Function):
    """The arguments are those of `schema.Inputs`, with the tensors that may have gradients last."""

    @staticmethod
    def forward(
        ctx, impl: str, compute: torch.dtype, num_heads: int, p: float, seed: Tensor | None, query_pos: Tensor | None,
        key_pos: Tensor | None, x: Tensor, key_value: Tensor | None, bias_table: Tensor | None, *weights: Tensor,
    ) -> Tensor:  # fmt: skip
        inputs = Inputs(x, key_value, list(weights), num_heads, bias_table, query_pos, key_pos, seed, p)
        out, *kept = OPERATORS[impl].train(inputs, compute)
        of_x, of_key_value, of_table, *of_weights = ctx.needs_input_grad[7:]
        needs = bits((of_x, of_key_value, *of_weights, of_table))
        if impl == "triton":
            check_backward(
                (x, key_value, bias_table, query_pos, key_pos, *weights, out, *kept),
                ("lag_attention", num_heads, p, compute, needs),
                lambda: OPERATORS[impl].backward(out, inputs, compute, *kept, needs),
            )  # fmt: skip
        ctx.save_for_backward(seed, query_pos, key_pos, x, key_value, bias_table, *weights, *kept)
        ctx.impl, ctx.compute, ctx.num_heads, ctx.p = impl, compute, num_heads, p
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        seed, query_pos, key_pos, x, key_value, bias_table, *saved = ctx.saved_tensors
        of_x, of_key_value, of_table, *of_weights = ctx.needs_input_grad[7:]
        weights, kept = saved[: len(of_weights)], saved[len(of_weights) :]
        inputs = Inputs(x, key_value, weights, ctx.num_heads, bias_table, query_pos, key_pos, seed, ctx.p)
        wanted = (of_x, of_key_value, *of_weights, of_table)
        gradients = OPERATORS[ctx.impl].backward(grad, inputs, ctx.compute, *kept, bits(wanted))
        dx, dkey_value, *dweights, dtable = asked_for(gradients, wanted)
        return *(None,) * 7, dx, dkey_value, dtable, *dweights


def lag_attention(
    x: Tensor,
    key_value: Tensor | None,
    params: AttentionParams,
    num_heads: int,
    table: Tensor | None,
    query_pos: Tensor | None,
    key_pos: Tensor | None,
    p: float,
    impl: str,
) -> Tensor:
    """`reference.lag_attention` by the kernels of `impl`: x [B, Nq, D], key_value [B, Nk, D] or None -> [B, Nq, D]."""
    weights = kernel_weights(params, key_value is not None)
    inference = not wants_gradient(x, key_value, table, *weights)
    # now: in the backward autocast is off
    seed, compute = draw_seed(p, x.device), compute_dtype(x, impl, inference=inference, trains_in_bfloat16=True)
    if impl == "cpu" and table is not None:
        table = table.to(x.dtype)  # the C++ kernels take it in the dtype of x
    if not inference:
        return _LagAttention.apply(impl, compute, num_heads, p, seed, query_pos, key_pos, x, key_value, table, *weights)
    inputs = Inputs(x, key_value, weights, num_heads, table, query_pos, key_pos, seed, p)
    return OPERATORS[impl].evaluate(inputs, compute)
