"""`xmae-fast simulate`: a thin layer over `xmae_fast.data.simulate`."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from xmae_fast.cli.progress import progress_bars
from xmae_fast.workers.progress import Progress


def add_command(commands) -> None:
    """Add the command to the subparsers of the command line."""
    simulate = commands.add_parser(
        "simulate",
        help="write shards of simulated ECG + PPG with known pulse arrival times, or of patients with rhythms",
    )
    simulate.add_argument("-o", "--output", required=True, metavar="FOLDER", help="where the shards go")
    simulate.add_argument("--subjects", type=int, default=100, help="number of subjects (default: %(default)s)")
    simulate.add_argument(
        "--segments", type=int, help="segments of 10 s for each subject (default: 20; with --rhythms 4)"
    )
    simulate.add_argument(
        "--rhythms",
        action="store_true",
        help="patients with sinus rhythm, premature beats, tachycardias and atrial fibrillation, of all ages, sensors"
        " and faults (patients_*.h5)",
    )
    simulate.add_argument("--pvc-probability", type=float, help="that a beat is premature (default: 0)")
    simulate.add_argument(
        "--pat-coupling",
        type=float,
        help="how much the shape of a pulse tells its arrival time, 0 to 1 (default: 0)",
    )
    simulate.add_argument("--seed", type=int, default=77, help="(default: %(default)s)")
    simulate.add_argument("--overwrite", action="store_true", help="replace the shards of an earlier simulation there")
    simulate.set_defaults(
        run=_simulate, python_names={"num_subjects": "subjects", "segments_per_subject": "segments", "folder": "output"}
    )


def _simulate(arguments: argparse.Namespace) -> None:
    from xmae_fast.simulation.replacing import finished_shards, make_room

    work = _rhythms(arguments) if arguments.rhythms else _arrival_times(arguments)
    folder = Path(arguments.output)
    options = {"seed": arguments.seed, "cfg": work.cfg, "dataset": work.dataset}
    paths = [] if arguments.overwrite else finished_shards(folder, arguments.subjects, work.segments, **options)
    if not paths:
        folder.mkdir(parents=True, exist_ok=True)
        if not arguments.overwrite:
            make_room(folder, work.dataset, overwrite=False)  # refuses before anything is computed
        with progress_bars() as progress:
            paths = work.write(progress)
    else:
        print("this was finished already, nothing was done:")
    for path in paths:
        print(path)


class _Work(NamedTuple):
    """What is simulated: segments of each subject, settings, the beginning of the names of files, and what writes."""

    segments: int
    cfg: Any
    dataset: str
    write: Callable[[Progress], list[Path]]


def _arrival_times(arguments: argparse.Namespace) -> _Work:
    from xmae_fast.data import SimulationCfg, simulate

    segments = 20 if arguments.segments is None else arguments.segments
    cfg = SimulationCfg(pvc_probability=arguments.pvc_probability or 0.0, pat_coupling=arguments.pat_coupling or 0.0)

    def write(progress: Progress) -> list[Path]:
        made = simulate(arguments.subjects, segments, seed=arguments.seed, cfg=cfg, progress=progress)
        return made.write_shards(arguments.output, overwrite=arguments.overwrite)

    return _Work(segments, cfg, "sim", write)


def _rhythms(arguments: argparse.Namespace) -> _Work:
    from xmae_fast.simulation.population import PopulationCfg, write_population
    from xmae_fast.simulation.population.shards import DATASET

    for name in ("pvc_probability", "pat_coupling"):
        if getattr(arguments, name) is not None:
            raise ValueError(f"{name}: expected none with --rhythms, whose patients have their own, got it")
    cfg = PopulationCfg(segments_per_subject=4 if arguments.segments is None else arguments.segments)
    options = {"seed": arguments.seed, "cfg": cfg, "overwrite": arguments.overwrite}
    return _Work(
        cfg.segments_per_subject, cfg, DATASET,
        lambda progress: write_population(arguments.output, arguments.subjects, progress=progress, **options),
    )  # fmt: skip
