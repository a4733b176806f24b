"""Progress of the commands on standard error: bars on a terminal, lines in the log of a job."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

from xmae_fast._messages import PROGRESS
from xmae_fast._progress import open_bars
from xmae_fast.cli.messages import say
from xmae_fast.workers.progress import Progress

_LINE_EVERY_S = 20.0
_log = logging.getLogger(PROGRESS)


@contextmanager
def progress_bars() -> Iterator[Progress]:
    """A bar on standard error for each stage; a line every 20 s where that is no terminal, or rich is not installed;
    with -q neither."""
    bars = open_bars("left") if _log.isEnabledFor(logging.INFO) else None
    if bars is None:
        yield _timed(_lines(with_speed=False))
        return

    def tell(stage: str, done: int, total: int | None) -> None:
        bars.show(stage, done, total)
        if done == total:
            bars.remove(stage)

    with bars:
        yield _timed(tell)


@contextmanager
def progress_with_speed() -> Iterator[Progress]:
    """A bar with segments/s and the time that is left on a terminal; elsewhere, so that the log of a job tells how far
    the job is, a line every 20 s; with -q neither."""
    first_of_all = os.environ.get("RANK") in (None, "0")
    bars = open_bars("note") if first_of_all and _log.isEnabledFor(logging.INFO) else None
    if bars is None:
        yield _timed(_lines(with_speed=True))
        return
    told: dict[str, tuple[float, int]] = {}  # stage -> when it began, and how much was done then

    def bar(stage: str, done: int, total: int | None) -> None:
        now = time.monotonic()
        began, first = told.setdefault(stage, (now, done))
        bars.show(stage, done, total, note=_rate(now - began, done - first, total, done))
        if done == total:
            bars.remove(stage)

    with bars:
        yield _timed(bar)


def _timed(progress: Progress) -> Progress:
    """The same, and with -v each stage says at its end how long it took. Files that are worked on one by one are stages
    of their own."""
    if not _log.isEnabledFor(logging.DEBUG):
        return progress
    began: dict[str, float] = {}
    last = time.monotonic()

    def tell(stage: str, done: int, total: int | None) -> None:
        nonlocal last
        start = began.setdefault(stage, last)  # stages are told first when a part of them is done
        progress(stage, done, total)
        last = time.monotonic()
        if done == total:
            say(f"{stage}: {done:,} after {last - start:.2f} s", logging.DEBUG)
            del began[stage]

    return tell


def _lines(with_speed: bool) -> Progress:
    """Tells the progress as a line for each stage every 20 s."""
    told: dict[str, tuple[float, int, float]] = {}  # stage -> when it began, how much was done then, when last told
    rank = os.environ.get("RANK")
    who = "" if rank is None else f"rank {rank}: "

    def line(stage: str, done: int, total: int | None) -> None:
        now = time.monotonic()
        began, first, last = told.setdefault(stage, (now, done, now))
        if now - last >= _LINE_EVERY_S:
            told[stage] = began, first, now
            speed = _rate(now - began, done - first, total, done) if with_speed else ""
            of = "" if total is None else f" of {total:,}"
            _log.info("%s%s: %s%s%s", who, stage, f"{done:,}", of, speed)
        if done == total:
            told.pop(stage)

    return line


def _rate(seconds: float, done: int, total: int | None, so_far: int) -> str:
    """Speed and time that is left, such as ", 512 segments/s, 0:04:10 left"; '' before there is a speed.

    Args:
        seconds: time in which `done` segments were done.
        done: segments that were done in that time.
        total: segments in all; None where that is not known.
        so_far: segments that are done, those from before that time too.
    """
    if not done or seconds <= 0:
        return ""
    left = "" if total is None else f", {_clock((total - so_far) * seconds / done)} left"
    return f", {done / seconds:,.0f} segments/s{left}"


def _clock(seconds: float) -> str:
    minutes, whole = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{whole:02d}"
