"""Finds the channels of PPG and ECG by their names, by number or by pattern."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Sequence

from xmae_fast.recordings.names import ADDED, USUAL_NAMES, plain, words

_LISTED = 24  # channels that a message names


def candidates(names: Sequence[str], kind: str, wanted: str | None = None) -> list[int]:
    """Find the channels that can be meant.

    Args:
        names: the names of all channels.
        kind: "PPG" or "ECG".
        wanted: a name, a number from 0, or a pattern with "*" or "?"; None looks for usual names of this kind.

    Returns:
        The numbers of the channels that suit best and equally well, in the order of the file; at least one.

    Raises:
        ValueError: there is no such channel; the message lists the names.
    """
    given = [name.strip() for name in names]
    listed = ", ".join(map(repr, given[:_LISTED])) or "none"
    listed += f" and {len(given) - _LISTED} others" if len(given) > _LISTED else ""
    if wanted is not None:
        if found := _asked_for(given, wanted.strip()):
            return found
        raise ValueError(f"expected a channel {wanted!r} for the {kind}, found {listed}")
    for pattern in ADDED[kind]:
        if found := _asked_for(given, pattern):
            return found
    for usual in USUAL_NAMES[kind]:
        form = plain if usual.whole else words
        if found := [i for i, name in enumerate(given) if usual.suits(form(name))]:
            return found
    option = f"--{kind.lower()} NAME or NUMBER"
    raise ValueError(f"expected a channel with a name of {kind}, found {listed}; {option} says which one it is")


def _asked_for(names: list[str], wanted: str) -> list[int]:
    """The channels of this name, in any case, with or without what stands before the last "/"; or else of this number,
    or else those that match it as a pattern."""
    if found := [i for i, name in enumerate(names) if name == wanted]:
        return found
    if found := [i for i, name in enumerate(names) if name.lower() == wanted.lower()]:
        return found
    if found := [i for i, name in enumerate(names) if name.rsplit("/", 1)[-1].lower() == wanted.lower()]:
        return found
    if re.fullmatch(r"\d+", wanted):
        return [int(wanted)] if int(wanted) < len(names) else []
    if re.search(r"[*?]", wanted):
        return [i for i, name in enumerate(names) if fnmatch.fnmatchcase(name.lower(), wanted.lower())]
    return []
