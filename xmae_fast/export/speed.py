"""Latency of an exported file beside the model's: all take turns, so that drift of the machine meets all alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping

SETTLE_S = 0.01  # threads of the runtimes go on spinning for some milliseconds after a call
ROUNDS, BUDGET_S = 40, 3.0


def milliseconds(calls: Mapping[str, Callable[[], object]], budget_s: float = BUDGET_S) -> dict[str, float]:
    """Median time of each call in ms, over 5 to 40 rounds in which every call has its turn."""
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()
        call()
    began = time.perf_counter()
    while len(rounds := next(iter(taken.values()))) < ROUNDS:
        if len(rounds) >= 5 and time.perf_counter() - began > budget_s:
            break
        for name, call in calls.items():
            time.sleep(SETTLE_S)
            call()  # awake again, weights back in the cache
            start = time.perf_counter()
            call()
            taken[name].append(time.perf_counter() - start)
    return {name: 1e3 * statistics.median(seconds) for name, seconds in taken.items()}
