"""Prepare recordings of PPG and ECG, pretrain xMAE models on them, embed, evaluate and export.

Every command ends with one of these exit codes: 0, the work is done; 1, a part of it failed, or nothing is in the
result; 2, arguments or inputs are bad; 3, the system has no room on the disk or in memory, or refuses to write; 130 or
143, Ctrl-C (SIGINT) or SIGTERM has ended it. Whatever the reason, it is one line on standard error. Results go to
standard output. What is said beside them goes to standard error by logging, under the name `xmae_fast`: -q leaves
warnings and errors of it, -v adds what the library notes while it works.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import time
import warnings
from contextlib import suppress

from xmae_fast._messages import said_on_stderr
from xmae_fast.cli import (
    embed,
    env,
    evaluate,
    explain,
    export,
    inspect,
    prepare,
    pretrain,
    probe,
    reconstruct,
    repack,
    simulate,
)
from xmae_fast.cli.completion import PrintCompletion
from xmae_fast.cli.failures import known_failure, what_to_do
from xmae_fast.cli.interrupts import Interrupts
from xmae_fast.cli.messages import add_verbosity, level_of, say
from xmae_fast.cli.parsing import Parser
from xmae_fast.cli.version import Version
from xmae_fast.reports.run import running

_COMMANDS = (explain, env, simulate, repack, inspect, prepare, embed, probe, reconstruct, evaluate, pretrain, export)


def parser() -> argparse.ArgumentParser:
    """The parser of the command line."""
    top = Parser(prog="xmae-fast", description=(__doc__ or "").partition("\n")[0])
    top.add_argument("--version", action=Version, help="versions of package and torch, CPU kernels, CUDA")
    top.add_argument(
        "--print-completion", action=PrintCompletion, help="a script by which a shell completes what is typed"
    )
    add_verbosity(top, default=False)
    commands = top.add_subparsers(required=True, metavar="COMMAND", parser_class=Parser)
    for command in _COMMANDS:
        command.add_command(commands)
    for own in commands.choices.values():
        add_verbosity(own)
        own.set_defaults(parser=own)
    return top


def main(argv: list[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: words of the command line after the program; None for those of this process.

    Returns:
        The exit status, as the docstring of this module lists them.
    """
    arguments = parser().parse_args(argv)
    began = time.monotonic()
    process = f"rank {os.environ['RANK']}" if "RANK" in os.environ else ""
    words = sys.argv[1:] if argv is None else argv
    with (
        said_on_stderr(level_of(arguments), process),
        Interrupts() as interrupts,
        warnings.catch_warnings(),
        running(["xmae-fast", *words]),
    ):
        _say_warnings()
        try:
            status = arguments.run(arguments) or 0
            say(f"{arguments.parser.prog} took {time.monotonic() - began:.2f} s", logging.DEBUG)
            if sys.stdout is not None:
                sys.stdout.flush()
            return status
        except BrokenPipeError:
            _drop_output()
            return 0
        except KeyboardInterrupt:
            return _interrupted(interrupts, arguments)
        except Exception as error:
            if interrupts.received:  # a library has turned the interruption into its own error
                return _interrupted(interrupts, arguments)
            failure = known_failure(error, arguments)
            if failure is None:
                raise
            say(failure[1])
            _drop_output()
            return failure[0]


def _interrupted(interrupts: Interrupts, arguments: argparse.Namespace) -> int:
    number = interrupts.received or signal.SIGINT  # where a caller has raised KeyboardInterrupt
    how = "Ctrl-C" if number == signal.SIGINT else "SIGTERM"
    say(f"interrupted by {how}; {what_to_do(arguments)}")
    return 128 + number


def _drop_output() -> None:
    """Drop what standard output has not taken where it takes no more, as after `| head`: else Python says so as it
    ends."""
    if sys.stdout is None:
        return
    try:
        sys.stdout.flush()
    except OSError:
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _say_warnings() -> None:
    """Show each warning once, as one line, without the source line from which it came."""
    said: set[str] = set()
    usual = warnings.showwarning
    if getattr(usual, "__module__", "") != "warnings":
        return  # a caller of `main` collects them

    def show(message, category, filename, lineno, file=None, line=None) -> None:
        text = " ".join(str(message).split())
        if text not in said and not issubclass(category, (DeprecationWarning, FutureWarning)):
            said.add(text)
            say(text, logging.WARNING)

    warnings.showwarning = show
