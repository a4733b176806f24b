"""How recordings are named in what is said of them, and which of many sentences say the same."""

from __future__ import annotations

import re
from collections.abc import Iterable


def printable(text: str) -> str:
    """A text without what UTF-8 cannot hold: names of files that are no UTF-8 get their bytes as \\xfc and the like."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def alike(sentences: Iterable[tuple[str, str]]) -> list[list[tuple[str, str]]]:
    """Groups of (the recording's name, a sentence) whose sentences differ in the recording and in numbers alone."""
    groups: dict[str, list[tuple[str, str]]] = {}
    for name, sentence in sentences:
        kind = re.sub(r"\d+([.,]\d+)*", "0", without_path(name, sentence).replace(name, ""))
        groups.setdefault(kind, []).append((name, sentence))
    return list(groups.values())


def without_path(name: str, sentence: str) -> str:
    """A sentence without the path of the recording with which it begins."""
    path, colon, rest = sentence.partition(f"{name}: ")
    return rest if colon and ": " not in path else sentence
