"""torch.library schemas of token_gather's kernels, their fakes, and the autograd functions around them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from xmae_fast.ops._checks import once_differentiable, wants_gradient
from xmae_fast.ops._triton import define_triton

_library = torch.library.Library("xmae_fast", "FRAGMENT")


def _define(schema: str, fake: Callable[..., object]) -> dict[str, torch._ops.OpOverload]:
    """By implementation: the operators of one schema, which share a fake."""
    name = schema.partition("(")[0]
    _library.define(schema)
    torch.library.register_fake(f"xmae_fast::{name}", fake)
    return {
        "cpu": getattr(torch.ops.xmae_fast, name).default,
        "triton": define_triton("token_gather", schema, fake),
    }


def sum_dtype(tokens: Tensor, pos: Tensor) -> torch.dtype:
    """What PyTorch makes of tokens + pos."""
    return torch.promote_types(tokens.dtype, pos.dtype)


def _gathered(signal, ids_keep, patch_len):
    return signal.new_empty((signal.shape[0], 1, ids_keep.shape[1] * patch_len))


def _gathered_backward(grad, ids_keep, N, patch_len):
    return grad.new_empty((grad.shape[0], 1, N * patch_len))


def _assembled(tokens, ids_keep, pos, mask_loc):
    return tokens.new_empty((tokens.shape[0], *mask_loc.shape), dtype=sum_dtype(tokens, pos))


def _assembled_backward(grad, ids_keep, want_sums):
    B, N, D = grad.shape
    sums = ((1, N, D), (N, D)) if want_sums else ((0,), (0,))
    return grad.new_empty((B, ids_keep.shape[1], D)), grad.new_empty(sums[0]), grad.new_empty(sums[1])


def _restored(tokens, ids_restore, mask_token, pos):
    return tokens.new_empty((*ids_restore.shape, tokens.shape[2]), dtype=sum_dtype(tokens, pos))


def _restored_backward(grad, ids_restore, kept, want_sums):
    B, N, D = grad.shape
    sums = ((1, 1, D), (1, N, D)) if want_sums else ((0,), (0,))
    return grad.new_empty((B, kept, D)), grad.new_empty(sums[0]), grad.new_empty(sums[1])


def _masked(ids_restore, kept, patch_len, dtype=torch.float32):
    B, N = ids_restore.shape
    return ids_restore.new_empty((B, 1, N * patch_len), dtype=dtype)


_GATHER_PATCHES = _define("gather_patches(Tensor signal, Tensor ids_keep, SymInt patch_len) -> Tensor", _gathered)
_GATHER_PATCHES_BACKWARD = _define(
    "gather_patches_backward(Tensor grad, Tensor ids_keep, SymInt N, SymInt patch_len) -> Tensor", _gathered_backward
)
_ASSEMBLE_QUERIES = _define(
    "assemble_queries(Tensor tokens, Tensor ids_keep, Tensor pos, Tensor mask_loc) -> Tensor", _assembled
)
_ASSEMBLE_QUERIES_BACKWARD = _define(
    "assemble_queries_backward(Tensor grad, Tensor ids_keep, bool want_sums) -> (Tensor, Tensor, Tensor)",
    _assembled_backward,
)
_RESTORE_TOKENS = _define(
    "restore_tokens(Tensor tokens, Tensor ids_restore, Tensor mask_token, Tensor pos) -> Tensor", _restored
)
_RESTORE_TOKENS_BACKWARD = _define(
    "restore_tokens_backward(Tensor grad, Tensor ids_restore, SymInt kept, bool want_sums) -> (Tensor, Tensor, Tensor)",
    _restored_backward,
)
_library.define("masked_samples(Tensor ids_restore, SymInt kept, SymInt patch_len) -> Tensor")
torch.library.register_fake("xmae_fast::masked_samples", _masked)
_masked_samples = torch.ops.xmae_fast.masked_samples.default
_masked_samples_triton = define_triton(
    "token_gather", "masked_samples(Tensor ids_restore, SymInt kept, SymInt patch_len, ScalarType dtype) -> Tensor",
    _masked,
)  # fmt: skip


class _GatherPatches(torch.autograd.Function):
    @staticmethod
    def forward(ctx, signal: Tensor, ids_keep: Tensor, patch_len: int, impl: str) -> Tensor:
        ctx.save_for_backward(ids_keep)
        ctx.N, ctx.patch_len, ctx.impl = signal.shape[2] // patch_len, patch_len, impl
        return _GATHER_PATCHES[impl](signal, ids_keep, patch_len)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        (ids_keep,) = ctx.saved_tensors
        return _GATHER_PATCHES_BACKWARD[ctx.impl](grad, ids_keep, ctx.N, ctx.patch_len), None, None, None


class _AssembleQueries(torch.autograd.Function):
    @staticmethod
    def forward(ctx, tokens: Tensor, ids_keep: Tensor, pos: Tensor, mask_loc: Tensor, impl: str) -> Tensor:
        ctx.save_for_backward(ids_keep)
        ctx.impl = impl
        return _ASSEMBLE_QUERIES[impl](tokens, ids_keep, pos, mask_loc)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        (ids_keep,) = ctx.saved_tensors
        want_tokens, _, want_pos, want_mask_loc = ctx.needs_input_grad[:4]
        d_tokens, d_pos, d_mask_loc = _ASSEMBLE_QUERIES_BACKWARD[ctx.impl](grad, ids_keep, want_pos or want_mask_loc)
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
        ctx.kept, ctx.impl = tokens.shape[1], impl
        return _RESTORE_TOKENS[impl](tokens, ids_restore, mask_token, pos)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        (ids_restore,) = ctx.saved_tensors
        want_tokens, _, want_mask_token, want_pos = ctx.needs_input_grad[:4]
        d_tokens, d_mask_token, d_pos = _RESTORE_TOKENS_BACKWARD[ctx.impl](
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
    return _GATHER_PATCHES[impl](signal, ids_keep, patch_len)


def assemble_queries(tokens: Tensor, ids_keep: Tensor, pos: Tensor, mask_loc: Tensor, impl: str) -> Tensor:
    """`reference.assemble_queries` by the kernels of `impl`."""
    if wants_gradient(tokens, pos, mask_loc):
        return _AssembleQueries.apply(tokens, ids_keep, pos, mask_loc, impl)
    return _ASSEMBLE_QUERIES[impl](tokens, ids_keep, pos, mask_loc)


def restore_tokens(tokens: Tensor, ids_restore: Tensor, mask_token: Tensor, pos: Tensor, impl: str) -> Tensor:
    """`reference.restore_tokens` by the kernels of `impl`."""
    if wants_gradient(tokens, mask_token, pos):
        return _RestoreTokens.apply(tokens, ids_restore, mask_token, pos, impl)
    return _RESTORE_TOKENS[impl](tokens, ids_restore, mask_token, pos)


def masked_samples(ids_restore: Tensor, kept: int, patch_len: int, dtype: torch.dtype, impl: str) -> Tensor:
    """`reference.masked_samples` by the kernels of `impl`; those of the CPU know float32 alone."""
    if impl == "cpu":
        return _masked_samples(ids_restore, kept, patch_len)
    return _masked_samples_triton(ids_restore, kept, patch_len, dtype)
