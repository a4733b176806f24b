"""Prepare recordings of PPG and ECG, pretrain xMAE models on them, embed, evaluate and export."""

from __future__ import annotations

import argparse
import sys

from xmae_fast.cli import (
    embed,
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
from xmae_fast.cli.version import Version

_COMMANDS = (explain, simulate, repack, inspect, prepare, embed, probe, reconstruct, evaluate, pretrain, export)


def parser() -> argparse.ArgumentParser:
    """The parser of the command line."""
    top = argparse.ArgumentParser(prog="xmae-fast", description=__doc__)
    top.add_argument("--version", action=Version, help="versions of package and torch, CPU kernels, CUDA")
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    for command in _COMMANDS:
        command.add_command(commands)
    return top


def main(argv: list[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: words of the command line after the program; None for those of this process.

    Returns:
        The exit status: 0, or 1 if the command says that a part of the work failed, or 2, with one line on standard
        error, for bad input.
    """
    arguments = parser().parse_args(argv)
    try:
        return arguments.run(arguments) or 0
    except (ValueError, TypeError, OSError, ImportError) as error:
        print(f"xmae-fast: {error}", file=sys.stderr)
        return 2
