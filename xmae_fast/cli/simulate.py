"""`xmae-fast simulate`: a thin layer over `xmae_fast.data.simulate`."""

from __future__ import annotations

import argparse
from pathlib import Path

from xmae_fast.cli.progress import progress_bars


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
    from xmae_fast.data import SimulationCfg, simulate
    from xmae_fast.simulation.replacing import finished_shards, make_room

    if arguments.rhythms:
        return _simulate_rhythms(arguments)
    segments = 20 if arguments.segments is None else arguments.segments
    folder, size = Path(arguments.output), (arguments.subjects, segments)
    cfg = SimulationCfg(pvc_probability=arguments.pvc_probability or 0.0, pat_coupling=arguments.pat_coupling or 0.0)
    paths = [] if arguments.overwrite else finished_shards(folder, *size, seed=arguments.seed, cfg=cfg)
    if not paths:
        folder.mkdir(parents=True, exist_ok=True)
        if not arguments.overwrite:
            make_room(folder, "sim", overwrite=False)  # refuses before anything is computed
        with progress_bars() as progress:
            simulation = simulate(*size, seed=arguments.seed, cfg=cfg, progress=progress)
            paths = simulation.write_shards(folder, overwrite=arguments.overwrite)
    else:
        print("this was finished already, nothing was done:")
    for path in paths:
        print(path)


def _simulate_rhythms(arguments: argparse.Namespace) -> None:
    from xmae_fast.simulation.population import PopulationCfg, write_population
    from xmae_fast.simulation.population.shards import DATASET
    from xmae_fast.simulation.replacing import finished_shards, make_room

    for name in ("pvc_probability", "pat_coupling"):
        if getattr(arguments, name) is not None:
            raise ValueError(f"{name}: expected none with --rhythms, whose patients have their own, got it")
    cfg = PopulationCfg(segments_per_subject=4 if arguments.segments is None else arguments.segments)
    folder, size = Path(arguments.output), (arguments.subjects, cfg.segments_per_subject)
    options = {"seed": arguments.seed, "cfg": cfg, "dataset": DATASET}
    paths = [] if arguments.overwrite else finished_shards(folder, *size, **options)
    if not paths:
        if not arguments.overwrite:
            make_room(folder, DATASET, overwrite=False)  # refuses before anything is computed
        with progress_bars() as progress:
            paths = write_population(
                folder, arguments.subjects, overwrite=arguments.overwrite, progress=progress, **options
            )
    else:
        print("this was finished already, nothing was done:")
    for path in paths:
        print(path)
