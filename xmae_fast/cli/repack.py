"""`xmae-fast repack`: a thin layer over `xmae_fast.data.repack`."""

from __future__ import annotations

import argparse
from pathlib import Path

from xmae_fast.cli.failures import GOES_ON
from xmae_fast.cli.progress import progress_bars
from xmae_fast.cli.shared import add_layout_arguments, layout_of


def add_command(commands) -> None:
    """Add the command to the subparsers of the command line."""
    repack = commands.add_parser("repack", help="copy shards of any layout to one packed file, or verify such a file")
    repack.add_argument("shards", nargs="*", metavar="IN", help="files, folders, patterns or URLs")
    repack.add_argument("-o", "--output", metavar="OUT.h5", help="the packed file")
    repack.add_argument("--verify", metavar="FILE", help="only compare a packed file with its checksums")
    repack.add_argument("--quality", type=float, default=0.0, help="that both signals reach (default: %(default)s)")
    repack.add_argument(
        "--subjects", metavar="FILE|NAMES", help="subjects to keep: a file with a name in each line, or name,name"
    )
    repack.add_argument(
        "--dtype", choices=["float16", "float32", "float64"], help="convert to this dtype (default: as stored)"
    )
    repack.add_argument(
        "--signals", choices=["both", "ppg"], help="ppg copies the PPG alone (default: what the shards have)"
    )
    repack.add_argument("--on-bad", choices=["skip", "raise"], default="skip", help="(default: %(default)s)")
    repack.add_argument("--overwrite", action="store_true", help="replace the output if it is there")
    repack.add_argument(
        "--threads", type=int, metavar="N", help="threads that copy (default: 1, or 2 on 8 processors or more)"
    )
    repack.set_defaults(run=_repack, goes_on=GOES_ON, python_names={"paths": "shards", "num_threads": "threads"})
    add_layout_arguments(repack)


def _repack(arguments: argparse.Namespace) -> None:
    from xmae_fast.data import repack, verify_packed

    if arguments.verify is not None:
        if arguments.shards or arguments.output is not None:
            raise ValueError("--verify: expected a packed file and neither shards nor --output")
        with progress_bars() as progress:
            checksums = verify_packed(arguments.verify, progress)
        for name, checksum in checksums.items():
            print(f"{name}: {checksum}")
        return
    if not arguments.shards or arguments.output is None:
        raise ValueError("repack: expected shards and -o OUT.h5, or --verify FILE")
    with progress_bars() as progress:
        report = repack(
            arguments.shards,
            arguments.output,
            quality=arguments.quality,
            subjects=_subjects(arguments.subjects),
            layout=layout_of(arguments.columns),
            cache_dir=arguments.cache_dir,
            on_bad=arguments.on_bad,
            dtype=arguments.dtype,
            num_threads=arguments.threads,
            progress=progress,
            overwrite=arguments.overwrite,
            signals=arguments.signals,
        )
    print(report.describe())
    if not report.seconds:
        print("this was finished already, nothing was done")


def _subjects(given: str | None) -> list[str] | None:
    """The names of subjects, from the lines of a file or separated by commas."""
    if given is None:
        return None
    names = Path(given).read_text(encoding="utf-8").splitlines() if Path(given).is_file() else given.split(",")
    return [name.strip() for name in names if name.strip()]
