"""Other work between two calls, as a program does it that embeds a segment now and then."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np

STREAMED_BYTES = 64 * 2**20
PAUSE_S = 0.01


class Interruption:
    """Calling it streams through 64 MB and pauses for 10 ms; then nothing of the last call is at hand.

    The stream reads and writes every cache line once, which evicts what the cores' own caches hold. (A last-level cache
    of hundreds of MB, as servers have, keeps the weights all the same.) Its threads belong to no runtime, so no
    contestant finds its own threads awake, and after the pause those of all runtimes sleep.

    Args:
        threads: among which the stream is divided, one for each processor that the contestants use.
    """

    def __init__(self, threads: int) -> None:
        self.parts = [np.zeros(STREAMED_BYTES // threads // 4, np.float32) for _ in range(threads)]
        self.pool = ThreadPoolExecutor(threads)

    def __call__(self) -> None:
        for _ in self.pool.map(lambda part: np.add(part, 1, out=part), self.parts):
            pass
        time.sleep(PAUSE_S)
