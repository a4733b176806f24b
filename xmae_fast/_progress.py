"""Bars of rich on standard error, by which every command shows its progress on a terminal."""

from __future__ import annotations

import sys
from typing import Any


class Bars:
    """A bar for each stage of some work. It is a context manager, and the bars are shown within it.

    Args:
        shown: rich's Progress, as `open_bars` makes it.
    """

    def __init__(self, shown: Any) -> None:
        self._shown = shown
        self._tasks: dict[str, Any] = {}

    def __enter__(self) -> Bars:
        self._shown.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._shown.stop()

    def show(self, stage: str, done: float, total: float | None, *, name: str | None = None, note: str = "") -> None:
        """Set the bar of a stage, which appears with the first call.

        Args:
            stage: which bar.
            done: how much of the stage is done.
            total: how much there is to do; None where that is not known.
            name: what stands before the bar; None for the stage itself.
            note: the text of the column "note".
        """
        from rich.markup import escape

        text = escape(stage if name is None else name)
        if stage not in self._tasks:
            self._tasks[stage] = self._shown.add_task(text, total=total, note=note)
        self._shown.update(self._tasks[stage], completed=done, total=total, description=text, note=note)

    def remove(self, stage: str) -> None:
        """Take the bar of a stage away."""
        self._shown.remove_task(self._tasks.pop(stage))

    def print(self, text: str) -> None:
        """Write a line above the bars."""
        self._shown.console.print(text, markup=False, highlight=False)


def open_bars(*columns: str, stay: bool = False) -> Bars | None:
    """Bars on standard error; None where that is no terminal, or rich is not installed.

    Args:
        columns: what follows a bar and its percentage, in this order: "elapsed" for the time spent, "left" for the time
            that is left, "note" for a text.
        stay: the bars stay on the terminal after the work, instead of vanishing.
    """
    if not sys.stderr.isatty():
        return None
    try:
        from rich import progress
        from rich.console import Console
    except ImportError:
        return None
    made = {
        "elapsed": progress.TimeElapsedColumn,
        "left": progress.TimeRemainingColumn,
        "note": lambda: progress.TextColumn("{task.fields[note]}"),
    }
    first = progress.TextColumn("{task.description}"), progress.BarColumn(), progress.TaskProgressColumn()
    others = (made[name]() for name in columns)
    return Bars(progress.Progress(*first, *others, console=Console(stderr=True), transient=not stay))
