"""How a run shows itself: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from xmae_fast._messages import PROGRESS
from xmae_fast._progress import Bars, open_bars

_RUN = "run"  # the only stage
_log = logging.getLogger(PROGRESS)


class Progress:
    """Lines on standard error, and on a terminal, where rich is installed, a bar with loss, segments/s and data wait.

    A program that listens to the logger `xmae_fast.progress`, at INFO, gets the lines from there instead.

    Args:
        shown: False shows nothing.
    """

    def __init__(self, shown: bool = True) -> None:
        self.shown = shown
        self._bars: Bars | None = None

    @contextmanager
    def bar(self) -> Iterator[None]:
        """The bar is shown within this context."""
        self._bars = open_bars("elapsed", "left", "note", stay=True) if self.shown else None
        with self._bars or nullcontext():
            if self._bars is not None:
                self._bars.show(_RUN, 0.0, 1.0, name="epoch 0")
            yield
        self._bars = None

    def tell(self, text: str) -> None:
        """Show one line."""
        if not self.shown:
            return
        if _log.isEnabledFor(logging.INFO):
            _log.info("%s", text)
        elif self._bars is not None:
            self._bars.print(text)
        else:
            print(text, file=sys.stderr, flush=True)

    def log(self, row: dict[str, Any], share: float) -> None:
        """Show a row of metrics.csv.

        Args:
            row: the row.
            share: how much of the run had passed when it was written, from 0 to 1.
        """
        where = f"epoch {row['epoch']} step {row['step']} ({share:.0%})"
        if "val_loss" in row:
            self.tell(f"{where}: validation loss {row['val_loss']:.5f}")
            return
        speed, wait = row["segments_per_s"], 100 * row["data_wait_share"]
        if self._bars is None:
            self.tell(
                f"{where}: loss {row['loss']:.5f}, lr {row['lr']:.2e}, mask ratio {row['mask_ratio']:.2f},"
                f" {speed:,.0f} segments/s, data wait {wait:.1f} %"
            )
        else:
            note = f"loss {row['loss']:.4f}  {speed:,.0f} segments/s  wait {wait:.1f} %"
            self._bars.show(_RUN, share, 1.0, name=f"epoch {row['epoch']} step {row['step']}", note=note)
