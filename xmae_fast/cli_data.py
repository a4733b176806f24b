"""`xmae-fast repack` and `xmae-fast inspect`: a thin layer over the functions of `xmae_fast.data`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from xmae_fast.cli_shared import layout_of, progress_bars


def add_commands(commands) -> None:
    """Add both commands to the subparsers of the command line."""
    repack = commands.add_parser("repack", help="copy shards of any layout to one packed file, or verify such a file")
    repack.add_argument("shards", nargs="*", metavar="IN", help="files, folders, patterns or URLs")
    repack.add_argument("-o", "--output", metavar="OUT.h5", help="the packed file")
    repack.add_argument("--verify", metavar="FILE", help="only compare a packed file with its checksums")
    repack.add_argument("--quality", type=float, default=0.0, help="that both signals reach (default: %(default)s)")
    repack.add_argument("--subjects", metavar="FILE|NAMES", help="to keep: a file of names, one a line, or name,name")
    repack.add_argument("--dtype", choices=["float16", "float32", "float64"], help="to convert to (default: as stored)")
    repack.add_argument("--on-bad", choices=["skip", "raise"], default="skip", help="(default: %(default)s)")
    repack.add_argument("--overwrite", action="store_true", help="replace the output if it is there")
    repack.add_argument("--threads", type=int, metavar="N", help="that copy (default: 1, or 2 on 8 processors or more)")
    repack.set_defaults(run=_repack)

    inspect = commands.add_parser("inspect", help="what shards hold, how good it is, and what a loader would use of it")
    inspect.add_argument("shards", nargs="+", metavar="IN", help="files, folders, patterns or URLs")
    inspect.add_argument("--quality", type=float, default=0.9, help="that both signals reach (default: %(default)s)")
    inspect.add_argument("--json", metavar="FILE", help="write the report there too")
    inspect.add_argument("--picture", metavar="FILE.png", help="draw examples of used and of rejected segments")
    inspect.set_defaults(run=_inspect)
    for command in (repack, inspect):
        command.add_argument("--columns", metavar="NAMES", help="of the published layout (default: time,ppg,ecg)")
        command.add_argument("--cache-dir", metavar="DIR", help="for indexes (default: beside the shards)")


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
        )
    print(report.describe())


def _inspect(arguments: argparse.Namespace) -> None:
    from xmae_fast.atomic import atomic_path
    from xmae_fast.data import draw_examples, inspect_shards, print_report
    from xmae_fast.data.inspection_report import import_rich
    from xmae_fast.written import check_replaceable, is_json_of, is_picture

    import_rich()
    for file, is_own, what in (
        (arguments.json, lambda file: is_json_of(file, "shards", "problem_records"), "a report of xmae-fast inspect"),
        (arguments.picture, is_picture, "a picture of xmae-fast"),
    ):
        if file is not None:
            check_replaceable(file, is_own, what, "inspect")
    options = {"layout": layout_of(arguments.columns), "cache_dir": arguments.cache_dir, "quality": arguments.quality}
    with progress_bars() as progress:
        report = inspect_shards(arguments.shards, progress=progress, **options)
    if arguments.json is not None:
        with atomic_path(arguments.json) as temporary:
            temporary.write_text(json.dumps(report.to_dict(), indent=2) + "\n", encoding="utf-8")
    print_report(report)
    if arguments.picture is not None:
        draw_examples(arguments.shards, arguments.picture, **options)


def _subjects(given: str | None) -> list[str] | None:
    """Names of a file's lines, or separated by commas."""
    if given is None:
        return None
    names = Path(given).read_text(encoding="utf-8").splitlines() if Path(given).is_file() else given.split(",")
    return [name.strip() for name in names if name.strip()]
