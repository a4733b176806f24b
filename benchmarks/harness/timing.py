"""Interleaved timing: all contestants take turns in one process, so that drift of the machine meets all alike."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch

Run = Callable[[int], Any]  # the number of the call, for rotating inputs
MIN_SAMPLE_S = 2e-3
WAKE_BELOW_S = 2e-2  # runs so short that what a pause leaves behind would show


class Effort(NamedTuple):
    """How long to measure: seconds for one group, and the fewest and most rounds."""

    budget_s: float = 4.0
    min_rounds: int = 5
    max_rounds: int = 40


class Spread(NamedTuple):
    """Median and the 10 % and 90 % quantiles."""

    median: float
    low: float
    high: float


def spread(values: list[float]) -> Spread:
    low, median, high = np.percentile(values, (10, 50, 90))
    return Spread(float(median), float(low), float(high))


def ratio(numerator: list[float], denominator: list[float]) -> Spread:
    """Spread of the ratios of paired rounds."""
    return spread([a / b for a, b in zip(numerator, denominator, strict=True)])


def interleave(
    runs: Mapping[str, Run],
    device: torch.device,
    effort: Effort,
    cold: bool = False,
    settle_s: float = 0.0,
    between: Callable[[], object] | None = None,
) -> dict[str, list[float]]:
    """Seconds per call of each run, one figure per round: A B C, A B C, ...

    A sample is one call, or as many as take 2 ms. Every run is warmed up first. On a GPU, device events are read and
    `cold` empties the L2 cache before each call (there a sample is a single call). `settle_s`: pause before a sample,
    after which short runs make one untimed call: threads that slept are awake again, weights are back in the cache.
    `between`: on a CPU, what is done before each sample, which then is a single call and the first one after it.
    """
    clock = _cuda_clock(device, cold) if device.type == "cuda" else _cpu_sample
    with _no_gc():
        calls, wakes, round_s = {}, {}, 0.0
        for name, run in runs.items():
            clock(run, 0, 1)
            seconds = min(clock(run, 1, 1), clock(run, 2, 1))
            single = between is not None or (cold and device.type == "cuda")
            calls[name] = 1 if single else max(1, math.ceil(MIN_SAMPLE_S / seconds))
            round_s += (seconds + settle_s) * calls[name] + _seconds(between)
            wakes[name] = settle_s > 0 and seconds < WAKE_BELOW_S and between is None
        rounds = min(max(int(effort.budget_s / max(round_s, 1e-9)), effort.min_rounds), effort.max_rounds)
        seconds = {name: [] for name in runs}
        for i in range(rounds):
            for name, run in runs.items():
                time.sleep(settle_s)
                if wakes[name]:
                    run(i)
                if between is not None:
                    between()
                seconds[name].append(clock(run, i, calls[name]))
    return seconds


def _seconds(work: Callable[[], object] | None) -> float:
    start = time.perf_counter()
    if work is not None:
        work()
    return time.perf_counter() - start


def _cpu_sample(run: Run, first: int, calls: int) -> float:
    start = time.perf_counter()
    for i in range(first, first + calls):
        run(i)
    return (time.perf_counter() - start) / calls


def _cuda_clock(device: torch.device, cold: bool) -> Callable[[Run, int, int], float]:
    l2_bytes = torch.cuda.get_device_properties(device).L2_cache_size
    scratch = torch.empty(2 * l2_bytes if cold else 0, dtype=torch.uint8, device=device)

    def sample(run: Run, first: int, calls: int) -> float:
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        scratch.zero_()
        begin.record()
        for i in range(first, first + calls):
            run(i)
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) / 1e3 / calls

    return sample


@contextmanager
def _no_gc() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
