"""The C++ kernels of token_gather as operators: their schemas and the shapes of their results."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

_library = torch.library.Library("xmae_fast", "FRAGMENT")


def _define(schema: str, fake: Callable[..., object]) -> torch._ops.OpOverload:
    name = schema.partition("(")[0]
    _library.define(schema)
    torch.library.register_fake(f"xmae_fast::{name}", fake)
    return getattr(torch.ops.xmae_fast, name).default


def sum_dtype(tokens: Tensor, pos: Tensor) -> torch.dtype:
    """The dtype that PyTorch gives tokens + pos."""
    return torch.promote_types(tokens.dtype, pos.dtype)


def fake_gather(signal, ids_keep, patch_len):
    return signal.new_empty((signal.shape[0], 1, ids_keep.shape[1] * patch_len))


def fake_gather_backward(grad, ids_keep, N, patch_len):
    return grad.new_empty((grad.shape[0], 1, N * patch_len))


def fake_assemble(tokens, ids_keep, pos, mask_loc):
    return tokens.new_empty((tokens.shape[0], *mask_loc.shape), dtype=sum_dtype(tokens, pos))


def fake_assemble_backward(grad, ids_keep, want_sums):
    B, N, D = grad.shape
    sums = ((1, N, D), (N, D)) if want_sums else ((0,), (0,))
    return grad.new_empty((B, ids_keep.shape[1], D)), grad.new_empty(sums[0]), grad.new_empty(sums[1])


def fake_restore(tokens, ids_restore, mask_token, pos):
    return tokens.new_empty((*ids_restore.shape, tokens.shape[2]), dtype=sum_dtype(tokens, pos))


def fake_restore_backward(grad, ids_restore, kept, want_sums):
    B, N, D = grad.shape
    sums = ((1, 1, D), (1, N, D)) if want_sums else ((0,), (0,))
    return grad.new_empty((B, kept, D)), grad.new_empty(sums[0]), grad.new_empty(sums[1])


def fake_masked(ids_restore, kept, patch_len, dtype=torch.float32):
    B, N = ids_restore.shape
    return ids_restore.new_empty((B, 1, N * patch_len), dtype=dtype)


# Schema and fake of each operator that the C++ and the Triton kernels have alike.
GATHER = "gather_patches(Tensor signal, Tensor ids_keep, SymInt patch_len) -> Tensor", fake_gather
GATHER_BACKWARD = (
    "gather_patches_backward(Tensor grad, Tensor ids_keep, SymInt N, SymInt patch_len) -> Tensor",
    fake_gather_backward,
)
ASSEMBLE = "assemble_queries(Tensor tokens, Tensor ids_keep, Tensor pos, Tensor mask_loc) -> Tensor", fake_assemble
ASSEMBLE_BACKWARD = (
    "assemble_queries_backward(Tensor grad, Tensor ids_keep, bool want_sums) -> (Tensor, Tensor, Tensor)",
    fake_assemble_backward,
)
RESTORE = "restore_tokens(Tensor tokens, Tensor ids_restore, Tensor mask_token, Tensor pos) -> Tensor", fake_restore
RESTORE_BACKWARD = (
    "restore_tokens_backward(Tensor grad, Tensor ids_restore, SymInt kept, bool want_sums) -> (Tensor, Tensor, Tensor)",
    fake_restore_backward,
)

gather_patches, gather_patches_backward = _define(*GATHER), _define(*GATHER_BACKWARD)
assemble_queries, assemble_queries_backward = _define(*ASSEMBLE), _define(*ASSEMBLE_BACKWARD)
restore_tokens, restore_tokens_backward = _define(*RESTORE), _define(*RESTORE_BACKWARD)
_masked_samples = _define("masked_samples(Tensor ids_restore, SymInt kept, SymInt patch_len) -> Tensor", fake_masked)


def masked_samples(ids_restore: Tensor, kept: int, patch_len: int, dtype: torch.dtype) -> Tensor:
    """[B, 1, N * P]; the C++ kernel knows float32 alone, and so is not asked for another dtype."""
    return _masked_samples(ids_restore, kept, patch_len)
