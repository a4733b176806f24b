"""What was run, when and where, for the head of a report. Neither the host's name nor absolute paths are in it."""

from __future__ import annotations

import os
import platform
import re
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from pathlib import PurePath

_COMMAND: ContextVar[tuple[str, ...]] = ContextVar("command", default=())
_PACKAGES = ("torch", "numpy")


@contextmanager
def running(words: Sequence[str]) -> Iterator[None]:
    """Say that what runs inside is this command, so that reports name it; the program is the first word."""
    token = _COMMAND.set(tuple(words))
    try:
        yield
    finally:
        _COMMAND.reset(token)


def run_facts(python: str) -> dict[str, str]:
    """Command, versions, date and machine of this run, as plain texts.

    Args:
        python: what stands for the command where a caller in Python runs the work, such as "evaluate(...)".
    """
    from xmae_fast._environment import cpu_name, package_version, usable_processors
    from xmae_fast._version import __version__

    words = _COMMAND.get()
    others = [f"{package} {version}" for package in _PACKAGES if (version := package_version(package))]
    versions = [f"xmae_fast {__version__}", *others, f"Python {platform.python_version()}"]
    return {
        "command": shown_command(words) if words else f"{python} in Python",
        "version": ", ".join(versions),
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "machine": f"{cpu_name()}, {usable_processors()} processors, {platform.system()}",
    }


def shown_command(words: Sequence[str]) -> str:
    """A command line in which absolute paths are cut to their last parts, as pages are shown to others."""
    return " ".join(shlex.quote(_shown(word)) for word in words)


def _shown(word: str) -> str:
    """A word without the folders of an absolute path, also where it is the value of `--option=` or `name=`."""
    found = re.fullmatch(r"((?:-{0,2}[\w.-]+=)?)(.*)", word, re.DOTALL)
    if found is None:
        return word
    start, value = found.groups()
    if not os.path.isabs(os.path.expanduser(value)):
        return word
    return start + (PurePath(value).name or value)
