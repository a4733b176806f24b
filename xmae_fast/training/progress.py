"""How a run shows itself: a line of rich on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any


class Progress:
    """Lines on standard error, and on a terminal, where rich is installed, a bar with loss, segments/s, data wait."""

    def __init__(self, shown: bool = True) -> None:
        self.shown = shown
        self._bar: Any = None

    @contextmanager
    def bar(self) -> Iterator[None]:
        """Within it the bar is there."""
        self._bar = _bar() if self.shown and sys.stderr.isatty() else None
        with self._bar or nullcontext():
            yield
        self._bar = None

    def tell(self, text: str) -> None:
        """One line."""
        if not self.shown:
            return
        if self._bar is not None:
            self._bar.console.print(text, markup=False, highlight=False)
        else:
            print(text, file=sys.stderr, flush=True)

    def log(self, row: dict[str, Any], share: float) -> None:
        """A row of metrics.csv, written when `share` of the run had passed."""
        where = f"epoch {row['epoch']} step {row['step']} ({share:.0%})"
        if "val_loss" in row:
            self.tell(f"{where}: validation loss {row['val_loss']:.5f}")
            return
        speed, wait = row["segments_per_s"], 100 * row["data_wait_share"]
        if self._bar is None:
            self.tell(
                f"{where}: loss {row['loss']:.5f}, lr {row['lr']:.2e}, mask ratio {row['mask_ratio']:.2f},"
                f" {speed:,.0f} segments/s, data wait {wait:.1f} %"
            )
        else:
            state = f"loss {row['loss']:.4f}  {speed:,.0f} segments/s  wait {wait:.1f} %"
            about = f"epoch {row['epoch']} step {row['step']}"
            self._bar.update(self._bar.task_ids[0], completed=share, state=state, description=about)


def _bar() -> Any:
    """rich's, or None where it is not installed."""
    try:
        from rich import progress
        from rich.console import Console
    except ImportError:
        return None
    columns = (
        progress.TextColumn("{task.description}"), progress.BarColumn(), progress.TaskProgressColumn(),
        progress.TimeElapsedColumn(), progress.TimeRemainingColumn(), progress.TextColumn("{task.fields[state]}"),
    )  # fmt: skip
    bar = progress.Progress(*columns, console=Console(stderr=True))
    bar.add_task("epoch 0", total=1.0, state="")
    return bar
