"""Gathers and scatters by patch index in plain PyTorch: the oracle of token_gather."""

from __future__ import annotations

import torch
from torch import Tensor


def gather_patches(signal: Tensor, ids_keep: Tensor, patch_len: int) -> Tensor:
    """signal [B, 1, L], ids_keep [B, Nk] -> the kept patches side by side, in that order: [B, 1, Nk * P]."""
    patches = signal.unflatten(-1, (-1, patch_len)).squeeze(1)
    index = ids_keep[:, :, None].expand(-1, -1, patch_len)
    return patches.gather(1, index).flatten(1)[:, None]


def assemble_queries(tokens: Tensor, ids_keep: Tensor, pos: Tensor, mask_loc: Tensor) -> Tensor:
    """Bridge queries: mask_loc + pos everywhere, but tokens - pos[:Nk] + pos at the rows ids_keep.

    tokens [B, Nk, D], ids_keep [B, Nk], pos [1, N, D], mask_loc [N, D] -> [B, N, D].
    """
    B, kept, D = tokens.shape
    rows = mask_loc.to(tokens.dtype).expand(B, -1, -1)
    index = ids_keep[:, :, None].expand(-1, -1, D)
    return rows.scatter(1, index, tokens - pos[:, :kept]) + pos


def restore_tokens(tokens: Tensor, ids_restore: Tensor, mask_token: Tensor, pos: Tensor) -> Tensor:
    """mask_token appended up to N, reordered by ids_restore, pos added.

    tokens [B, Nk, D], ids_restore [B, N], mask_token [1, 1, D], pos [1, N, D] -> [B, N, D].
    """
    B, kept, D = tokens.shape
    N = ids_restore.shape[1]
    padded = torch.cat([tokens, mask_token.to(tokens.dtype).expand(B, N - kept, D)], dim=1)
    return padded.gather(1, ids_restore[:, :, None].expand(-1, -1, D)) + pos


def masked_samples(ids_restore: Tensor, kept: int, patch_len: int, dtype: torch.dtype) -> Tensor:
    """1 on the samples of masked patches, 0 elsewhere: ids_restore [B, N] -> [B, 1, N * P]."""
    return (ids_restore >= kept).to(dtype).repeat_interleave(patch_len, dim=1)[:, None]
