"""`xmae-fast pretrain`: a thin layer over `xmae_fast.training`."""

from __future__ import annotations

import argparse
import signal
from pathlib import Path

from xmae_fast._configs import config_names
from xmae_fast.cli.failures import FAILED
from xmae_fast.cli.messages import say

_ENDED = {"SIGTERM": 128 + signal.SIGTERM, "SIGINT": 128 + signal.SIGINT}


def add_command(commands) -> None:
    """Add the command to the subparsers of the command line."""
    pretrain = commands.add_parser(
        "pretrain",
        help="train an xMAE on shards, from a configuration to checkpoints",
        description="Everything about the run lies in RUNS/NAME. When SIGTERM or Ctrl-C stops it, last.ckpt is"
        " saved and --resume goes on. Exits with 1 when the loss is not finite.",
    )
    pretrain.add_argument(
        "-c", "--config", required=True, metavar="FILE.yaml|NAME",
        help=f"a YAML file, or one that comes with the package: {', '.join(config_names())}; see docs/pretraining.md",
    )  # fmt: skip
    pretrain.add_argument("-e", "--name", required=True, help="name of the run")
    pretrain.add_argument(
        "--set", action="append", default=[], dest="overrides", metavar="KEY=VALUE",
        help="replace a value of the file, such as lr=1e-3 or model_params.lag=gaussian, in YAML; repeatable",
    )  # fmt: skip
    pretrain.add_argument("--runs", default="runs", metavar="RUNS", help="folder of all runs (default: %(default)s)")
    pretrain.add_argument(
        "--resume", nargs="?", const="yes", choices=["yes", "auto"],
        help="go on from last.ckpt; auto goes on if it is there, and begins otherwise",
    )  # fmt: skip
    pretrain.add_argument("--overwrite", action="store_true", help="remove a run of that name first")
    pretrain.set_defaults(run=_pretrain, goes_on=_goes_on)


def _pretrain(arguments: argparse.Namespace) -> int:
    from xmae_fast.training import PretrainingError, pretrain, read_train_cfg

    cfg = read_train_cfg(arguments.config, arguments.overrides)
    try:
        result = pretrain(
            cfg,
            arguments.name,
            runs=arguments.runs,
            resume={"yes": True, "auto": "auto", None: False}[arguments.resume],
            overwrite=arguments.overwrite,
            quiet=arguments.quiet,
        )
    except PretrainingError as error:
        say(str(error))
        return FAILED
    if result.status in _ENDED:
        say(f"interrupted by {result.status}; {_goes_on(arguments)}")
    return _ENDED.get(result.status, 0)


def _goes_on(arguments: argparse.Namespace) -> str:
    """How an interrupted run goes on."""
    last = Path(arguments.runs) / arguments.name / "checkpoints" / "last.ckpt"
    if not last.is_file():
        return "the same command begins again"
    more = (
        ""
        if arguments.resume
        else "with --resume, and without --overwrite, "
        if arguments.overwrite
        else "with --resume "
    )
    return f"{more}the same command goes on from {last}"
