"""What several commands of `xmae-fast` share: progress, arguments of one form, the files of a report."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


def print_report_files(folder: str) -> None:
    """The files that a report consists of, a line each."""
    from xmae_fast.evaluation.report import HTML, MARKDOWN, RESULTS

    for name in (MARKDOWN, HTML, RESULTS):
        print(Path(folder) / name)


def layout_of(columns: str | None):
    """The Layout that --columns names; None where it was not given."""
    from xmae_fast.data import Layout

    return None if columns is None else Layout(columns=tuple(name.strip() for name in columns.split(",")))


def named_files(given: list[str], argument: str) -> dict[str, str]:
    """["name=file", ...] -> {name: file}."""
    found: dict[str, str] = {}
    for text in given:
        name, equals, file = text.partition("=")
        if not (name and equals and file) or name in found:
            raise ValueError(f"{argument}: expected NAME=FILE, each name once, got {text!r}")
        found[name] = file
    return found


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
