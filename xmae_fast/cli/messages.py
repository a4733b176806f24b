"""What the commands say on standard error: usually messages, with -q only warnings and errors, with -v also what the
library notes while it works."""

from __future__ import annotations

import argparse
import logging

_log = logging.getLogger("xmae_fast.cli")


def add_verbosity(parser: argparse.ArgumentParser, default: object = argparse.SUPPRESS) -> None:
    """Add -q and -v, of which one may be given.

    Args:
        parser: of the program or of a command; both may stand before the command and after it.
        default: the value of both where they are not given. Commands set none, so that they leave what was given before
            them.
    """
    group = parser.add_mutually_exclusive_group()
    group.add_argument(
        "-q", "--quiet", action="store_true", default=default, help="say nothing but warnings and errors"
    )
    group.add_argument(
        "-v", "--verbose", action="store_true", default=default,
        help="also say which implementations run, which files are read and written, and how long stages take",
    )  # fmt: skip


def level_of(arguments: argparse.Namespace) -> int:
    """The least level that is said: WARNING with -q, DEBUG with -v, INFO otherwise."""
    return logging.WARNING if arguments.quiet else logging.DEBUG if arguments.verbose else logging.INFO


def say(text: str, level: int = logging.ERROR) -> None:
    """Say a line on standard error.

    Args:
        text: the line.
        level: INFO is not said with -q, and DEBUG only with -v.
    """
    _log.log(level, "%s", text)
