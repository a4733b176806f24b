"""`xmae-fast ...`: a thin layer over the Python functions."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from xmae_fast import cli_data, cli_embedding, cli_evaluation, cli_export, cli_prepare, cli_training


def _explain(_: argparse.Namespace) -> None:
    from xmae_fast import explain

    print(explain())


def _simulate(arguments: argparse.Namespace) -> None:
    from xmae_fast.data import SimulationCfg, simulate

    folder = Path(arguments.output)
    folder.mkdir(parents=True, exist_ok=True)
    cfg = SimulationCfg(pvc_probability=arguments.pvc_probability, pat_coupling=arguments.pat_coupling)
    simulation = simulate(arguments.subjects, arguments.segments, seed=arguments.seed, cfg=cfg)
    for path in simulation.write_shards(folder, overwrite=arguments.overwrite):
        print(path)


def parser() -> argparse.ArgumentParser:
    """The command line's parser."""
    top = argparse.ArgumentParser(prog="xmae-fast", description=__doc__)
    commands = top.add_subparsers(required=True, metavar="COMMAND")

    explain = commands.add_parser("explain", help="which implementation of every operator would run here, and why")
    explain.set_defaults(run=_explain)

    simulate = commands.add_parser(
        "simulate", help="write shards of simulated ECG + PPG with known pulse arrival times"
    )
    simulate.add_argument("-o", "--output", required=True, metavar="FOLDER", help="where the shards go")
    simulate.add_argument("--subjects", type=int, default=100, help="number of subjects (default: %(default)s)")
    simulate.add_argument("--segments", type=int, default=20, help="10 s segments of each (default: %(default)s)")
    simulate.add_argument("--pvc-probability", type=float, default=0.0, help="of each beat (default: %(default)s)")
    simulate.add_argument(
        "--pat-coupling", type=float, default=0.0, help="of pulse shape to arrival time, 0 to 1 (default: %(default)s)"
    )
    simulate.add_argument("--seed", type=int, default=77, help="(default: %(default)s)")
    simulate.add_argument("--overwrite", action="store_true", help="replace the shards of an earlier simulation there")
    simulate.set_defaults(run=_simulate)
    cli_data.add_commands(commands)
    cli_prepare.add_commands(commands)
    cli_embedding.add_commands(commands)
    cli_evaluation.add_commands(commands)
    cli_training.add_commands(commands)
    cli_export.add_commands(commands)
    return top


def main(argv: list[str] | None = None) -> int:
    """Run one command; 0, 1 where it says that a part of the work failed, or 2 with one line on standard error for bad
    input."""
    arguments = parser().parse_args(argv)
    try:
        return arguments.run(arguments) or 0
    except (ValueError, TypeError, OSError, ImportError) as error:
        print(f"xmae-fast: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
