"""The error of checkpoints, and lists of what is wrong for its message."""

from __future__ import annotations

from collections.abc import Sequence

_SHOWN = 12


class CheckpointError(ValueError):
    """A checkpoint cannot be read or does not fit; the message names the file and what is wrong."""


def listed(lines: Sequence[str]) -> str:
    """The first lines, one below the other, and how many more there are."""
    more = f"\n  ... and {len(lines) - _SHOWN} more" if len(lines) > _SHOWN else ""
    return "\n  " + "\n  ".join(lines[:_SHOWN]) + more


def in_a_row(names: Sequence[object]) -> str:
    """The first names on one line, and how many more there are."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(str(name) for name in names[:_SHOWN]) + more


def first_line(error: Exception) -> str:
    """The first line of an error's message."""
    return str(error).strip().split("\n")[0]
