"""Whether other processes were using the processor while something was timed."""

from __future__ import annotations

import os
import time
from pathlib import Path


class OtherWork:
    """Counts from its creation on; needs Linux's /proc, and knows nothing elsewhere."""

    def __init__(self) -> None:
        self.start = time.perf_counter()
        self.busy, self.own = _busy_seconds(), _own_seconds()

    def share(self) -> float:
        """Part of all processors' time that other process groups have used since, 0 to 1."""
        seconds = (time.perf_counter() - self.start) * (os.cpu_count() or 1)
        others = (_busy_seconds() - self.busy) - (_own_seconds() - self.own)
        return min(max(others / seconds, 0.0), 1.0)


def _busy_seconds() -> float:
    """User, nice, system, interrupt and stolen time of all processors."""
    file = Path("/proc/stat")
    if not file.is_file():
        return 0.0
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, file.read_text().split(maxsplit=9)[1:9])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def _own_seconds() -> float:
    """User and system time of this process group, workers included."""
    ticks, group = 0, os.getpgrp()
    for file in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = file.read_text().rpartition(")")[2].split()
        except OSError:  # it has just ended
            continue
        if int(fields[2]) == group:
            ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")
