"""The operators of each implementation of token_gather, and autograd over them."""

from __future__ import annotations

import torch
from torch import Tensor

from xmae_fast.ops._compiling import check_backward
from xmae_fast.ops._gradients import once_differentiable, wants_gradient
from xmae_fast.ops.token_gather import schema
from xmae_fast.ops.token_gather.triton import schema as triton_schema

OPERATORS = {"cpu": schema, "triton": triton_schema}


class _GatherPatches(torch.autograd.Function):
    @staticmethod
    def forward(ctx, signal: Tensor, ids_keep: Tensor, patch_len: int, impl: str) -> Tensor:
        ctx.save_for_backward(ids_keep)
        N = signal.shape[2] // patch_len
        ctx.N, ctx.patch_len, ctx.impl = N, patch_len, impl
        out = OPERATORS[impl].gather_patches(signal, ids_keep, patch_len)
        if impl == "triton":
            check_backward(
                (out, ids_keep), ("gather_patches", N, patch_len),
                lambda: OPERATORS[impl].gather_patches_backward(out, ids_keep, N, patch_len),
            )  # fmt: skip
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        (ids_keep,) = ctx.saved_tensors
        return OPERATORS[ctx.impl].gather_patches_backward(grad, ids_keep, ctx.N, ctx.patch_len), None, None, None


class _AssembleQueries(torch.autograd.Function):
    @staticmethod
    def forward(ctx, tokens: Tensor, ids_keep: Tensor, pos: Tensor, mask_loc: Tensor, impl: str) -> Tensor:
        ctx.save_for_backward(ids_keep)
        ctx.impl = impl
        out = OPERATORS[impl].assemble_queries(tokens, ids_keep, pos, mask_loc)
        of_learned = ctx.needs_input_grad[2] or ctx.needs_input_grad[3]
        if impl == "triton":
            check_backward(
                (out, ids_keep), ("assemble_queries", of_learned),
                lambda: OPERATORS[impl].assemble_queries_backward(out, ids_keep, of_learned),
            )  # fmt: skip
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        (ids_keep,) = ctx.saved_tensors
        want_tokens, _, want_pos, want_mask_loc = ctx.needs_input_grad[:4]
        d_tokens, d_pos, d_mask_loc = OPERATORS[ctx.impl].assemble_queries_backward(
            grad, ids_keep, want_pos or want_mask_loc
        )
        return (
            d_tokens if want_tokens else None,
            None,
            d_pos if want_pos else None,
            d_mask_loc if want_mask_loc else None,
            None,
        )


class _RestoreTokens(torch.autograd.Function):
    @staticmethod
    def forward(ctx, tokens: Tensor, ids_restore: Tensor, mask_token: Tensor, pos: Tensor, impl: str) -> Tensor:
        ctx.save_for_backward(ids_restore)
        kept = tokens.shape[1]
        ctx.kept, ctx.impl = kept, impl
        out = OPERATORS[impl].restore_tokens(tokens, ids_restore, mask_token, pos)
        of_learned = ctx.needs_input_grad[2] or ctx.needs_input_grad[3]
        if impl == "triton":
            check_backward(
                (out, ids_restore), ("restore_tokens", kept, of_learned),
                lambda: OPERATORS[impl].restore_tokens_backward(out, ids_restore, kept, of_learned),
            )  # fmt: skip
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        (ids_restore,) = ctx.saved_tensors
        want_tokens, _, want_mask_token, want_pos = ctx.needs_input_grad[:4]
        d_tokens, d_mask_token, d_pos = OPERATORS[ctx.impl].restore_tokens_backward(
            grad, ids_restore, ctx.kept, want_mask_token or want_pos
        )
        return (
            d_tokens if want_tokens else None,
            None,
            d_mask_token if want_mask_token else None,
            d_pos if want_pos else None,
            None,
        )


def gather_patches(signal: Tensor, ids_keep: Tensor, patch_len: int, impl: str) -> Tensor:
    """`reference.gather_patches` by the kernels of `impl`."""
    if wants_gradient(signal):
        return _GatherPatches.apply(signal, ids_keep, patch_len, impl)
    return OPERATORS[impl].gather_patches(signal, ids_keep, patch_len)


def assemble_queries(tokens: Tensor, ids_keep: Tensor, pos: Tensor, mask_loc: Tensor, impl: str) -> Tensor:
    """`reference.assemble_queries` by the kernels of `impl`."""
    if wants_gradient(tokens, pos, mask_loc):
        return _AssembleQueries.apply(tokens, ids_keep, pos, mask_loc, impl)
    return OPERATORS[impl].assemble_queries(tokens, ids_keep, pos, mask_loc)


def restore_tokens(tokens: Tensor, ids_restore: Tensor, mask_token: Tensor, pos: Tensor, impl: str) -> Tensor:
    """`reference.restore_tokens` by the kernels of `impl`."""
    if wants_gradient(tokens, mask_token, pos):
        return _RestoreTokens.apply(tokens, ids_restore, mask_token, pos, impl)
    return OPERATORS[impl].restore_tokens(tokens, ids_restore, mask_token, pos)


def masked_samples(ids_restore: Tensor, kept: int, patch_len: int, dtype: torch.dtype, impl: str) -> Tensor:
    """`reference.masked_samples` by the kernels of `impl`."""
    return OPERATORS[impl].masked_samples(ids_restore, kept, patch_len, dtype)
