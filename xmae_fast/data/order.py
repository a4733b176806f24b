"""In which order an epoch visits its segments; a function of seed, epoch and sizes alone."""

import numpy as np

BLOCK, WINDOW = 256, 16  # segments in a block, blocks in a window


def epoch_order(
    count: int, *, seed: int, epoch: int, shuffle: bool | str, block_size: int = BLOCK, window: int = WINDOW
) -> np.ndarray:
    """(count,) int32 permutation of range(count).

    shuffle: False leaves the order; True draws all permutations alike; "blocks" draws an order of blocks of
    `block_size` neighbours and then shuffles inside each `window` of blocks, so that a disk reads long runs."""
    order = np.arange(count, dtype=np.int32)
    if not shuffle:
        return order
    rng = np.random.Generator(np.random.Philox(key=[seed, epoch], counter=[0, 0, 1, 0]))  # augmentation has 0 there
    if shuffle is True:
        rng.shuffle(order)
        return order
    blocks = rng.permutation(-(-count // block_size))
    order = np.concatenate([order[b * block_size : (b + 1) * block_size] for b in blocks]) if count else order
    span = block_size * window
    for start in range(0, count, span):
        rng.shuffle(order[start : start + span])
    return order


def rank_order(order: np.ndarray, rank: int, world_size: int, *, drop_last: bool, pad: bool) -> np.ndarray:
    """The share of one of `world_size` processes: every world_size-th, so that their batches together are one batch of
    the undivided order. All get as many: the last few are left out (`drop_last`), or the first ones come again (`pad`);
    with neither no segment comes twice and some processes have one more."""
    if world_size == 1:
        return order
    if drop_last:
        order = order[: len(order) // world_size * world_size]
    elif pad and len(order):
        order = np.resize(order, -(-len(order) // world_size) * world_size)
    return order[rank::world_size]
