"""`xmae-fast embed`, `probe` and `reconstruct`: a thin layer over `xmae_fast.embedding` and `xmae_fast.evaluation`."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from xmae_fast.cli_shared import layout_of, named_files, print_report_files

_OUTPUT_HELP = (
    "pooled: mean of the encoder's tokens, which pretraining trains (default); projected: through a projection that"
    " pretraining does not train; tokens: all of them"
)
_MODEL_HELP = "folder of save_pretrained, run of pretrain, checkpoint file, or owner/name on the Hugging Face Hub"
_LINE_EVERY_S = 20.0


def add_commands(commands) -> None:
    """Add the commands to the subparsers of the command line."""
    embed = commands.add_parser(
        "embed",
        help="embeddings of all segments of shards, or of windows of recordings; goes on where it was interrupted",
        description="Processes under torchrun share the work: torchrun --nproc_per_node=8 -m xmae_fast.cli embed ...",
    )
    embed.add_argument("inputs", nargs="+", metavar="IN", help="shards, folders, patterns, URLs; or .npy, .npz of PPG")
    embed.add_argument("-o", "--out", required=True, metavar="OUT", help="folder of the embeddings")
    embed.add_argument("-m", "--model", required=True, metavar="MODEL", help=_MODEL_HELP)
    embed.add_argument("--output", choices=["pooled", "projected", "tokens"], default="pooled", help=_OUTPUT_HELP)
    embed.add_argument("--format", choices=["h5", "npy", "parquet"], default="h5", help="(default: %(default)s)")
    embed.add_argument("--dtype", choices=["float32", "float16"], default="float32", help="(default: %(default)s)")
    embed.add_argument("--quality", type=float, default=0.0, help="of shards, both signals (default: %(default)s, all)")
    embed.add_argument("--fs", type=float, metavar="HZ", help="of recordings")
    embed.add_argument("--hop", type=float, metavar="S", help="of recordings, window to window (default: side by side)")
    embed.add_argument("--tail", choices=["drop", "align"], default="drop", help="of recordings: what fills no window")
    embed.add_argument("--device", help="(default: a GPU if there is one)")
    embed.add_argument("--bf16", action="store_true", help="autocast the encoder to bfloat16")
    embed.add_argument("--batch-size", type=int, metavar="N", help="(default: 64 on a CPU, 1024 elsewhere)")
    embed.add_argument("--part-rows", type=int, metavar="N", help="segments of a part (default: 32 MiB of embeddings)")
    embed.add_argument("--overwrite", action="store_true", help="replace other embeddings in OUT")
    embed.add_argument("--columns", metavar="NAMES", help="of the published layout (default: time,ppg,ecg)")
    embed.add_argument("--cache-dir", metavar="DIR", help="for indexes (default: beside the shards)")
    embed.set_defaults(run=_embed)

    probe = commands.add_parser("probe", help="what a linear probe reads off embeddings, subject-wise; as a report")
    probe.add_argument("embeddings", metavar="EMBEDDINGS", help="folder of embed")
    probe.add_argument("labels", metavar="LABELS.csv", help="with a column key or subject")
    probe.add_argument("--label", required=True, metavar="COLUMN", help="to predict")
    probe.add_argument("-o", "--output", default="probe", metavar="FOLDER", help="of the report (default: %(default)s)")
    probe.add_argument("--task", choices=["regression", "classification"], help="(default: as the labels are)")
    probe.add_argument("--positive", metavar="VALUE", help="that counts as 1, all others as 0")
    probe.add_argument("--on", choices=["key", "subject"], help="to join on (default: key, if the table has it)")
    probe.add_argument("--per", choices=["segment", "subject"], default="segment", help="(default: %(default)s)")
    probe.add_argument("--within", action="store_true", help="changes of a subject only: less the subject's mean")
    probe.add_argument("--quality", type=float, default=0.0, help="of the PPG (default: %(default)s, all)")
    probe.add_argument(
        "--compare", action="append", default=[], metavar="NAME=FOLDER", help="other embeddings of the same segments"
    )
    probe.add_argument("--folds", type=int, default=5, help="(default: %(default)s)")
    probe.add_argument("--resamples", type=int, default=1000, metavar="N", help="of subjects (default: %(default)s)")
    probe.add_argument("--max-segments", type=int, default=100_000, metavar="N", help="0: all (default: %(default)s)")
    probe.add_argument("--seed", type=int, default=77, help="(default: %(default)s)")
    probe.set_defaults(run=_probe)

    draw = commands.add_parser("reconstruct", help="a picture of the ECG that a model makes of segments of shards")
    draw.add_argument("inputs", nargs="+", metavar="IN", help="shards, folders, patterns or URLs")
    draw.add_argument("-o", "--output", required=True, metavar="FILE.png", help="the picture")
    draw.add_argument("-m", "--model", required=True, metavar="MODEL", help=_MODEL_HELP)
    draw.add_argument("--segments", default="0,1,2", metavar="N,N", help="numbers (default: %(default)s)")
    draw.add_argument("--visible", default="0-2", metavar="S-S,S-S", help="seconds of ECG shown (default: %(default)s)")
    draw.add_argument("--quality", type=float, default=0.9, help="that both signals reach (default: %(default)s)")
    draw.set_defaults(run=_reconstruct)


def _embed(arguments: argparse.Namespace) -> None:
    import torch

    from xmae_fast.embedding import embed_files

    with _speed() as progress:
        report = embed_files(
            arguments.inputs,
            arguments.out,
            arguments.model,
            output=arguments.output,
            file_format=arguments.format,
            dtype=arguments.dtype,
            quality=arguments.quality,
            fs=arguments.fs,
            hop=arguments.hop,
            tail=arguments.tail,
            batch_size=arguments.batch_size,
            part_rows=arguments.part_rows,
            device=arguments.device,
            autocast=torch.bfloat16 if arguments.bf16 else None,
            overwrite=arguments.overwrite,
            layout=layout_of(arguments.columns),
            cache_dir=arguments.cache_dir,
            progress=progress,
        )
    print(report.describe())


def _probe(arguments: argparse.Namespace) -> None:
    from xmae_fast.evaluation import probe_embeddings
    from xmae_fast.evaluation.embedding_probe import summary

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


def _reconstruct(arguments: argparse.Namespace) -> None:
    import numpy as np

    from xmae_fast import from_pretrained
    from xmae_fast.data.segments import Segments
    from xmae_fast.embedding import reconstruct

    segments = Segments(arguments.inputs, quality=arguments.quality, exclude_prefixes=())
    items = np.array(_numbers("--segments", arguments.segments, int), np.int64)
    if not len(items) or items.min() < 0 or items.max() >= len(segments):
        raise ValueError(f"--segments: expected numbers from 0 to {len(segments) - 1}, got {arguments.segments}")
    ppg, ecg = np.zeros((2, len(items), segments.seq_len), np.float32)
    if not segments.read(items, 0, ppg, ecg).all():
        raise ValueError("--segments: expected segments that are good, got one that has gone bad since it was indexed")
    spans = [_numbers("--visible", span, float, "-") for span in arguments.visible.split(",") if span.strip()]
    found = reconstruct(from_pretrained(arguments.model), ppg, ecg, visible=spans)
    found.draw(arguments.output, range(len(items)))
    for item, error in zip(items.tolist(), found.error if found.error is not None else [], strict=False):
        print(f"segment {item}: mean squared error where hidden {error:.4f}")
    print(arguments.output)


def _numbers(name: str, text: str, kind: type, separator: str = ",") -> list:
    try:
        return [kind(part) for part in text.split(separator)]
    except ValueError:
        raise ValueError(f"{name}: expected numbers separated by {separator!r}, got {text!r}") from None


@contextmanager
def _speed() -> Iterator[Callable[[str, int, int | None], None] | None]:
    """A bar with segments/s and time left on a terminal; a line every 20 s elsewhere, so that a job's log tells."""
    told: dict[str, tuple[float, int, float]] = {}  # stage -> when it began, how much was there, when last told
    try:
        from rich import progress
        from rich.console import Console
        from rich.markup import escape
    except ImportError:
        progress = None
    rank = os.environ.get("RANK")
    if progress is None or not sys.stderr.isatty() or rank not in (None, "0"):

        def line(stage: str, done: int, total: int | None) -> None:
            now = time.monotonic()
            began, first, last = told.setdefault(stage, (now, done, now))
            if now - last >= _LINE_EVERY_S:
                told[stage] = began, first, now
                who = "" if rank is None else f"rank {rank}: "
                print(f"{who}{stage}: {done:,} of {total or 0:,}{_rate(now - began, done - first, total, done)}",
                      file=sys.stderr, flush=True)  # fmt: skip

        yield line
        return
    columns = progress.TextColumn("{task.description}"), progress.BarColumn(), progress.TaskProgressColumn()
    with progress.Progress(
        *columns, progress.TextColumn("{task.fields[rate]}"), console=Console(stderr=True), transient=True
    ) as shown:
        tasks: dict[str, progress.TaskID] = {}

        def bar(stage: str, done: int, total: int | None) -> None:
            now = time.monotonic()
            began, first, _ = told.setdefault(stage, (now, done, now))
            if stage not in tasks:
                tasks[stage] = shown.add_task(escape(stage), total=total, rate="")
            rate = _rate(now - began, done - first, total, done)
            shown.update(tasks[stage], completed=done, total=total, rate=rate, visible=done != total)

        yield bar


def _rate(seconds: float, done: int, total: int | None, so_far: int) -> str:
    """ ", 512 segments/s, 0:04:10 left"."""
    if not done or seconds <= 0:
        return ""
    left = "" if total is None else f", {_clock((total - so_far) * seconds / done)} left"
    return f", {done / seconds:,.0f} segments/s{left}"


def _clock(seconds: float) -> str:
    minutes, whole = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{whole:02d}"
