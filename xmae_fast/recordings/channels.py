"""Finds the channels of PPG and ECG by their names, by number or by pattern."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Sequence

_LEADS = "i|ii|iii|mlii|ml2|v[1-6]?|mcl1?|av[rlf]"
# Patterns of usual names, best first. Names are compared without unit, case and what stands before the last "/".
USUAL_NAMES = {
    "PPG": (
        r"(raw[ _-]?)?(ppg|pleth|plethysmogra(m|ph)|bvp)([ _-]?(raw|record|wave|waveform|ir|red|green|sig|signal|\d))*",
    ),
    "ECG": (
        r"((ecg|ekg)[ _-]?(lead)?[ _-]?)?(ml)?ii",
        r"(raw[ _-]?)?(ecg|ekg)([ _-]?(raw|record|wave|waveform|sig|signal|\d))*",
        rf"((ecg|ekg)[ _-]?(lead)?[ _-]?)?({_LEADS})",
    ),
}


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
    plain = [name.strip() for name in names]
    listed = ", ".join(map(repr, plain)) or "none"
    if wanted is not None:
        if found := _asked_for(plain, wanted.strip()):
            return found
        raise ValueError(f"expected a channel {wanted!r} for the {kind}, found {listed}")
    short = [_short(name) for name in plain]
    for pattern in USUAL_NAMES[kind]:
        if found := [i for i, name in enumerate(short) if re.fullmatch(pattern, name)]:
            return found
    option = f"--{kind.lower()} NAME"
    raise ValueError(f"expected a channel with a name of {kind}, found {listed}; {option} says which one it is")


def _asked_for(names: list[str], wanted: str) -> list[int]:
    """The channels of this name, in any case, or else of this number, or else those that match it as a pattern."""
    if found := [i for i, name in enumerate(names) if name == wanted]:
        return found
    if found := [i for i, name in enumerate(names) if name.lower() == wanted.lower()]:
        return found
    if re.fullmatch(r"\d+", wanted):
        return [int(wanted)] if int(wanted) < len(names) else []
    if re.search(r"[*?]", wanted):
        return [i for i, name in enumerate(names) if fnmatch.fnmatchcase(name.lower(), wanted.lower())]
    return []


def _short(name: str) -> str:
    """A name in lower case, without its unit and what stands before the last "/"."""
    return re.sub(r"\s*[\[(].*[\])]$", "", name.rsplit("/", 1)[-1]).strip().lower()
