"""Random numbers of the simulated population: one stream for each block of segments and each purpose."""

from __future__ import annotations

import numpy as np

from xmae_fast.simulation.population.ranges import Range

BLOCK = 256  # segments that are always simulated together
Random = np.random.Generator


def stream(seed: int, block: int, purpose: int) -> Random:
    """The Philox stream with the key (seed, block) and the counter `purpose`."""
    counter = np.array([0, 0, 0, purpose], np.uint64)
    return np.random.Generator(np.random.Philox(counter=counter, key=np.array([seed, block], np.uint64)))


def uniform(rng: Random, limits: Range, count: int) -> np.ndarray:
    """Draw [count, 1] float32, uniformly within `limits`."""
    low, high = limits
    return low + (high - low) * rng.random((count, 1), np.float32)


def log_uniform(rng: Random, limits: Range, count: int) -> np.ndarray:
    """Draw [count, 1] float32 within `limits`, both above 0, uniformly in the logarithm."""
    low, high = np.log(limits)
    return np.exp(np.float32(low) + np.float32(high - low) * rng.random((count, 1), np.float32))


def normal(rng: Random, *shape: int) -> np.ndarray:
    """Draw standard normal numbers, float32."""
    return rng.standard_normal(shape, np.float32)


def happens(rng: Random, probability: float, count: int) -> np.ndarray:
    """Draw [count, 1] bool, True with `probability`."""
    return rng.random((count, 1), np.float32) < probability


def choose(rng: Random, shares: tuple[float, ...], count: int) -> np.ndarray:
    """Draw [count, 1] numbers of the `shares`, which sum to 1."""
    return np.minimum(np.searchsorted(np.cumsum(shares), rng.random((count, 1)), side="right"), len(shares) - 1)
