"""`xmae-fast evaluate`: a thin layer over `xmae_fast.evaluation.evaluate`."""

from __future__ import annotations

import argparse
from pathlib import Path

from xmae_fast.extras import need


def add_commands(commands) -> None:
    """Add the command to the subparsers of the command line."""
    evaluate = commands.add_parser(
        "evaluate", help="what a checkpoint learned: reconstruction, attention by lag, probes; as a report"
    )
    evaluate.add_argument("checkpoint", metavar="CHECKPOINT", help="with a bridge; .ckpt or .safetensors")
    evaluate.add_argument("--data", nargs="+", required=True, metavar="IN", help="shards, folders, patterns or URLs")
    evaluate.add_argument("-o", "--output", required=True, metavar="FOLDER", help="where the report goes")
    evaluate.add_argument(
        "--truth", nargs="+", metavar="FILE.npz", help="of the simulator (default: <shard>.truth.npz beside the shards)"
    )
    evaluate.add_argument("--split", choices=["test", "val", "train", "all"], default="test", help="(default: test)")
    evaluate.add_argument(
        "--baseline-checkpoint", action="append", default=[], metavar="NAME=FILE", help="to compare with; repeatable"
    )
    evaluate.add_argument("--config", metavar="FILE.yaml", help="for checkpoints without their configuration")
    evaluate.add_argument("--mode", default="anchor", help="of the mask, as in pretraining (default: %(default)s)")
    evaluate.add_argument("--ratio", type=float, default=0.8, help="of the mask (default: %(default)s)")
    evaluate.add_argument("--quality", type=float, default=0.9, help="that both signals reach (default: %(default)s)")
    evaluate.add_argument("--max-segments", type=int, default=1000, metavar="N", help="0: all (default: %(default)s)")
    evaluate.add_argument("--resamples", type=int, default=1000, metavar="N", help="of subjects (default: %(default)s)")
    evaluate.add_argument("--seed", type=int, default=77, help="of split, masks and resamples (default: %(default)s)")
    evaluate.set_defaults(run=_evaluate)


def _evaluate(arguments: argparse.Namespace) -> None:
    from xmae_fast.cli_data import progress_bars
    from xmae_fast.evaluation import evaluate
    from xmae_fast.evaluation.report import HTML, MARKDOWN, RESULTS, summary

    with progress_bars() as progress:
        results = evaluate(
            arguments.checkpoint,
            arguments.data,
            arguments.output,
            truth=arguments.truth,
            split=arguments.split,
            baseline_checkpoints=_named(arguments.baseline_checkpoint),
            cfg=None if arguments.config is None else _yaml(arguments.config),
            mode=arguments.mode,
            ratio=arguments.ratio,
            max_segments=arguments.max_segments or None,
            quality=arguments.quality,
            resamples=arguments.resamples,
            seed=arguments.seed,
            progress=progress,
        )
    print(summary(results))
    for name in (MARKDOWN, HTML, RESULTS):
        print(Path(arguments.output) / name)


def _named(given: list[str], argument: str = "--baseline-checkpoint") -> dict[str, str]:
    """["name=file", ...] -> {name: file}."""
    found: dict[str, str] = {}
    for text in given:
        name, equals, file = text.partition("=")
        if not (name and equals and file) or name in found:
            raise ValueError(f"{argument}: expected NAME=FILE, each name once, got {text!r}")
        found[name] = file
    return found


def _yaml(path: str) -> dict:
    yaml = need("yaml", "Configurations in YAML need", "train")
    try:
        return yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"--config: expected YAML in {path}: {error}") from error
