"""torch.library schemas of token_gather's kernels, their fakes, and the autograd functions around them."""

from __future__ import annotations

import torch
from torch import Tensor

from xmae_fast.ops._checks import wants_gradient

_library = torch.library.Library("xmae_fast", "FRAGMENT")
_library.define("gather_patches(Tensor signal, Tensor ids_keep, SymInt patch_len) -> Tensor")
_library.define("gather_patches_backward(Tensor grad, Tensor ids_keep, SymInt N, SymInt patch_len) -> Tensor")
_library.define("assemble_queries(Tensor tokens, Tensor ids_keep, Tensor pos, Tensor mask_loc) -> Tensor")
_library.define("assemble_queries_backward(Tensor grad, Tensor ids_keep, bool want_sums) -> (Tensor, Tensor, Tensor)")
_library.define("restore_tokens(Tensor tokens, Tensor ids_restore, Tensor mask_token, Tensor pos) -> Tensor")
_library.define(
    "restore_tokens_backward(Tensor grad, Tensor ids_restore, SymInt kept, bool want_sums) -> (Tensor, Tensor, Tensor)"
)
_library.define("masked_samples(Tensor ids_restore, SymInt kept, SymInt patch_len) -> Tensor")


@torch.library.register_fake("xmae_fast::gather_patches")
def _(signal, ids_keep, patch_len):
    return signal.new_empty((signal.shape[0], 1, ids_keep.shape[1] * patch_len))


@torch.library.register_fake("xmae_fast::gather_patches_backward")
def _(grad, ids_keep, N, patch_len):
    return grad.new_empty((grad.shape[0], 1, N * patch_len))


@torch.library.register_fake("xmae_fast::assemble_queries")
def _(tokens, ids_keep, pos, mask_loc):
    return tokens.new_empty((tokens.shape[0], *mask_loc.shape))


@torch.library.register_fake("xmae_fast::assemble_queries_backward")
def _(grad, ids_keep, want_sums):
    B, N, D = grad.shape
    sums = ((1, N, D), (N, D)) if want_sums else ((0,), (0,))
    return grad.new_empty((B, ids_keep.shape[1], D)), grad.new_empty(sums[0]), grad.new_empty(sums[1])


@torch.library.register_fake("xmae_fast::restore_tokens")
def _(tokens, ids_restore, mask_token, pos):
    return tokens.new_empty((*ids_restore.shape, tokens.shape[2]))


@torch.library.register_fake("xmae_fast::restore_tokens_backward")
def _(grad, ids_restore, kept, want_sums):
    B, N, D = grad.shape
    sums = ((1, 1, D), (1, N, D)) if want_sums else ((0,), (0,))
    return grad.new_empty((B, kept, D)), grad.new_empty(sums[0]), grad.new_empty(sums[1])


@torch.library.register_fake("xmae_fast::masked_samples")
def _(ids_restore, kept, patch_len):
    B, N = ids_restore.shape
    return ids_restore.new_empty((B, 1, N * patch_len), dtype=torch.float32)


_gather_patches = torch.ops.xmae_fast.gather_patches.default
_gather_patches_backward = torch.ops.xmae_fast.gather_patches_backward.default
_assemble_queries = torch.ops.xmae_fast.assemble_queries.default
_assemble_queries_backward = torch.ops.xmae_fast.assemble_queries_backward.default
_restore_tokens = torch.ops.xmae_fast.restore_tokens.default
_restore_tokens_backward = torch.ops.xmae_fast.restore_tokens_backward.default
masked_samples = torch.ops.xmae_fast.masked_samples.default


class _GatherPatches(torch.autograd.Function):
    @staticmethod
    def forward(ctx, signal: Tensor, ids_keep: Tensor, patch_len: int) -> Tensor:
        ctx.save_for_backward(ids_keep)
        ctx.N, ctx.patch_len = signal.shape[2] // patch_len, patch_len
        return _gather_patches(signal, ids_keep, patch_len)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        (ids_keep,) = ctx.saved_tensors
        return _gather_patches_backward(grad, ids_keep, ctx.N, ctx.patch_len), None, None


class _AssembleQueries(torch.autograd.Function):
    @staticmethod
    def forward(ctx, tokens: Tensor, ids_keep: Tensor, pos: Tensor, mask_loc: Tensor) -> Tensor:
        ctx.save_for_backward(ids_keep)
        return _assemble_queries(tokens, ids_keep, pos, mask_loc)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        (ids_keep,) = ctx.saved_tensors
        want_tokens, _, want_pos, want_mask_loc = ctx.needs_input_grad
        d_tokens, d_pos, d_mask_loc = _assemble_queries_backward(grad, ids_keep, want_pos or want_mask_loc)
        return (
            d_tokens if want_tokens else None,
            None,
            d_pos if want_pos else None,
            d_mask_loc if want_mask_loc else None,
        )


class _RestoreTokens(torch.autograd.Function):
    @staticmethod
    def forward(ctx, tokens: Tensor, ids_restore: Tensor, mask_token: Tensor, pos: Tensor) -> Tensor:
        ctx.save_for_backward(ids_restore)
        ctx.kept = tokens.shape[1]
        return _restore_tokens(tokens, ids_restore, mask_token, pos)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        (ids_restore,) = ctx.saved_tensors
        want_tokens, _, want_mask_token, want_pos = ctx.needs_input_grad
        d_tokens, d_mask_token, d_pos = _restore_tokens_backward(
            grad, ids_restore, ctx.kept, want_mask_token or want_pos
        )
        return (
            d_tokens if want_tokens else None,
            None,
            d_mask_token if want_mask_token else None,
            d_pos if want_pos else None,
        )


def gather_patches(signal: Tensor, ids_keep: Tensor, patch_len: int) -> Tensor:
    """`reference.gather_patches` by the kernels."""
    function = _GatherPatches.apply if wants_gradient(signal) else _gather_patches
    return function(signal, ids_keep, patch_len)


def assemble_queries(tokens: Tensor, ids_keep: Tensor, pos: Tensor, mask_loc: Tensor) -> Tensor:
    """`reference.assemble_queries` by the kernels."""
    function = _AssembleQueries.apply if wants_gradient(tokens, pos, mask_loc) else _assemble_queries
    return function(tokens, ids_keep, pos, mask_loc)


def restore_tokens(tokens: Tensor, ids_restore: Tensor, mask_token: Tensor, pos: Tensor) -> Tensor:
    """`reference.restore_tokens` by the kernels."""
    function = _RestoreTokens.apply if wants_gradient(tokens, mask_token, pos) else _restore_tokens
    return function(tokens, ids_restore, mask_token, pos)
