"""Latencies of an exported file and of the model. All take turns, so that changes of the machine affect all alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping

SETTLE_S = 0.01  # because the threads of the runtimes spin for some milliseconds after a call
ROUNDS, BUDGET_S = 40, 3.0


def milliseconds(calls: Mapping[str, Callable[[], object]], budget_s: float = BUDGET_S) -> dict[str, float]:
    """The median time of each call over 5 to 40 rounds, in each of which every call has its turn.

    Args:
        calls: by name.
        budget_s: seconds after which no further round begins, once there were 5.

    Returns:
        Milliseconds by name.
    """
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
            call()  # wakes the threads and brings the weights into the cache
            start = time.perf_counter()
            call()
            taken[name].append(time.perf_counter() - start)
    return {name: 1e3 * statistics.median(seconds) for name, seconds in taken.items()}
