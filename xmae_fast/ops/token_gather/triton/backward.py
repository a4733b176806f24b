"""Gradients of token_gather on a GPU. Sums over the batch are taken in slices, whose partial sums one launch adds up.

Patch indices must be distinct within a row, as the public functions demand.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from xmae_fast.ops._device import sum_parts, wait_for_previous_launch
from xmae_fast.ops._launch import block, launch
from xmae_fast.ops.token_gather.triton.common import PATCHES, place_among, rows_at_once, tiles

_SLICES = 128  # of the batch, at most
_TOKENS = {
    80: ({"BLOCK_D": 64, "num_warps": 4}, {"BLOCK_D": 128, "num_warps": 8}, {"BLOCK_D": 32, "num_warps": 4}),
}
_SUMS = {
    80: (
        {"BLOCK_W": 64, "BLOCK_P": 32, "num_warps": 4},
        {"BLOCK_W": 128, "BLOCK_P": 16, "num_warps": 4},
        {"BLOCK_W": 32, "BLOCK_P": 128, "num_warps": 4},
    ),
}


@triton.jit
def _gather_backward_kernel(
    grad_ptr, ids_ptr, out_ptr,  # [B, Nk * P], int64 [B, Nk], [B, N * P]
    N, Nk, P,
    BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """out[b, n, p] = grad[b, j, p] where ids[b, j] == n, 0 where no j has that."""
    wait_for_previous_launch()
    b = tl.program_id(0).to(tl.int64)
    offs_n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    offs_p = tl.program_id(2) * BLOCK_D + tl.arange(0, BLOCK_D)
    mask = (offs_n < N)[:, None] & (offs_p < P)[None, :]  # [BLOCK_N, BLOCK_D]
    place = place_among(ids_ptr + b * Nk, offs_n, Nk, BLOCK_K)
    at = place[:, None] * P + offs_p[None, :]
    grad = tl.load(grad_ptr + b * Nk * P + at, mask=mask & (place >= 0)[:, None], other=0.0)
    tl.store(out_ptr + b * N * P + (offs_n[:, None] * P + offs_p[None, :]), grad, mask=mask)


@triton.jit
def _assemble_backward_kernel(
    grad_ptr, ids_ptr,  # [B, N, D], int64 [B, Nk]
    tokens_ptr, pos_ptr, hidden_ptr,  # [B, Nk, D]; float32 [slices, N, D] twice
    B, per_slice, N, Nk, D,
    WANT_SUMS: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """tokens[b, j] = grad[b, ids[b, j]]; summed over the samples b of a slice:

    pos[n] = grad[b, n] - (tokens[b, n] if n < Nk), hidden[n] = (grad[b, n] if n is not in ids[b]).
    """
    wait_for_previous_launch()
    part = tl.program_id(0).to(tl.int64)
    offs_n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    offs_d = tl.program_id(2) * BLOCK_D + tl.arange(0, BLOCK_D)
    mask_d = (offs_d < D)[None, :]
    mask = (offs_n < N)[:, None] & mask_d  # [BLOCK_N, BLOCK_D]
    held = (offs_n < Nk)[:, None] & mask_d
    own = offs_n[:, None] * D + offs_d[None, :]
    pos = tl.zeros([BLOCK_N, BLOCK_D], tl.float32)
    hidden = tl.zeros([BLOCK_N, BLOCK_D], tl.float32)
    for step in range(0, tl.minimum(B - part * per_slice, per_slice)):
        b = part * per_slice + step
        ids = tl.load(ids_ptr + b * Nk + offs_n, mask=offs_n < Nk, other=-1)
        known = held & ((ids >= 0) & (ids < N))[:, None]
        at = ids.to(tl.int32)[:, None] * D + offs_d[None, :]
        token = tl.load(grad_ptr + b * N * D + at, mask=known, other=0.0)
        tl.store(tokens_ptr + b * Nk * D + own, token, mask=held)
        if WANT_SUMS:
            grad = tl.load(grad_ptr + b * N * D + own, mask=mask, other=0.0).to(tl.float32)
            place = place_among(ids_ptr + b * Nk, offs_n, Nk, BLOCK_K)
            pos += grad - token.to(tl.float32)
            hidden += tl.where((place < 0)[:, None], grad, 0.0)
    if WANT_SUMS:
        tl.store(pos_ptr + part * N * D + own, pos, mask=mask)
        tl.store(hidden_ptr + part * N * D + own, hidden, mask=mask)


@triton.jit
def _restore_backward_kernel(
    grad_ptr, ids_ptr,  # [B, N, D], int64 [B, N]
    tokens_ptr, pos_ptr, hidden_ptr,  # [B, Nk, D]; float32 [slices, N, D], [slices, blocks of N, D]
    B, per_slice, N, Nk, D,
    WANT_SUMS: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """tokens[b, ids[b, n]] = grad[b, n] where ids[b, n] < Nk; summed over the samples b of a slice:

    pos[n] = grad[b, n], hidden = (grad[b, n] where ids[b, n] >= Nk), the latter also over BLOCK_N patches n.
    """
    wait_for_previous_launch()
    part = tl.program_id(0).to(tl.int64)
    offs_n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    offs_d = tl.program_id(2) * BLOCK_D + tl.arange(0, BLOCK_D)
    mask = (offs_n < N)[:, None] & (offs_d < D)[None, :]  # [BLOCK_N, BLOCK_D]
    own = offs_n[:, None] * D + offs_d[None, :]
    pos = tl.zeros([BLOCK_N, BLOCK_D], tl.float32)
    hidden = tl.zeros([BLOCK_N, BLOCK_D], tl.float32)
    for step in range(0, tl.minimum(B - part * per_slice, per_slice)):
        b = part * per_slice + step
        ids = tl.load(ids_ptr + b * N + offs_n, mask=offs_n < N, other=N)
        grad = tl.load(grad_ptr + b * N * D + own, mask=mask, other=0.0)
        shown = ((ids >= 0) & (ids < Nk))[:, None]
        at = ids.to(tl.int32)[:, None] * D + offs_d[None, :]
        tl.store(tokens_ptr + b * Nk * D + at, grad, mask=mask & shown)
        if WANT_SUMS:
            pos += grad.to(tl.float32)
            hidden += tl.where((ids >= Nk)[:, None], grad.to(tl.float32), 0.0)
    if WANT_SUMS:
        tl.store(pos_ptr + part * N * D + own, pos, mask=mask)
        at = (part * tl.num_programs(1) + tl.program_id(1)) * D + offs_d
        tl.store(hidden_ptr + at, tl.sum(hidden, axis=0), mask=offs_d < D)


@triton.jit
def _sums_kernel(
    a_ptr, b_ptr, a_out_ptr, b_out_ptr,  # float32 [parts_a, width_a], [parts_b, width_b]; [width_a], [width_b]
    parts_a, width_a, parts_b, width_b,
    BLOCK_W: tl.constexpr, BLOCK_P: tl.constexpr,
):  # fmt: skip
    """a_out = a.sum(0), b_out = b.sum(0)."""
    wait_for_previous_launch()
    programs_a = tl.cdiv(width_a, BLOCK_W)
    if tl.program_id(0) < programs_a:
        at = tl.program_id(0) * BLOCK_W + tl.arange(0, BLOCK_W)
        total = sum_parts(a_ptr, parts_a, width_a, at, at < width_a, BLOCK_P)
        tl.store(a_out_ptr + at, total, mask=at < width_a)
    else:
        at = (tl.program_id(0) - programs_a) * BLOCK_W + tl.arange(0, BLOCK_W)
        total = sum_parts(b_ptr, parts_b, width_b, at, at < width_b, BLOCK_P)
        tl.store(b_out_ptr + at, total, mask=at < width_b)


def gather_patches_backward(grad: Tensor, ids_keep: Tensor, N: int, patch_len: int) -> Tensor:
    """Gradient of the signal [B, 1, N * P]: grad [B, 1, Nk * P] where patches were kept, zeros elsewhere."""
    B, Nk = ids_keep.shape
    out = grad.new_empty((B, 1, N * patch_len))
    args = {"grad_ptr": grad.contiguous(), "ids_ptr": ids_keep.contiguous(), "out_ptr": out}
    args |= {"N": N, "Nk": Nk, "P": patch_len}
    constants = {"BLOCK_N": rows_at_once(N), "BLOCK_K": min(block(Nk, 1), 32)}
    launch(_gather_backward_kernel, tiles(B, N, patch_len), args, constants, PATCHES, key=(N, Nk, patch_len))
    return out


def assemble_queries_backward(grad: Tensor, ids_keep: Tensor, want_sums: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of tokens [B, Nk, D], pos [1, N, D], mask_loc [N, D]; the latter two are empty unless wanted."""
    (_, N, D), Nk = grad.shape, ids_keep.shape[1]
    constants = {"BLOCK_K": min(block(Nk, 1), 32)}
    return _backward(_assemble_backward_kernel, grad, ids_keep, Nk, (N, D), N, want_sums, constants)


