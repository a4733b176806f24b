"""What the package logs, written to standard error as the commands show it. It imports nothing but `logging`."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

LIBRARY = "xmae_fast"  # the logger above all others of this package, which are named after its parts
PROGRESS = f"{LIBRARY}.progress"  # the logger of the lines that tell how far some work is


class Lines(logging.Formatter):
    """Lines as "xmae-fast: text", with "warning: " before warnings. Before notes, which only -v asks for, stand the
    seconds since the process began and the part of the package. Lines of progress stand alone.

    Args:
        process: what the process is called in notes; '' for that of the command.
    """

    def __init__(self, process: str = "") -> None:
        super().__init__()
        self.process = f"{process}, " if process else ""

    def format(self, record: logging.LogRecord) -> str:
        """The line of a record."""
        text = record.getMessage()
        if record.name == PROGRESS:
            return text
        if record.levelno < logging.INFO:
            part = record.name.removeprefix(f"{LIBRARY}.")
            return f"xmae-fast: {self.process}{record.relativeCreated / 1000:.2f} s, {part}: {text}"
        return f"xmae-fast: {'warning: ' if record.levelno == logging.WARNING else ''}{text}"


class StandardError(logging.Handler):
    """Writes to what is standard error at that moment: above the bars while rich shows some, and nowhere if there is
    none."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write the line of a record."""
        if sys.stderr is not None:
            with suppress(OSError, ValueError):  # nobody reads it, or it is closed
                print(self.format(record), file=sys.stderr, flush=True)


@contextmanager
def said_on_stderr(level: int = logging.INFO, process: str = "") -> Iterator[None]:
    """Within this context everything that the package logs at `level` or above goes to standard error.

    Args:
        level: the least that is said.
        process: as for `Lines`.
    """
    library, handler = logging.getLogger(LIBRARY), StandardError()
    handler.setFormatter(Lines(process))
    level_before, propagated = library.level, library.propagate
    library.setLevel(level)
    library.propagate = False  # handlers of the root, which some libraries add, would say everything twice
    library.addHandler(handler)
    try:
        yield
    finally:
        library.removeHandler(handler)
        library.propagate = propagated
        library.setLevel(level_before)
