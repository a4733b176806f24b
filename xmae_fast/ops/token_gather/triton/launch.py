"""token_gather on a GPU: one launch for each result, nothing is synchronised. The gradients are in backward.py.

A program serves BLOCK_N patches of one sample, and BLOCK_D of their samples or columns. It finds the place of a patch
among ids_keep by comparing, since ids_keep is short. Sums are rounded where PyTorch rounds them, so results are those
of the reference bit for bit. A patch index outside 0..N-1 reads no foreign memory: the result is NaN there, or, in
`assemble_queries`, the token is put nowhere.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from xmae_fast.ops._device import wait_for_previous_launch
from xmae_fast.ops._launch import TL_DTYPE, block, launch
from xmae_fast.ops.token_gather.schema import sum_dtype
from xmae_fast.ops.token_gather.triton.backward import (
    assemble_queries_backward,
    gather_patches_backward,
    restore_tokens_backward,
)
from xmae_fast.ops.token_gather.triton.common import PATCHES, place_among, rows_at_once, tiles

__all__ = [
    "assemble_queries",
    "assemble_queries_backward",
    "gather_patches",
    "gather_patches_backward",
    "masked_samples",
    "restore_tokens",
    "restore_tokens_backward",
]

_TOKENS = {
    80: ({"BLOCK_D": 128, "num_warps": 4}, {"BLOCK_D": 64, "num_warps": 4}, {"BLOCK_D": 256, "num_warps": 8}),
}


@triton.jit
def _gather_kernel(
    x_ptr, stride_xb, stride_xl,  # [B, N * P]
    ids_ptr, out_ptr,  # int64 [B, Nk], [B, Nk * P]
    N, Nk, P,
    BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """out[b, j, p] = x[b, ids[b, j], p]."""
    wait_for_previous_launch()
    b = tl.program_id(0).to(tl.int64)
    offs_j = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    offs_p = tl.program_id(2) * BLOCK_D + tl.arange(0, BLOCK_D)
    mask = (offs_j < Nk)[:, None] & (offs_p < P)[None, :]  # [BLOCK_N, BLOCK_D]
    ids = tl.load(ids_ptr + b * Nk + offs_j, mask=offs_j < Nk, other=0)
    known = (ids >= 0) & (ids < N)
    at = ids[:, None] * P + offs_p[None, :]
    x = tl.load(x_ptr + b * stride_xb + at * stride_xl, mask=mask & known[:, None], other=float("nan"))
    tl.store(out_ptr + b * Nk * P + (offs_j[:, None] * P + offs_p[None, :]), x, mask=mask)


@triton.jit
def _assemble_kernel(
    tokens_ptr, ids_ptr,  # [B, Nk, D], int64 [B, Nk]
    pos_ptr, mask_loc_ptr,  # [N, D], [N, D]
    out_ptr,  # [B, N, D]
    N, Nk, D,
    MIDDLE: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """out[b, n] = pos[n] + (tokens[b, j] - pos[j] where ids[b, j] == n, mask_loc[n] where no j has that)."""
    wait_for_previous_launch()
    b = tl.program_id(0).to(tl.int64)
    offs_n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    offs_d = tl.program_id(2) * BLOCK_D + tl.arange(0, BLOCK_D)
    mask = (offs_n < N)[:, None] & (offs_d < D)[None, :]  # [BLOCK_N, BLOCK_D]
    place = place_among(ids_ptr + b * Nk, offs_n, Nk, BLOCK_K)
    shown = (place >= 0)[:, None]
    own = offs_n[:, None] * D + offs_d[None, :]
    held = place[:, None] * D + offs_d[None, :]

    token = tl.load(tokens_ptr + b * Nk * D + held, mask=mask & shown, other=0.0).to(tl.float32)
    token -= tl.load(pos_ptr + held, mask=mask & shown, other=0.0).to(tl.float32)
    hidden = tl.load(mask_loc_ptr + own, mask=mask & (shown == 0), other=0.0).to(tokens_ptr.dtype.element_ty)
    row = tl.where(shown, token.to(MIDDLE).to(tl.float32), hidden.to(tl.float32))
    pos = tl.load(pos_ptr + own, mask=mask, other=0.0).to(tl.float32)
    tl.store(out_ptr + b * N * D + own, row + pos, mask=mask)


@triton.jit
def _restore_kernel(
    tokens_ptr, ids_ptr,  # [B, Nk, D], int64 [B, N]
    mask_token_ptr, pos_ptr,  # [D], [N, D]
    out_ptr,  # [B, N, D]
    N, Nk, D,
    BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """out[b, n] = pos[n] + (tokens[b, ids[b, n]] where ids[b, n] < Nk, mask_token elsewhere)."""
    wait_for_previous_launch()
    b = tl.program_id(0).to(tl.int64)
    offs_n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    offs_d = tl.program_id(2) * BLOCK_D + tl.arange(0, BLOCK_D)
    mask = (offs_n < N)[:, None] & (offs_d < D)[None, :]  # [BLOCK_N, BLOCK_D]
    ids = tl.load(ids_ptr + b * N + offs_n, mask=offs_n < N, other=N)
    shown = (ids < Nk)[:, None]
    known = (ids >= 0)[:, None]
    held = ids.to(tl.int32)[:, None] * D + offs_d[None, :]
    token = tl.load(tokens_ptr + b * Nk * D + held, mask=mask & shown & known, other=float("nan")).to(tl.float32)
    filler = tl.load(mask_token_ptr + offs_d, mask=offs_d < D, other=0.0).to(tokens_ptr.dtype.element_ty)
    own = offs_n[:, None] * D + offs_d[None, :]
    pos = tl.load(pos_ptr + own, mask=mask, other=0.0).to(tl.float32)
    row = tl.where(shown, token, filler.to(tl.float32)[None, :])
    tl.store(out_ptr + b * N * D + own, row + pos, mask=mask)


@triton.jit
def _masked_kernel(
    ids_ptr, out_ptr,  # int64 [B, N], [B, N * P]
    N, Nk, P,
    BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """out[b, n, p] = 1 where ids[b, n] >= Nk, 0 elsewhere."""
    wait_for_previous_launch()
    b = tl.program_id(0).to(tl.int64)
    offs_n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    offs_p = tl.program_id(2) * BLOCK_D + tl.arange(0, BLOCK_D)
    mask = (offs_n < N)[:, None] & (offs_p < P)[None, :]  # [BLOCK_N, BLOCK_D]
    ids = tl.load(ids_ptr + b * N + offs_n, mask=offs_n < N, other=0)
    hidden = tl.where((ids >= Nk)[:, None] & (offs_p >= 0)[None, :], 1.0, 0.0)
    tl.store(out_ptr + b * N * P + (offs_n[:, None] * P + offs_p[None, :]), hidden, mask=mask)


def gather_patches(signal: Tensor, ids_keep: Tensor, patch_len: int) -> Tensor:
    """`reference.gather_patches`, bit for bit; signal [B, 1, L] of any strides."""
    (B, Nk), N = ids_keep.shape, signal.shape[2] // patch_len
    out = signal.new_empty((B, 1, Nk * patch_len))
    args = {"x_ptr": signal, "stride_xb": signal.stride(0), "stride_xl": signal.stride(2)}
    args |= {"ids_ptr": ids_keep.contiguous(), "out_ptr": out, "N": N, "Nk": Nk, "P": patch_len}
    launch(_gather_kernel, tiles(B, Nk, patch_len), args, {"BLOCK_N": rows_at_once(Nk)}, PATCHES, key=(Nk, patch_len))
    return out


def assemble_queries(tokens: Tensor, ids_keep: Tensor, pos: Tensor, mask_loc: Tensor) -> Tensor:
    """`reference.assemble_queries`, bit for bit; dtypes that differ are promoted, where the reference refuses them."""
    (B, Nk, D), N = tokens.shape, mask_loc.shape[0]
    out = tokens.new_empty((B, N, D), dtype=sum_dtype(tokens, pos))
    args = {"tokens_ptr": tokens.contiguous(), "ids_ptr": ids_keep.contiguous(), "pos_ptr": pos.contiguous()}
    args |= {"mask_loc_ptr": mask_loc.contiguous(), "out_ptr": out, "N": N, "Nk": Nk, "D": D}
    constants = {"MIDDLE": TL_DTYPE[out.dtype], "BLOCK_N": rows_at_once(N), "BLOCK_K": min(block(Nk, 1), 32)}
    launch(_assemble_kernel, tiles(B, N, D), args, constants, _TOKENS, key=(N, Nk, D))
    return out


def restore_tokens(tokens: Tensor, ids_restore: Tensor, mask_token: Tensor, pos: Tensor) -> Tensor:
    """`reference.restore_tokens`, bit for bit."""
    (B, Nk, D), N = tokens.shape, ids_restore.shape[1]
    out = tokens.new_empty((B, N, D), dtype=sum_dtype(tokens, pos))
    args = {"tokens_ptr": tokens.contiguous(), "ids_ptr": ids_restore.contiguous(), "pos_ptr": pos.contiguous()}
    args |= {"mask_token_ptr": mask_token.contiguous(), "out_ptr": out, "N": N, "Nk": Nk, "D": D}
    launch(_restore_kernel, tiles(B, N, D), args, {"BLOCK_N": rows_at_once(N)}, _TOKENS, key=(N, Nk, D))
    return out


def masked_samples(ids_restore: Tensor, kept: int, patch_len: int, dtype: torch.dtype) -> Tensor:
    """`reference.masked_samples`."""
    B, N = ids_restore.shape
    out = ids_restore.new_empty((B, 1, N * patch_len), dtype=dtype)
    args = {"ids_ptr": ids_restore.contiguous(), "out_ptr": out, "N": N, "Nk": kept, "P": patch_len}
    launch(_masked_kernel, tiles(B, N, patch_len), args, {"BLOCK_N": rows_at_once(N)}, PATCHES, key=(N, patch_len))
    return out
