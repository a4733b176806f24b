"""Whose a recording is, by its path."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath

from xmae_fast.recordings.sources import Source


def check_subject_rule(rule: str) -> None:
    """Raise ValueError unless `rule` is "name", "folder" or a regular expression."""
    try:
        re.compile(rule)
    except re.error as error:
        expected = "expected 'name', 'folder' or a regular expression"
        raise ValueError(f"subject: {expected}, got {rule!r} ({error})") from None


def subject_from_path(source: Source, rule: str) -> str:
    """The subject that a recording has by its name.

    Args:
        source: the recording.
        rule: "name" takes the name without its suffix, "folder" the folder that the recording lies in. Anything else is
            a regular expression, which is searched in the name; its first group, or the whole match, is taken.

    Raises:
        ValueError: the rule finds nothing.
    """
    if rule == "name":
        return source.stem
    if rule == "folder":
        parent = PurePosixPath(source.name).parent.name or Path(source.path).parent.name
        if not parent:
            raise ValueError(f"subject: expected a recording in a folder, got {source.name!r}")
        return parent
    match = re.search(rule, source.name)
    found = match and (match.group(1) if match.re.groups else match.group(0))
    if not found:
        raise ValueError(f"subject: expected a name that matches {rule!r}, got {source.name!r}")
    return found
