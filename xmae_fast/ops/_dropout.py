"""Counter-based dropout of all kernels: a mask depends on (seed, offset) and on the place of an element alone.

The random words are those of Philox4x32-10 with key `seed` and counter (block, row, offset). 16 draws serve 64 columns
of a row: column 64 g + 16 w + lane takes word w of the draw for block 16 g + lane. An element is kept where its word is
at least p 2^32.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor

_library = torch.library.Library("xmae_fast", "FRAGMENT")
# 0 or 1 / (1 - p) of every element, [rows, columns]: [B N, D] for feed_forward, [B H, Nq Nk] for lag_attention.
_library.define("dropout_mask(Tensor seed, SymInt rows, SymInt columns, float p) -> Tensor")


@torch.library.register_fake("xmae_fast::dropout_mask")
def _(seed, rows, columns, p):
    return seed.new_empty((rows, columns), dtype=torch.float32)


_pool: tuple[Tensor, list[int]] | None = None  # seeds [sites, 2] of one step, and how many are taken


def draw_seed(p: float, device: torch.device | str = "cpu") -> Tensor | None:
    """(seed, offset), int64 [2] on `device`, drawn from its default generator; None, with nothing drawn, for p = 0.

    Within `seeds_from` it is the next row of the table, which costs no launch.
    """
    if p <= 0:
        return None
    if _pool is not None:
        return next_seed()
    return torch.randint(2**62, (2,), dtype=torch.int64, device=device)


def next_seed() -> Tensor:
    """The next row of the table of `seeds_from`; to be called within it."""
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
