"""Most resident memory of one training step on a CPU, in a process of its own for each contestant.

What counts is the peak during one step of B samples minus the resident memory before it. By then model, optimiser state
and data exist, a step of two samples has run (libraries have their buffers), and the allocator has given back what
it held free. So it is activations, gradients and temporary buffers, pages of the allocator included.

The peak is the kernel's high-water mark of this process, VmHWM, set back just before the step. `getrusage`'s ru_maxrss
is the same mark but also remembers the size of the parent that started the process, which here is far larger; it serves
where there is no /proc.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import torch

from benchmarks.harness.context import Context
from benchmarks.harness.new_process import last_line_of
from benchmarks.models.contestants import Batch, Trainer

STATUS = Path("/proc/self/status")
TIMEOUT_S = 600


def peak_in_new_process(context: Context, suite: str, B: int, contestant: str) -> int:
    """Bytes that one training step takes at most.

    Args:
        suite: full name of a module whose `group(context, B)` has the contestant.

    Raises:
        RuntimeError, OSError: the peak could not be measured.
    """
    order = {
        "suite": suite, "contestant": contestant, "B": B, "data": context.data, "quick": context.quick,
        "threads": torch.get_num_threads(),
    }  # fmt: skip
    return int(last_line_of(__name__, order, TIMEOUT_S))


def main() -> None:
    """The new process: reads what to measure from the standard input, writes bytes to the standard output."""
    order = json.load(sys.stdin)
    torch.set_num_threads(order["threads"])
    context = Context(torch.device("cpu"), tuple(order["data"]), order["quick"], "all")
    contestants = {one.name: one for one in import_module(order["suite"]).group(context, order["B"]).contestants}
    if order["contestant"] not in contestants:
        raise ValueError(f"no such contestant: {order['contestant']}")
    print(step_peak(contestants[order["contestant"]].build()))


def step_peak(trainer: Trainer) -> int:
    """Most bytes that one step holds beyond what was there before it."""
    data, masks = trainer.data, trainer.masks
    trainer.data = [Batch(*(x[:2] for x in data[0]))]
    trainer.masks = lambda: (data[0].ids_keep[:2], data[0].ids_restore[:2])
    trainer(0)
    trainer.data, trainer.masks = data, masks
    gc.collect()
    _release_free_memory()
    _reset_peak()
    before, peak_before = _resident_bytes(), _peak_bytes()
    trainer(0)
    peak = _peak_bytes()
    if peak == peak_before and peak > before:
        raise RuntimeError("the step stays below the peak of making the model, which could not be set back")
    return peak - before


def _release_free_memory() -> None:
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # of glibc
    if trim is not None:
        trim(0)


def _reset_peak() -> None:
    """Set the high-water mark to the memory that is resident now, where the system lets us."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def _resident_bytes() -> int:
    if STATUS.is_file():
        return _status_bytes("VmRSS")
    done = subprocess.run(["ps", "-o", "rss=", "-p", str(os.getpid())], capture_output=True, text=True, check=True)
    return 1024 * int(done.stdout)


def _peak_bytes() -> int:
    if STATUS.is_file():
        return _status_bytes("VmHWM")
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _status_bytes(key: str) -> int:
    lines = (line.split() for line in STATUS.read_text().splitlines())
    return next(1024 * int(words[1]) for words in lines if words[0] == f"{key}:")
