"""The operators of each implementation of patch_embed, and autograd over them."""

from __future__ import annotations

import torch
from torch import Tensor

from xmae_fast.ops._compiling import check_backward
from xmae_fast.ops._gradients import asked_for, bits, once_differentiable, wants_gradient
from xmae_fast.ops._triton import compute_dtype
from xmae_fast.ops.patch_embed import schema
from xmae_fast.ops.patch_embed.triton import schema as triton_schema

OPERATORS = {"cpu": schema, "triton": triton_schema}


class _PatchEmbed(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx, impl: str, compute: torch.dtype, features: Tensor, weight: Tensor, bias: Tensor, pos: Tensor
    ) -> Tensor:
        rows = features.transpose(1, 2).contiguous()
        out, *kept = OPERATORS[impl].train(rows, weight, bias, pos, compute)
        needs = bits(ctx.needs_input_grad[2:])
        if impl == "triton":
            check_backward(
                (rows, weight, bias, pos, out, *kept), ("patch_embed", compute, needs),
                lambda: OPERATORS[impl].backward(out, rows, weight, bias, pos, compute, *kept, needs),
            )  # fmt: skip
        ctx.save_for_backward(rows, weight, bias, pos, *kept)
        ctx.impl, ctx.compute = impl, compute
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        rows, weight, bias, pos, *kept = ctx.saved_tensors
        wanted = ctx.needs_input_grad[2:]
        gradients = OPERATORS[ctx.impl].backward(grad, rows, weight, bias, pos, ctx.compute, *kept, bits(wanted))
        d_rows, *others = asked_for(gradients, wanted)
        return None, None, None if d_rows is None else d_rows.transpose(1, 2), *others


def patch_embed(features: Tensor, weight: Tensor, bias: Tensor, pos: Tensor, impl: str) -> Tensor:
    """`reference.patch_embed` by the kernels of `impl`: features [B, S, N * P] -> [B, N, D]."""
    inference = not wants_gradient(features, weight, bias, pos)
    compute = compute_dtype(features, impl, inference=inference, trains_in_bfloat16=True)
    if impl == "cpu" and compute == torch.float32:
        features = features.float()  # a stem without gradients may have returned bfloat16 under autocast
    if not inference:
        return _PatchEmbed.apply(impl, compute, features, weight, bias, pos)
    return OPERATORS[impl].evaluate(features.transpose(1, 2), weight, bias, pos, compute)
