"""`xmae-fast env`: what is installed here, for a report of a bug."""

from __future__ import annotations

import argparse
from pathlib import Path


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

    lines = [describe_versions(), *(f"{name}: {value}" for name, value in describe_installation().items())]
    lines += ["operators:", *(f"  {line}" for line in explain().splitlines())]
    print(without_folders("\n".join(lines)))


def without_folders(text: str) -> str:
    """A text with names in place of the package's folder and of the user's, which messages of the system may hold."""
    for folder, name in ((Path(__file__).parents[1], "xmae_fast"), (Path.home(), "~")):
        if folder != Path(folder.anchor):
            text = text.replace(str(folder), name)
    return text
