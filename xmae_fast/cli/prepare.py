"""`xmae-fast prepare`: a thin layer over `xmae_fast.data.prepare`."""

from __future__ import annotations

import argparse

from xmae_fast.cli.failures import FAILED, GOES_ON
from xmae_fast.cli.progress import progress_bars
from xmae_fast.cli.shared import add_html_argument, add_reading_arguments, add_subject_argument, check_html, reading_of


def add_command(commands) -> None:
    """Add the command to the subparsers of the command line."""
    prepare = commands.add_parser(
        "prepare", help="make shards of raw recordings: PulseDB .mat, WFDB, CSV, Parquet, EDF, NumPy"
    )
    prepare.add_argument("inputs", nargs="+", metavar="IN", help="recordings, folders of them, patterns")
    prepare.add_argument("-o", "--output", required=True, metavar="FOLDER", help="where shards and tables go")
    prepare.add_argument(
        "--dataset", default="data", metavar="NAME", help="first part of the names of groups (default: %(default)s)"
    )
    add_subject_argument(prepare)
    prepare.add_argument("--layout", choices=["packed", "published"], default="packed", help="(default: %(default)s)")
    prepare.add_argument(
        "--recipe",
        choices=["batched", "neurokit2"],
        default="batched",
        help="neurokit2 is slow, and batched is tested against it (default: %(default)s)",
    )
    prepare.add_argument(
        "--window", type=float, default=10.0, metavar="S", help="seconds of a window (default: %(default)g)"
    )
    prepare.add_argument("--hop", type=float, metavar="S", help="seconds between windows (default: a window)")
    prepare.add_argument(
        "--sampling-freq", type=float, default=100.0, metavar="HZ", help="rate of the shards (default: %(default)g)"
    )
    prepare.add_argument(
        "--quality",
        type=float,
        metavar="Q",
        help="reject windows of lower quality (default: keep all; loaders choose, by default at 0.9)",
    )
    prepare.add_argument(
        "--max-missing",
        type=float,
        default=0.05,
        metavar="SHARE",
        help="share of a window that may be missing (default: %(default)g)",
    )
    prepare.add_argument("--segments-per-shard", type=int, default=50_000, metavar="N", help="(default: %(default)s)")
    prepare.add_argument("--processes", type=int, metavar="N", help="(default: one per processor)")
    prepare.add_argument("--overwrite", action="store_true", help="replace the folder, and unfinished work, if there")
    prepare.add_argument(
        "--signals",
        choices=["both", "ppg"],
        default="both",
        help="ppg makes shards of PPG alone, also of recordings without ECG (default: %(default)s)",
    )
    prepare.add_argument(
        "--polarity",
        default="keep",
        metavar="WORD",
        help="keep, auto (turn round what is upside down) or flip, for both signals or as PPG,ECG, such as auto,keep"
        " (default: %(default)s, with a note)",
    )
    prepare.add_argument(
        "--pair",
        action="store_true",
        help="PPG and ECG of a recording are in two files of one folder, whose names differ by the words ppg (pleth,"
        " bvp) and ecg (ekg)",
    )
    add_reading_arguments(prepare)
    add_html_argument(prepare)
    prepare.set_defaults(run=_prepare, goes_on=GOES_ON, python_names={"window_s": "window", "hop_s": "hop"})


def _prepare(arguments: argparse.Namespace) -> int:
    from xmae_fast.data import prepare

    if arguments.html is not None:
        check_html(arguments.html, arguments.inputs, arguments.output)
    names = ("dataset", "subject", "layout", "recipe", "sampling_freq", "quality", "max_missing", "signals")
    options = {
        name: getattr(arguments, name) for name in (*names, "segments_per_shard", "processes", "overwrite", "pair")
    }
    with progress_bars() as progress:
        report = prepare(
            arguments.inputs,
            arguments.output,
            window_s=arguments.window,
            hop_s=arguments.hop,
            progress=progress,
            polarity=_polarity(arguments.polarity),
            **options,
            **reading_of(arguments),
        )
    print(report.describe())
    if not report.seconds:
        print("this was finished already, nothing was done")
    if arguments.html is not None:
        from xmae_fast.preparation.page import write_preparation_page

        write_preparation_page(arguments.output, arguments.html)
        print(arguments.html)
    return FAILED if report.errors or not report.segments else 0


def _polarity(text: str) -> str | tuple[str, str]:
    """The word of --polarity, or its two words."""
    first, comma, second = text.partition(",")
    return (first.strip(), second.strip()) if comma else first.strip()
