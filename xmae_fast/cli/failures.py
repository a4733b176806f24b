"""How commands end that fail: one line on standard error, in the words of the command line, and an exit code."""

from __future__ import annotations

import argparse
import errno
import re
from collections.abc import Mapping

from xmae_fast._full_disk import says_full
from xmae_fast.cli.parsing import options_by_name

FAILED, BAD_INPUT, SYSTEM = 1, 2, 3
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_SYSTEM = (*_FULL, errno.EIO, errno.EROFS, errno.ENOMEM, errno.EMFILE, errno.ENFILE)
_NO_MEMORY = re.compile(r"out of memory|can't allocate memory|not enough memory|Cannot allocate memory", re.IGNORECASE)
GOES_ON = "the same command goes on where it was"  # for the default `goes_on` of commands


def known_failure(error: Exception, arguments: argparse.Namespace) -> tuple[int, str] | None:
    """The exit code and the message of an error that is no fault of this program; None for others.

    Args:
        error: what a command has raised.
        arguments: of the command.
    """
    if (isinstance(error, OSError) and error.errno in _FULL) or says_full(error):
        where = output_of(arguments)
        what = "no space is left on the disk" + (f" for {where}" if where else "")
        return SYSTEM, f"{what}; {what_to_do(arguments, 'with more space ')} ({_one_line(error)})"
    if isinstance(error, MemoryError) or (isinstance(error, (RuntimeError, OSError)) and _NO_MEMORY.search(str(error))):
        detail = f" ({_one_line(error)})" if str(error) else ""
        return SYSTEM, f"there is not enough memory; {what_to_do(arguments, 'with more memory ')}{detail}"
    if isinstance(error, OSError) and error.errno in _SYSTEM:
        return SYSTEM, _one_line(error)
    if isinstance(error, (ValueError, TypeError, OSError, ImportError)) or _is_backend_error(error):
        text = _one_line(error) if isinstance(error, OSError) else str(error)
        return BAD_INPUT, in_options(text, options_by_name(arguments))
    return None


def what_to_do(arguments: argparse.Namespace, when: str = "") -> str:
    """How the work of a command goes on after it has ended early.

    Args:
        arguments: of the command.
        when: is put before the words that say it, such as "with more space ".
    """
    goes_on = getattr(arguments, "goes_on", None)
    if goes_on is None:
        return f"nothing was written; {when}the same command begins again"
    return f"{when}{goes_on(arguments) if callable(goes_on) else goes_on}"


def output_of(arguments: argparse.Namespace) -> str | None:
    """What the command was asked to write to; None if it writes nothing."""
    named = (getattr(arguments, name, None) for name in ("out", "runs", "output", "json"))
    return next((str(name) for name in named if name), None)


def in_options(message: str, options: Mapping[str, str]) -> str:
    """A message for callers in Python in the words of the command line.

    Args:
        message: such as "fs, hop: expected ..." or "... is there (overwrite=True replaces it)".
        options: the options by the names of arguments in Python.
    """
    names = "|".join(map(re.escape, sorted(options, key=len, reverse=True)))
    first = re.match(rf"((?:{names})(?:, (?:{names}))*): ", message)
    if first:
        start = ", ".join(options[name] for name in first[1].split(", "))
        message = f"{start}: {message[first.end() :]}"

    def option(found: re.Match) -> str:
        name, value = options[found["name"]], found["value"].strip("'\"")
        if value in ("True", "False"):
            return name if value == "True" else f"no {name}"
        return f"{name} {value}"

    value = r"(?P<value>True|False|'[^']*'|\"[^\"]*\"|-?\d[\d.e+-]*\b)"
    message = re.sub(rf"(?<![\w.'-])(?P<name>{names})={value}", option, message)
    return re.sub(r"from_pretrained\(('[^']*')\) takes a file", r"\1 can be given", message)


def _is_backend_error(error: Exception) -> bool:
    return type(error).__name__ == "BackendError"  # its module would import torch


def _one_line(error: Exception) -> str:
    """The text of an error without line breaks, and without the number that OSError puts before it."""
    return re.sub(r"^\[Errno \d+\] ", "", " ".join(str(error).split())) or type(error).__name__