def restore_tokens_backward(
    grad: Tensor, ids_restore: Tensor, kept: int, want_sums: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of tokens [B, Nk, D], mask_token [1, 1, D], pos [1, N, D]; the latter two are empty unless wanted."""
    _, N, D = grad.shape
    blocks = triton.cdiv(N, rows_at_once(N))
    tokens, pos, mask_token = _backward(
        _restore_backward_kernel, grad, ids_restore, kept, (1, 1, D), blocks, want_sums, {}
    )
    return tokens, mask_token, pos


def _backward(
    kernel: Any, grad: Tensor, ids: Tensor, Nk: int, hidden_shape: tuple[int, ...], hidden_rows: int,
    want_sums: bool, constants: dict[str, Any],
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of tokens, of pos, and of what is put in place of hidden patches.

    hidden_rows: how many rows [D] each slice writes for the last of these.
    """
    B, N, D = grad.shape
    tokens = grad.new_empty((B, Nk, D))
    pos, hidden = (grad.new_empty(shape if want_sums else (0,)) for shape in ((1, N, D), hidden_shape))
    per_slice = max(4, triton.cdiv(B, _SLICES))
    slices = triton.cdiv(B, per_slice)
    pos_parts, hidden_parts = (
        grad.new_empty((slices, rows, D) if want_sums else (0,), dtype=torch.float32) for rows in (N, hidden_rows)
    )
    args = {"grad_ptr": grad.contiguous(), "ids_ptr": ids.contiguous(), "tokens_ptr": tokens, "pos_ptr": pos_parts}
    args |= {"hidden_ptr": hidden_parts, "B": B, "per_slice": per_slice, "N": N, "Nk": Nk, "D": D}
    constants = {**constants, "WANT_SUMS": want_sums, "BLOCK_N": rows_at_once(N)}
    launch(kernel, tiles(slices, N, D), args, constants, _TOKENS, key=(N, Nk, D, want_sums))
    if want_sums:
        args = {"a_ptr": pos_parts, "b_ptr": hidden_parts, "a_out_ptr": pos, "b_out_ptr": hidden}
        args |= {"parts_a": slices, "width_a": N * D, "width_b": hidden.numel()}
        args["parts_b"] = hidden_parts.numel() // max(hidden.numel(), 1)
        launch(
            _sums_kernel,
            lambda c: (sum(triton.cdiv(x.numel(), c["BLOCK_W"]) for x in (pos, hidden)),),
            args,
            {},
            _SUMS,
            key=(slices, N, D),
        )
    return tokens, pos, hidden
