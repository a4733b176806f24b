"""`xmae-fast probe`: a thin layer over `xmae_fast.evaluation.probe_embeddings`."""

from __future__ import annotations

import argparse

from xmae_fast.cli.shared import AGAIN, named_files, print_report_files


def add_command(commands) -> None:
    """Add the command to the subparsers of the command line."""
    probe = commands.add_parser(
        "probe", help="a report on how well a linear probe predicts labels from embeddings, for unseen subjects"
    )
    probe.add_argument("embeddings", metavar="EMBEDDINGS", help="folder that embed wrote")
    probe.add_argument("labels", metavar="LABELS.csv", help="table with a column key or subject")
    probe.add_argument("--label", required=True, metavar="COLUMN", help="column of the labels")
    probe.add_argument(
        "-o", "--output", default="probe", metavar="FOLDER", help="where the report goes (default: %(default)s)"
    )
    probe.add_argument("--task", choices=["regression", "classification"], help="(default: what the labels suit)")
    probe.add_argument("--positive", metavar="VALUE", help="value that counts as 1, while all others count as 0")
    probe.add_argument("--on", choices=["key", "subject"], help="column to join on (default: key, if the table has it)")
    probe.add_argument(
        "--per",
        choices=["segment", "subject"],
        default="segment",
        help="what to predict labels for (default: %(default)s)",
    )
    probe.add_argument(
        "--within", action="store_true", help="only changes within a subject: subtract the subject's mean first"
    )
    probe.add_argument("--quality", type=float, default=0.0, help="that the PPG reaches (default: %(default)s, all)")
    probe.add_argument(
        "--compare",
        action="append",
        default=[],
        metavar="NAME=FOLDER",
        help="further embeddings of the same segments; repeatable",
    )
    probe.add_argument("--folds", type=int, default=5, help="folds of subjects (default: %(default)s)")
    probe.add_argument(
        "--resamples", type=int, default=1000, metavar="N", help="resamples of subjects (default: %(default)s)"
    )
    probe.add_argument("--max-segments", type=int, default=100_000, metavar="N", help="0: all (default: %(default)s)")
    probe.add_argument("--seed", type=int, default=77, help="(default: %(default)s)")
    probe.set_defaults(run=_probe, goes_on=AGAIN)


def _probe(arguments: argparse.Namespace) -> None:
    from xmae_fast.evaluation import probe_embeddings
    from xmae_fast.evaluation.probes.embeddings import summary

    told = probe_embeddings(
        arguments.embeddings,
        arguments.labels,
        arguments.label,
        arguments.output,
        task=arguments.task,
        positive=arguments.positive,
        on=arguments.on,
        per=arguments.per,
        within=arguments.within,
        quality=arguments.quality,
        compare=named_files(arguments.compare, "--compare"),
        folds=arguments.folds,
        resamples=arguments.resamples,
        max_segments=arguments.max_segments or None,
        seed=arguments.seed,
    )
    print(summary(told))
    print_report_files(arguments.output)
