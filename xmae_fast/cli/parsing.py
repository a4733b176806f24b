"""The parser of the command line: an error shows the usage of the command that it is in, and the nearest name."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any, NoReturn

EXIT_CODES = (
    "exit codes: 0 done; 1 a part of the work failed, or there is nothing in the result; 2 bad arguments or input;"
    " 3 the system has no room on the disk or in memory, or refuses to write; 130 (143) interrupted by Ctrl-C (SIGTERM)"
)


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that names the option or the value that is nearest to an unknown one."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.epilog = EXIT_CODES

    def parse_known_args(self, args=None, namespace=None):
        """As argparse does; but unknown options of a command are an error here, where its usage is known."""
        namespace, unknown = super().parse_known_args(args, namespace)
        if unknown:
            options = [option for action in self._actions for option in action.option_strings]
            named = (self._nearest(word.partition("=")[0], options) for word in unknown if word.startswith("-"))
            self.error(f"unrecognized arguments: {' '.join(unknown)}{next(filter(None, named), '')}")
        if getattr(namespace, "quiet", False) and getattr(namespace, "verbose", False):  # one before the command
            self.error("argument -v/--verbose: not allowed with argument -q/--quiet")
        return namespace, unknown

    def error(self, message: str) -> NoReturn:
        """Print the usage and one line that says what is wrong, and exit with 2."""
        if found := re.search(r"invalid choice: '?(.*?)'? \(choose from (.*)\)$", message):
            message += self._nearest(found[1], [name.strip(" '") for name in found[2].split(",")])
        super().error(message)

    @staticmethod
    def _nearest(word: str, names: Iterable[str]) -> str:
        found = get_close_matches(word, names, 1)
        return f"; did you mean {found[0]}?" if found else ""


def options_by_name(arguments: argparse.Namespace) -> dict[str, str]:
    """The options of the command that was parsed, by the names of the arguments in Python that they set.

    Args:
        arguments: what the parser returned; `parser` is the command's own parser, and `python_names` gives the names of
            arguments in Python that differ from those of the options.
    """
    named = {}
    for action in arguments.parser._actions:
        longest = max(action.option_strings, key=len, default="")
        named[action.dest] = longest or str(action.metavar or action.dest)
    for python, dest in getattr(arguments, "python_names", {}).items():
        named[python] = named[dest]
    return named
