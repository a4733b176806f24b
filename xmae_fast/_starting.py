"""Ctrl-C while the command `xmae-fast` still imports torch, which takes seconds: one line instead of a traceback."""

from __future__ import annotations

import os
import sys
from types import TracebackType

_MODULES = ("xmae_fast", "xmae_fast.cli")


def is_command(words: list[str]) -> bool:
    """Whether the words with which Python was started run the command line of this package."""
    if "-m" in words[1:]:
        return words[words.index("-m", 1) + 1 :][:1] in ([name] for name in _MODULES)
    return any(os.path.basename(word) == "xmae-fast" for word in words[:2])


def say_interrupted(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Say in one line that Ctrl-C has ended the command; Python then ends as a process that SIGINT has ended."""
    if issubclass(kind, KeyboardInterrupt):
        print("xmae-fast: interrupted by Ctrl-C before it began, nothing was written", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


if is_command(sys.orig_argv):
    sys.excepthook = say_interrupted
