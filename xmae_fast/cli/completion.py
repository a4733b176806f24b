"""`xmae-fast --print-completion SHELL`: a script by which a shell completes commands, options, files and folders."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from xmae_fast._messages import said_on_stderr
from xmae_fast._optional import need
from xmae_fast.cli.messages import say

SHELLS = ("bash", "zsh", "tcsh")
# How arguments are called whose values are paths; shells complete these.
FILES = frozenset((
    "IN", "MODEL", "CHECKPOINT", "FILE", "FILE.png", "FILE.html", "FILE.npz", "FILE.yaml", "FILE.yaml|NAME",
    "LABELS.csv", "OUT", "OUT.h5", "FILE|NAMES",
))  # fmt: skip
FOLDERS = frozenset(("FOLDER", "DIR", "EMBEDDINGS", "RUNS"))


class PrintCompletion(argparse.Action):
    """Print `completion_script` for a shell and exit: with 0, or with 2 where shtab is missing."""

    def __init__(self, option_strings: list[str], dest: str, help: str | None = None) -> None:
        about = f"{help}: {', '.join(SHELLS)}"
        super().__init__(option_strings, argparse.SUPPRESS, type=_shell, metavar="SHELL", help=about)

    def __call__(self, parser: argparse.ArgumentParser, _: object, shell: object, __: object = None) -> None:
        try:
            script = completion_script(parser, str(shell))
        except ImportError as error:
            with said_on_stderr():
                say(str(error))
            parser.exit(2)
        print(script)
        parser.exit()


def _shell(name: str) -> str:
    if name not in SHELLS:
        raise argparse.ArgumentTypeError(f"invalid choice: {name!r} (choose from {', '.join(SHELLS)})")
    return name


def completion_script(parser: argparse.ArgumentParser, shell: str) -> str:
    """The script for a shell, as shtab writes it.

    Args:
        parser: of the program. Its arguments are marked as shtab expects it.
        shell: one of `SHELLS`.

    Raises:
        ImportError: shtab is not installed.
    """
    shtab = need("shtab", "completion needs", "completion")
    for action in _arguments(parser):
        if kind := shtab.FILE if action.metavar in FILES else shtab.DIRECTORY if action.metavar in FOLDERS else None:
            action.complete = kind  # type: ignore[attr-defined]
    return shtab.complete(parser, shell)


def _arguments(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """All arguments of a parser and of its commands."""
    for action in parser._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from _arguments(command)
