"""Patch masks in plain PyTorch, vectorised over rows: the oracle of random_masking.

`published_draws` makes the random calls of the published code; `philox_words` is the counter-based stream of
rng="fast". Both end in `masks_from_draws`, so the two differ in their numbers only.
"""

from __future__ import annotations

import torch
from torch import Tensor

MODES = {"scatter": 0, "block": 1, "anchor": 2, "mixed": 3}
_WORD = 0xFFFFFFFF


def published_draws(
    B: int, N: int, k: int, mode: str, generator: torch.Generator | None, device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """The random numbers of the published code, drawn in its order: scores [B, N], start [B], coin [B].

    The starts of the anchor and of the block are both drawn, whatever the mode; `start` is the anchor's for mode
    "anchor" and the block's otherwise. `coin` has no elements unless the mode is "mixed".
    """
    scores = torch.rand(B, N, generator=generator, device=device)
    block_start = torch.randint(0, N - k + 1, (B,), generator=generator, device=device)
    anchor_start = torch.randint(0, k + 1, (B,), generator=generator, device=device)
    coin = torch.rand(B, generator=generator, device=device) if mode == "mixed" else scores.new_empty(0)
    return scores, anchor_start if mode == "anchor" else block_start, coin


def masks_from_draws(scores: Tensor, start: Tensor, coin: Tensor, k: int, mode: str) -> tuple[Tensor, Tensor, Tensor]:
    """Masks of one batch from its random numbers.

    Args:
        scores: [B, N]; "scatter" masks the k patches with the smallest scores of a row.
        start: [B], where the run begins, which is visible for "anchor" and masked for "block".
        coin: [B] in [0, 1); a row of "mixed" is a block where its coin is below one half.
        k: number of masked patches of a row.
        mode: a key of MODES.

    Returns:
        patch_mask [B, N] bool (True = masked), ids_keep [B, N - k], ids_restore [B, N], int64.
    """
    B, N = scores.shape
    position = torch.arange(N, device=scores.device)
    after_start = position - start[:, None]
    if mode == "anchor":
        patch_mask = (after_start < 0) | (after_start >= N - k)
    if mode in ("block", "mixed"):
        patch_mask = (after_start >= 0) & (after_start < k)
    if mode in ("scatter", "mixed"):
        chosen = scores.argsort(dim=1, stable=True)[:, :k]
        scattered = torch.zeros(B, N, dtype=torch.bool, device=scores.device).scatter_(1, chosen, True)
        patch_mask = scattered if mode == "scatter" else torch.where(coin[:, None] < 0.5, patch_mask, scattered)
    masked_before = patch_mask.cumsum(1)
    ids_restore = torch.where(patch_mask, N - k - 1 + masked_before, position - masked_before)
    order = torch.empty_like(ids_restore).scatter_(1, ids_restore, position.expand(B, N))
    return patch_mask, order[:, : N - k].contiguous(), ids_restore


def philox_words(seed: Tensor, rows: int, blocks: int) -> Tensor:
    """Philox4x32-10 (Salmon et al., SC'11) words of rows 0..rows-1 and blocks 0..blocks-1: [rows, 4 * blocks] int64.

    `seed` is (seed, offset), int64: the key is seed, the counter is (block, row, offset).
    """
    device = seed.device
    c0 = torch.arange(blocks, device=device).expand(rows, blocks)
    c1 = torch.arange(rows, device=device)[:, None].expand(rows, blocks)
    c2, c3 = seed[1] & _WORD, (seed[1] >> 32) & _WORD
    k0, k1 = seed[0] & _WORD, (seed[0] >> 32) & _WORD
    for _ in range(10):
        p0, p1 = c0 * 0xD2511F53, c2 * 0xCD9E8D57  # wraps modulo 2^64, which keeps both halves right
        c0, c1, c2, c3 = ((p1 >> 32) & _WORD) ^ c1 ^ k0, p1 & _WORD, ((p0 >> 32) & _WORD) ^ c3 ^ k1, p0 & _WORD
        k0, k1 = (k0 + 0x9E3779B9) & _WORD, (k1 + 0xBB67AE85) & _WORD
    shape = (rows, blocks)
    return torch.stack([c.expand(shape) for c in (c0, c1, c2, c3)], dim=-1).flatten(1)


def masks_philox(seed: Tensor, B: int, N: int, k: int, mode: str) -> tuple[Tensor, Tensor, Tensor]:
    """Masks from the counter-based stream: word 0 is the coin, word 1 the start, words 4... (24 bits) the keys."""
    needs_keys = mode in ("scatter", "mixed")
    words = philox_words(seed, B, 1 + (N + 3) // 4 if needs_keys else 1)
    choices = k + 1 if mode == "anchor" else N - k + 1
    start = (words[:, 1] * choices) >> 32
    scores = words[:, 4 : 4 + N] >> 8 if needs_keys else words.new_empty(B, N)
    return masks_from_draws(scores, start, words[:, 0] / 2**32, k, mode)
