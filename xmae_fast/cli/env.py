"""`xmae-fast env`: what is installed here, for a report of a bug."""

from __future__ import annotations

import argparse


def add_command(commands) -> None:
    """Add the command to the subparsers of the command line."""
    env = commands.add_parser(
        "env",
        help="what is installed here, to be pasted into a report of a bug",
        description="Versions, processor, settings and the implementation of every operator. It names neither the"
        " machine nor its user, and no folder.",
    )
    env.set_defaults(run=_env)


def _env(_: argparse.Namespace) -> None:
    from xmae_fast import explain
    from xmae_fast._environment import describe_installation
    from xmae_fast.cli.version import describe_versions

    print(describe_versions())
    for name, value in describe_installation().items():
        print(f"{name}: {value}")
    print("operators:")
    for line in explain().splitlines():
        print(f"  {line}")
