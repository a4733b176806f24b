"""`xmae-fast pretrain`: a thin layer over `xmae_fast.training`."""

from __future__ import annotations

import argparse
import signal
import sys

_ENDED = {"SIGTERM": 128 + signal.SIGTERM, "SIGINT": 128 + signal.SIGINT}


def add_command(commands) -> None:
    """Add the command to the subparsers of the command line."""
    pretrain = commands.add_parser(
        "pretrain",
        help="train an xMAE on shards, from a configuration to checkpoints",
        description="Everything about the run lies in RUNS/NAME. Exits with 0 when the run is over, 143 (130) when"
        " SIGTERM (Ctrl-C) stopped it, with last.ckpt saved and --resume to go on, 1 when the loss is not finite, 2 for"
        " bad input.",
    )
    pretrain.add_argument("-c", "--config", required=True, metavar="CONFIG.yaml", help="see docs/pretraining.md")
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
    pretrain.add_argument("--quiet", action="store_true", help="show nothing")
    pretrain.set_defaults(run=_pretrain)


def _pretrain(arguments: argparse.Namespace) -> None:
    from xmae_fast.backend import BackendError
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
        print(f"xmae-fast: {error}", file=sys.stderr)
        sys.exit(1)
    except BackendError as error:
        raise ValueError(error) from error
    if result.status in _ENDED:
        sys.exit(_ENDED[result.status])
