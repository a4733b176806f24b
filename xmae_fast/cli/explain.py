"""`xmae-fast explain`: a thin layer over `xmae_fast.explain`."""

from __future__ import annotations

import argparse


def add_command(commands) -> None:
    """Add the command to the subparsers of the command line."""
    explain = commands.add_parser("explain", help="which implementation of every operator would run here, and why")
    explain.set_defaults(run=_explain)


def _explain(_: argparse.Namespace) -> None:
    from xmae_fast import explain

    print(explain())
