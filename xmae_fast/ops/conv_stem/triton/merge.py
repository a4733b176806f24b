"""What tiles leave behind is merged by the program that comes last, in a fixed order, within the same launch.

Tiles are numbered along the first axis of programs, those of the second stem after those of the first. Each leaves two
numbers of every column, `partial` float32 [tiles + groups, 2, columns]. The last program of a group of GROUP tiles
merges these and leaves the result in the row of the group, and the last of the groups merges the groups. `counters`,
int32 [blocks, groups + 2] (a block is a number of the second axis), say how many have come, of each group and of each
stem; they are 0 before a launch and after it. The order of arrival decides only who merges, never in which order
numbers are added.
"""

from __future__ import annotations

import triton
import triton.language as tl

GROUP = 64  # tiles
TILES = tl.constexpr(GROUP)
AT_ONCE = tl.constexpr(16)  # rows of `partial` that are loaded together


def rows_of_partial(tiles: tuple[int, ...]) -> int:
    """The rows of `partial`, from the tiles of each stem."""
    return sum(tiles) + groups_of(tiles)


def groups_of(tiles: tuple[int, ...]) -> int:
    return sum(triton.cdiv(of_stem, GROUP) for of_stem in tiles)


@triton.jit
def leave(partial_ptr, row, first, second, columns, c, mask_c):
    """Store two numbers of each column c [C], of a tile or a group, whose row of `partial` is given."""
    at = partial_ptr + row.to(tl.int64) * (2 * columns) + c
    tl.store(at, first, mask=mask_c)
    tl.store(at + columns, second, mask=mask_c)


@triton.jit
def _arrive(counter_ptr, expected):
    """Whether this program is the last of `expected`; what the others stored before is then seen by all its threads."""
    tl.debug_barrier()  # every thread has stored
    is_last = tl.atomic_add(counter_ptr, 1, sem="acq_rel", scope="gpu") == expected - 1
    if is_last:
        tl.store(counter_ptr, 0)
    tl.debug_barrier()  # no thread loads before that
    return is_last


@triton.jit
def places(second, tile, tiles, tiles_2):
    """Of a program: its group of its stem, the row of `partial` at which its stem begins, the row of the stem's first
    group, the tiles of its stem, its groups.

    tiles, tiles_2: of both stems.
    """
    groups = tl.cdiv(tiles, TILES)
    first_tile = tl.where(second, tiles, 0)
    first_group = tiles + tiles_2 + tl.where(second, groups, 0)
    of_stem = tl.where(second, tiles_2, tiles)
    return tile // TILES, first_tile, first_group, of_stem, tl.cdiv(of_stem, TILES)


@triton.jit
def group_complete(counters_ptr, second, group, tiles, tiles_2, of_stem):
    """Whether all tiles of this program's group have been left, and this program is to merge them."""
    both = tl.cdiv(tiles, TILES) + tl.cdiv(tiles_2, TILES)
    counter_ptr = counters_ptr + tl.program_id(1) * (both + 2) + tl.where(second, tl.cdiv(tiles, TILES), 0) + group
    return _arrive(counter_ptr, tl.minimum(of_stem - group * TILES, TILES))


@triton.jit
def stem_complete(counters_ptr, second, tiles, tiles_2, groups):
    """Whether all groups of this program's stem have been merged, and this program is to merge them."""
    both = tl.cdiv(tiles, TILES) + tl.cdiv(tiles_2, TILES)
    return _arrive(counters_ptr + tl.program_id(1) * (both + 2) + both + tl.where(second, 1, 0), groups)


@triton.jit
def added(partial_ptr, row, items, columns, c, mask_c):
    """Sums of both numbers of the columns c [C] over `items` rows of `partial` from `row` on."""
    at = partial_ptr + row.to(tl.int64) * (2 * columns) + c[None, :]
    first = tl.zeros([AT_ONCE, c.shape[0]], tl.float32)
    second = tl.zeros([AT_ONCE, c.shape[0]], tl.float32)
    for start in range(0, items, AT_ONCE):
        item = start + tl.arange(0, AT_ONCE)[:, None]
        mask = (item < items) & mask_c[None, :]
        first += tl.load(at + item * (2 * columns), mask=mask, other=0.0)
        second += tl.load(at + item * (2 * columns) + columns, mask=mask, other=0.0)
    return tl.sum(first, axis=0), tl.sum(second, axis=0)


@triton.jit
def add_up(
    partial_ptr, sums_ptr, counters_ptr, second, tile, tiles, tiles_2, stride_s, columns, c, mask_c,
    STEP: tl.constexpr, BLOCKS: tl.constexpr,
):  # fmt: skip
    """After this program has left what it has: if it is the last one, store both sums of the columns c, c + STEP, ...
    (BLOCKS of them) of its stem at sums_ptr, the second one stride_s further on."""
    group, first_tile, first_group, of_stem, groups = places(second, tile, tiles, tiles_2)
    if group_complete(counters_ptr, second, group, tiles, tiles_2, of_stem):
        items = tl.minimum(of_stem - group * TILES, TILES)
        for block in tl.static_range(BLOCKS):
            column = c + block * STEP
            first, other = added(partial_ptr, first_tile + group * TILES, items, columns, column, mask_c)
            leave(partial_ptr, first_group + group, first, other, columns, column, mask_c)
        if stem_complete(counters_ptr, second, tiles, tiles_2, groups):
            for block in tl.static_range(BLOCKS):
                column = c + block * STEP
                first, other = added(partial_ptr, first_group, groups, columns, column, mask_c)
                tl.store(sums_ptr + column, first, mask=mask_c)
                tl.store(sums_ptr + stride_s + column, other, mask=mask_c)


@triton.jit
def merged(partial_ptr, row, items, samples, size, columns, c, mask_c):
    """Means and sums of squared distances of the columns c [C] (Chan), from those of `items` rows of `partial`.

    samples: of how many values they are, of which each item has `size`, the last one the rest.
    """
    at = partial_ptr + row.to(tl.int64) * (2 * columns) + c[None, :]
    about = tl.load(at, mask=mask_c[None, :], other=0.0)  # the first one's mean: no large sums of equal numbers
    total = tl.zeros([AT_ONCE, c.shape[0]], tl.float32)
    for start in range(0, items, AT_ONCE):
        item = start + tl.arange(0, AT_ONCE)[:, None]
        mask = (item < items) & mask_c[None, :]
        count = tl.minimum(samples - item * size, size) * 1.0
        mean = tl.load(at + item * (2 * columns), mask=mask, other=0.0)
        total += tl.where(mask, count * (mean - about), 0.0)
    mean = about + tl.sum(total, axis=0)[None, :] / samples
    total = tl.zeros([AT_ONCE, c.shape[0]], tl.float32)
    for start in range(0, items, AT_ONCE):
        item = start + tl.arange(0, AT_ONCE)[:, None]
        mask = (item < items) & mask_c[None, :]
        count = tl.minimum(samples - item * size, size) * 1.0
        away = tl.load(at + item * (2 * columns), mask=mask, other=0.0) - mean
        squares = tl.load(at + item * (2 * columns) + columns, mask=mask, other=0.0)
        total += tl.where(mask, squares + count * away * away, 0.0)
    return tl.sum(mean, axis=0), tl.sum(total, axis=0)
