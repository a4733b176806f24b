"""Progress of the commands on standard error: bars on a terminal, lines in a job's log."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_LINE_EVERY_S = 20.0


@contextmanager
def progress_bars() -> Iterator[Callable[[str, int, int | None], None] | None]:
    """A bar on standard error for each stage; None where that is no terminal, or rich is missing."""
    try:
        from rich import progress
        from rich.console import Console
        from rich.markup import escape
    except ImportError:
        progress = None
    if progress is None or not sys.stderr.isatty():
        yield None
        return
    columns = (
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.TaskProgressColumn(),
        progress.TimeRemainingColumn(),
    )
    with progress.Progress(*columns, console=Console(stderr=True), transient=True) as shown:
        tasks: dict[str, progress.TaskID] = {}

        def tell(stage: str, done: int, total: int | None) -> None:
            if stage not in tasks:
                tasks[stage] = shown.add_task(escape(stage), total=total)
            shown.update(tasks[stage], completed=done, total=total)
            if done == total:
                shown.remove_task(tasks.pop(stage))

        yield tell


@contextmanager
def progress_with_speed() -> Iterator[Callable[[str, int, int | None], None] | None]:
    """A bar with segments/s and time left on a terminal; a line every 20 s elsewhere, so that a job's log tells."""
    told: dict[str, tuple[float, int, float]] = {}  # stage -> when it began, how much was there, when last told
    try:
        from rich import progress
        from rich.console import Console
        from rich.markup import escape
    except ImportError:
        progress = None
    rank = os.environ.get("RANK")
    if progress is None or not sys.stderr.isatty() or rank not in (None, "0"):

        def line(stage: str, done: int, total: int | None) -> None:
            now = time.monotonic()
            began, first, last = told.setdefault(stage, (now, done, now))
            if now - last >= _LINE_EVERY_S:
                told[stage] = began, first, now
                who = "" if rank is None else f"rank {rank}: "
                print(f"{who}{stage}: {done:,} of {total or 0:,}{_rate(now - began, done - first, total, done)}",
                      file=sys.stderr, flush=True)  # fmt: skip

        yield line
        return
    columns = progress.TextColumn("{task.description}"), progress.BarColumn(), progress.TaskProgressColumn()
    with progress.Progress(
        *columns, progress.TextColumn("{task.fields[rate]}"), console=Console(stderr=True), transient=True
    ) as shown:
        tasks: dict[str, progress.TaskID] = {}

        def bar(stage: str, done: int, total: int | None) -> None:
            now = time.monotonic()
            began, first, _ = told.setdefault(stage, (now, done, now))
            if stage not in tasks:
                tasks[stage] = shown.add_task(escape(stage), total=total, rate="")
            rate = _rate(now - began, done - first, total, done)
            shown.update(tasks[stage], completed=done, total=total, rate=rate, visible=done != total)

        yield bar


def _rate(seconds: float, done: int, total: int | None, so_far: int) -> str:
    """ ", 512 segments/s, 0:04:10 left"."""
    if not done or seconds <= 0:
        return ""
    left = "" if total is None else f", {_clock((total - so_far) * seconds / done)} left"
    return f", {done / seconds:,.0f} segments/s{left}"


def _clock(seconds: float) -> str:
    minutes, whole = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{whole:02d}"
