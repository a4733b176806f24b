"""The order in which an epoch visits its segments; it depends on seed, epoch and sizes only."""

import numpy as np

BLOCK, WINDOW = 256, 16  # segments in a block, blocks in a window


def epoch_order(
    count: int, *, seed: int, epoch: int, shuffle: bool | str, block_size: int = BLOCK, window: int = WINDOW
) -> np.ndarray:
    """The order of an epoch.

    Args:
        count: n, the number of segments.
        seed: decides the order together with `epoch`.
        epoch: the number of the epoch.
        shuffle: False keeps the order 0 to n - 1. True draws every permutation with the same probability. "blocks"
            draws the order of blocks of `block_size` neighbours and then shuffles within each `window` of blocks, so
            that a disk reads long runs.
        block_size: segments in a block.
        window: blocks in a window.

    Returns:
        [n] int32, a permutation of 0 to n - 1.
    """
    order = np.arange(count, dtype=np.int32)
    if not shuffle:
        return order
    rng = np.random.Generator(np.random.Philox(key=[seed, epoch], counter=[0, 0, 1, 0]))  # augmentation: 0 for 1
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
    """The part of an order that one of several processes visits: every `world_size`-th segment from number `rank` on,
    so that the batches of all processes together are one batch of the undivided order.

    Args:
        order: [n].
        rank: the number of the process.
        world_size: the number of processes.
        drop_last: leave out the last few segments, so that all processes get equally many.
        pad: repeat the first few segments, so that all processes get equally many. With neither `drop_last` nor `pad`
            no segment comes twice, and some processes get one more than others.

    Returns:
        [k], a part of `order`.
    """
    if world_size == 1:
        return order
    if drop_last:
        order = order[: len(order) // world_size * world_size]
    elif pad and len(order):
        order = np.resize(order, -(-len(order) // world_size) * world_size)
    return order[rank::world_size]
