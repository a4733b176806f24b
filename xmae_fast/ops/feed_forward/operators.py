"""The operators of each implementation of feed_forward, and autograd over them."""

from __future__ import annotations

import torch
from torch import Tensor

from xmae_fast.ops._compiling import check_backward
from xmae_fast.ops._dropout import draw_seed
from xmae_fast.ops._gradients import asked_for, bits, once_differentiable, wants_gradient
from xmae_fast.ops._triton import compute_dtype
from xmae_fast.ops.feed_forward import schema
from xmae_fast.ops.feed_forward.params import FeedForwardParams
from xmae_fast.ops.feed_forward.triton import schema as triton_schema

OPERATORS = {"cpu": schema, "triton": triton_schema}
_WEIGHTS = len(FeedForwardParams._fields)


class _FeedForward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, impl: str, compute: torch.dtype, p: float, seed: Tensor | None, x: Tensor, *weights: Tensor):
        out, *kept = OPERATORS[impl].train(x, list(weights), seed, p, compute)
        needs = bits(ctx.needs_input_grad[4:])
        if impl == "triton":
            check_backward(
                (x, *weights, out, *kept), ("feed_forward", p, compute, needs),
                lambda: OPERATORS[impl].backward(out, x, list(weights), seed, p, compute, *kept, needs),
            )  # fmt: skip
        ctx.save_for_backward(seed, x, *weights, *kept)
        ctx.impl, ctx.compute, ctx.p = impl, compute, p
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        seed, x, *saved = ctx.saved_tensors
        weights, kept = saved[:_WEIGHTS], saved[_WEIGHTS:]
        wanted = ctx.needs_input_grad[4:]
        gradients = OPERATORS[ctx.impl].backward(grad, x, weights, seed, ctx.p, ctx.compute, *kept, bits(wanted))
        return None, None, None, None, *asked_for(gradients, wanted)


def feed_forward(x: Tensor, params: FeedForwardParams, p: float, impl: str) -> Tensor:
    """`reference.feed_forward` by the kernels of `impl`: x [B, N, D] -> [B, N, D]."""
    inference = not wants_gradient(x, *params)
    seed, compute = draw_seed(p, x.device), compute_dtype(x, impl, inference=inference, trains_in_bfloat16=True)
    if not inference:
        return _FeedForward.apply(impl, compute, p, seed, x, *params)
    return OPERATORS[impl].evaluate(x, list(params), seed, p, compute)
