"""Masks on a GPU: one launch for all modes, nothing is synchronised, seed and offset are read from device memory.

A program writes the rows of BLOCK_B samples. Word 0 of a row's Philox block 0 is its coin, word 1 its start; the key of
patch i is word i % 4 of block 1 + i // 4. A patch is masked by scatter where fewer than k patches have a smaller key
(equal keys go by position); keys are drawn again for each comparison, which costs less than keeping and sorting them.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from xmae_fast.ops._device import philox_words, wait_for_previous_launch
from xmae_fast.ops._launch import block, launch
from xmae_fast.ops.random_masking.reference import MODES
from xmae_fast.ops.random_masking.schema import empty_masks

SCATTER, BLOCK, ANCHOR, MIXED = (tl.constexpr(MODES[mode]) for mode in ("scatter", "block", "anchor", "mixed"))
# A program has few rows, so that 512 rows reach every multiprocessor.
_CONFIGS = {80: ({"BLOCK_B": 4, "num_warps": 4}, {"BLOCK_B": 8, "num_warps": 4}, {"BLOCK_B": 2, "num_warps": 2})}


@triton.jit
def _key(scores_ptr, seed_ptr, row, n, N, mask, DRAWN: tl.constexpr):
    """Scatter keys of patches n of rows: given ones, or 24 bits of their random words."""
    if DRAWN:
        return tl.load(scores_ptr + row.to(tl.int64) * N + n, mask=mask, other=0.0)
    else:
        w0, w1, w2, w3 = philox_words(seed_ptr, 1 + n // 4, row)
        which = n % 4
        word = tl.where(which == 0, w0, tl.where(which == 1, w1, tl.where(which == 2, w2, w3)))
        return (word >> 8).to(tl.int32)


@triton.jit
def _masks_kernel(
    seed_ptr, scores_ptr, start_ptr, coin_ptr,  # int64 [2], or [B, N], [B], [B]
    mask_ptr, keep_ptr, restore_ptr,  # bool [B, N], int64 [B, N - k], int64 [B, N]
    B, N, k,
    MODE: tl.constexpr, DRAWN: tl.constexpr, BLOCK_B: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    wait_for_previous_launch()
    row = tl.program_id(0) * BLOCK_B + tl.arange(0, BLOCK_B)[:, None]  # [BLOCK_B, 1]
    n = tl.arange(0, BLOCK_N)[None, :]  # [1, BLOCK_N]
    mask_b = row < B
    inside = mask_b & (n < N)
    visible = N - k

    if DRAWN:
        start = tl.load(start_ptr + row, mask=mask_b, other=0).to(tl.int32)
    else:
        coin_word, start_word, _, _ = philox_words(seed_ptr, 0, row)
        choices = k + 1 if MODE == ANCHOR else visible + 1
        start = ((start_word.to(tl.int64) * choices) >> 32).to(tl.int32)
    from_start = n - start
    if MODE == ANCHOR:
        masked = (from_start < 0) | (from_start >= visible)
    else:
        masked = (from_start >= 0) & (from_start < k)
    if MODE == SCATTER or MODE == MIXED:  # noqa: SIM109 (Triton knows no `in`)
        key = _key(scores_ptr, seed_ptr, row, n, N, inside, DRAWN)
        smaller = tl.zeros([BLOCK_B, BLOCK_N], tl.int32)
        for j in range(N):
            other = _key(scores_ptr, seed_ptr, row, row * 0 + j, N, mask_b, DRAWN)  # [BLOCK_B, 1]
            smaller += ((other < key) | ((other == key) & (j < n))).to(tl.int32)
        scattered = smaller < k
        if MODE == SCATTER:
            masked = scattered
        else:
            if DRAWN:
                is_block = tl.load(coin_ptr + row, mask=mask_b, other=0.0) < 0.5
            else:
                is_block = coin_word < 0x80000000
            masked = (is_block & masked) | ((is_block == 0) & scattered)
    masked = masked & (n < N)

    masked_before = tl.cumsum(masked.to(tl.int32), axis=1)
    restore = tl.where(masked, visible - 1 + masked_before, n - masked_before)
    at = row.to(tl.int64) * N + n
    tl.store(mask_ptr + at, masked, mask=inside)
    tl.store(restore_ptr + at, restore.to(tl.int64), mask=inside)
    patch = (n + restore * 0).to(tl.int64)
    tl.store(keep_ptr + row.to(tl.int64) * visible + restore, patch, mask=inside & (masked == 0))


def _write(B: int, N: int, k: int, mode: int, like: Tensor, **sources: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    patch_mask, ids_keep, ids_restore = empty_masks(like, B, N, k)
    launch(
        _masks_kernel,
        lambda c: (triton.cdiv(B, c["BLOCK_B"]),),
        {"mask_ptr": patch_mask, "keep_ptr": ids_keep, "restore_ptr": ids_restore, **sources, "B": B, "N": N, "k": k},
        {"MODE": mode, "DRAWN": sources["seed_ptr"] is None, "BLOCK_N": block(N, 1)},
        _CONFIGS,
        key=(N, mode),
    )
    return patch_mask, ids_keep, ids_restore


def masks_philox(seed: Tensor, B: int, N: int, k: int, mode: int) -> tuple[Tensor, Tensor, Tensor]:
    """`reference.masks_philox`, bit for bit: seed int64 [2] on the device -> patch_mask, ids_keep, ids_restore."""
    seed = seed.contiguous()
    return _write(B, N, k, mode, seed, seed_ptr=seed, scores_ptr=None, start_ptr=None, coin_ptr=None)


def masks_from_draws(scores: Tensor, start: Tensor, coin: Tensor, k: int, mode: int) -> tuple[Tensor, Tensor, Tensor]:
    """`reference.masks_from_draws`, bit for bit: scores [B, N], start [B], coin [B] or empty."""
    scores, start, coin = scores.contiguous(), start.contiguous(), coin.contiguous()
    return _write(*scores.shape, k, mode, scores, seed_ptr=None, scores_ptr=scores, start_ptr=start, coin_ptr=coin)
