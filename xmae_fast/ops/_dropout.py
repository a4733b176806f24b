"""Counter-based dropout of the C++ kernels: a mask depends on (seed, offset) and an element's place alone.

Philox4x32-10 with key `seed`; the counter is (block, row, offset): 64 columns of a row are made of 16 draws,
column 64 g + 16 w + lane taking word w of the draw for block 16 g + lane. Kept where word >= p 2^32.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor

_library = torch.library.Library("xmae_fast", "FRAGMENT")
# 0 or 1 / (1 - p), [rows, columns]. feed_forward: rows B N, columns D; lag_attention: rows B H, columns Nq Nk.
_library.define("dropout_mask(Tensor seed, SymInt rows, SymInt columns, float p) -> Tensor")


@torch.library.register_fake("xmae_fast::dropout_mask")
def _(seed, rows, columns, p):
    return seed.new_empty((rows, columns), dtype=torch.float32)


_pool: tuple[Tensor, list[int]] | None = None  # seeds [sites, 2] of one step, and how many are taken


def draw_seed(p: float, device: torch.device | str = "cpu") -> Tensor | None:
    """(seed, offset), int64 [2] on `device`, from its default generator; for p = 0 nothing is drawn.

    Within `seeds_from` the next row of its table instead, which costs no launch.
    """
    if p <= 0:
        return None
    if _pool is not None:
        return next_seed()
    return torch.randint(2**62, (2,), dtype=torch.int64, device=device)


def next_seed() -> Tensor:
    """The next row of the table of `seeds_from`, within it."""
    table, taken = _pool
    if taken[0] == len(table):
        raise RuntimeError(f"seeds_from: a step asked for more than the {len(table)} seeds that it was given")
    taken[0] += 1
    return table[taken[0] - 1]


@contextlib.contextmanager
def seeds_from(table: Tensor) -> Iterator[list[int]]:
    """Within it, dropout takes its seeds from `table` [sites, 2], int64, row by row: for steps that are replayed.

    Yields:
        A list with one number: how many rows have been taken.
    """
    global _pool
    before, _pool = _pool, (table, [0])
    try:
        yield _pool[1]
    finally:
        _pool = before

