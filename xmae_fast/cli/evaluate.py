"""`xmae-fast evaluate`: a thin layer over `xmae_fast.evaluation.evaluate`."""

from __future__ import annotations

import argparse

from xmae_fast._shipped import DEFAULT_MODEL
from xmae_fast.cli.progress import progress_bars
from xmae_fast.cli.shared import AGAIN, MODEL_HELP, named_files, print_report_files

# Options for one of --data and --rhythm alone, with their defaults.
_OF_SHARDS: dict[str, object] = {
    "truth": None, "split": "test", "config": None, "mode": "anchor", "ratio": 0.8, "quality": 0.9,
    "max_segments": 1000,
}  # fmt: skip
_OF_RHYTHMS: dict[str, object] = {"fs": 100, "embedding": []}


def add_command(commands) -> None:
    """Add the command to the subparsers of the command line."""
    evaluate = commands.add_parser(
        "evaluate",
        help="a report on what a checkpoint learned: reconstruction, attention by lag, probes; or of rhythms",
        description="With --data, a report on reconstruction, attention and probes on shards. With --rhythm, what the"
        " embeddings tell of labelled rhythms, beside features made by hand and random weights.",
    )
    evaluate.add_argument(
        "checkpoint",
        nargs="?",
        metavar="CHECKPOINT",
        help=f"of a model with a bridge: {MODEL_HELP} (default: {DEFAULT_MODEL})",
    )
    evaluate.add_argument("--data", nargs="+", metavar="IN", help="shards, folders, patterns or URLs")
    evaluate.add_argument(
        "--rhythm", metavar="FILE", help="labelled segments: .npz, .mat or .csv with ppg, rhythm and subject"
    )
    evaluate.add_argument("--fs", type=float, metavar="HZ", help="of FILE (default: %(default)s)")
    evaluate.add_argument(
        "--embedding",
        action="append",
        metavar="NAME=FILE.npy",
        help="with --rhythm: further features [n, D] of its segments; repeatable",
    )
    evaluate.add_argument("-o", "--output", metavar="FOLDER", help="where the report goes (needed with --data)")
    evaluate.add_argument(
        "--truth",
        nargs="+",
        metavar="FILE.npz",
        help="true labels, as the simulator writes them (default: <shard>.truth.npz beside the shards)",
    )
    evaluate.add_argument(
        "--split",
        choices=["test", "val", "train", "all"],
        help="subjects to evaluate on (default: test)",
    )
    evaluate.add_argument(
        "--baseline-checkpoint",
        action="append",
        default=[],
        metavar="NAME=FILE",
        help="further checkpoint to compare with; repeatable",
    )
    evaluate.add_argument("--config", metavar="FILE.yaml", help="for checkpoints without their configuration")
    evaluate.add_argument("--mode", help="mode of the mask, as in pretraining (default: %(default)s)")
    evaluate.add_argument("--ratio", type=float, help="ratio of the mask (default: %(default)s)")
    evaluate.add_argument("--quality", type=float, help="that both signals reach (default: %(default)s)")
    evaluate.add_argument("--max-segments", type=int, metavar="N", help="0: all (default: %(default)s)")
    evaluate.add_argument(
        "--resamples", type=int, default=1000, metavar="N", help="resamples of subjects (default: %(default)s)"
    )
    evaluate.add_argument("--seed", type=int, default=77, help="of split, masks and resamples (default: %(default)s)")
    evaluate.set_defaults(**_OF_SHARDS, **_OF_RHYTHMS)
    evaluate.set_defaults(
        run=_evaluate,
        goes_on=AGAIN,
        python_names={"cfg": "config", "path_or_hub_id": "checkpoint", "baseline_checkpoints": "baseline_checkpoint"},
    )


def _evaluate(arguments: argparse.Namespace) -> None:
    if (arguments.rhythm is None) == (arguments.data is None):
        given = "neither" if arguments.rhythm is None else "both"
        raise ValueError(f"--data, --rhythm: expected one of them, got {given}")
    for name, default in (_OF_SHARDS if arguments.data is None else _OF_RHYTHMS).items():
        if getattr(arguments, name) != default:
            kind, other = ("--rhythm", "--data") if arguments.data is None else ("--data", "--rhythm")
            raise ValueError(f"{name}: expected none with {kind}, it is for {other}, got {getattr(arguments, name)}")
    if arguments.rhythm is not None:
        return _rhythm(arguments)
    if arguments.output is None:
        raise ValueError("--output: expected a folder for the report, got none")
    return _shards(arguments)


def _rhythm(arguments: argparse.Namespace) -> None:
    from xmae_fast.evaluation import evaluate_rhythm

    checkpoint = arguments.checkpoint or DEFAULT_MODEL
    others = named_files(arguments.baseline_checkpoint, "--baseline-checkpoint")
    with progress_bars() as progress:
        results = evaluate_rhythm(
            arguments.rhythm,
            {str(checkpoint): checkpoint, **others},
            arguments.output,
            fs=arguments.fs,
            embeddings=named_files(arguments.embedding, "--embedding"),
            resamples=arguments.resamples,
            seed=arguments.seed,
            progress=progress,
        )
    print(results["table"])
    if arguments.output is not None:
        print_report_files(arguments.output)


def _shards(arguments: argparse.Namespace) -> None:
    from xmae_fast._yaml import read_yaml
    from xmae_fast.evaluation import evaluate
    from xmae_fast.evaluation.report import summary

    with progress_bars() as progress:
        results = evaluate(
            arguments.checkpoint or DEFAULT_MODEL,
            arguments.data,
            arguments.output,
            truth=arguments.truth,
            split=arguments.split,
            baseline_checkpoints=named_files(arguments.baseline_checkpoint, "--baseline-checkpoint"),
            cfg=None if arguments.config is None else read_yaml(arguments.config),
            mode=arguments.mode,
            ratio=arguments.ratio,
            max_segments=arguments.max_segments or None,
            quality=arguments.quality,
            resamples=arguments.resamples,
            seed=arguments.seed,
            progress=progress,
        )
    print(summary(results))
    print_report_files(arguments.output)
