"""`xmae-fast embed`: a thin layer over `xmae_fast.embed_files`."""

from __future__ import annotations

import argparse
import logging
import os
import warnings
from pathlib import Path

from xmae_fast._shipped import DEFAULT_MODEL
from xmae_fast.cli.failures import FAILED, GOES_ON
from xmae_fast.cli.messages import say
from xmae_fast.cli.progress import progress_with_speed
from xmae_fast.cli.shared import (
    MODEL_HELP,
    add_html_argument,
    add_layout_arguments,
    add_reading_arguments,
    add_subject_argument,
    check_html,
    layout_of,
    reading_of,
)

_OUTPUT_HELP = (
    "pooled: mean of the encoder's tokens, which pretraining trains (default); projected: the same through a projection"
    " that pretraining does not train; tokens: all tokens"
)
_IN_HELP = "recordings of PPG in any format that prepare reads, folders of them, patterns; or shards, also by URL"
_SRUN = (
    "srun has started {} processes, which would all do the whole work: start them by srun torchrun, or give each its"
    " share by RANK=$SLURM_PROCID WORLD_SIZE=$SLURM_NTASKS"
)


def add_command(commands) -> None:
    """Add the command to the subparsers of the command line."""
    embed = commands.add_parser(
        "embed",
        help="embed all segments of shards, or windows of recordings; goes on where it was interrupted",
        description="Processes under torchrun share the work: torchrun --nproc_per_node=8 -m xmae_fast.cli embed ...",
    )
    embed.add_argument("inputs", nargs="+", metavar="IN", help=_IN_HELP)
    embed.add_argument("-o", "--out", required=True, metavar="OUT", help="folder of the embeddings")
    embed.add_argument("-m", "--model", metavar="MODEL", help=f"{MODEL_HELP} (default: {DEFAULT_MODEL})")
    embed.add_argument("--output", choices=["pooled", "projected", "tokens"], default="pooled", help=_OUTPUT_HELP)
    embed.add_argument("--format", choices=["h5", "npy", "parquet"], default="h5", help="(default: %(default)s)")
    embed.add_argument("--dtype", choices=["float32", "float16"], default="float32", help="(default: %(default)s)")
    embed.add_argument(
        "--quality", type=float, default=0.0, help="that the PPG of shards reaches (default: %(default)s, all)"
    )
    embed.add_argument(
        "--hop", type=float, metavar="S", help="seconds between windows of recordings (default: a window)"
    )
    embed.add_argument(
        "--tail",
        choices=["drop", "align"],
        default="drop",
        help="what to do with an end that fills no window: leave it out, or end a window there (default: %(default)s)",
    )
    embed.add_argument(
        "--polarity",
        choices=["keep", "auto", "flip"],
        default="keep",
        help="turn recordings round that are upside down (auto), or all (flip) (default: %(default)s, with a note)",
    )
    add_subject_argument(embed)
    embed.add_argument("--device", help="(default: a GPU if there is one)")
    embed.add_argument("--bf16", action="store_true", help="run the encoder in bfloat16 (files keep --dtype)")
    embed.add_argument("--batch-size", type=int, metavar="N", help="(default: 64 on a CPU, 1024 elsewhere)")
    embed.add_argument("--part-rows", type=int, metavar="N", help="segments in a part (default: 32 MiB of embeddings)")
    embed.add_argument("--overwrite", action="store_true", help="replace other embeddings in OUT")
    add_html_argument(embed)
    embed.set_defaults(
        run=_embed,
        goes_on=GOES_ON,
        python_names={"paths": "inputs", "path_or_hub_id": "model", "folder": "out", "file_format": "format"},
    )
    add_reading_arguments(embed, ecg=False)
    add_layout_arguments(embed)


def _embed(arguments: argparse.Namespace) -> int:
    import torch

    from xmae_fast._processes import started_by_srun
    from xmae_fast.embedding import embed_files
    from xmae_fast.recordings import RecordingError

    if (tasks := started_by_srun()) > 1 and "RANK" not in os.environ:
        raise ValueError(_SRUN.format(tasks))

    if arguments.html is not None:
        from xmae_fast.embedding.page import need_packages

        need_packages()
        check_html(arguments.html, arguments.inputs, arguments.out)
    if arguments.model is None:
        about = (
            f"model: {DEFAULT_MODEL}, which comes with the package: trained on simulated signals alone, for research"
        )
        say(about, logging.INFO)
    same = ("output", "dtype", "quality", "hop", "tail", "polarity", "subject", "batch_size", "part_rows", "device",
            "overwrite", "cache_dir")  # fmt: skip
    with progress_with_speed() as progress, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "segments: expected ")  # the report says it of shards
        try:
            report = embed_files(
                arguments.inputs,
                arguments.out,
                arguments.model or DEFAULT_MODEL,
                file_format=arguments.format,
                autocast=torch.bfloat16 if arguments.bf16 else None,
                layout=layout_of(arguments.columns),
                progress=progress,
                **{name: getattr(arguments, name) for name in same},
                **reading_of(arguments),
            )
        except RecordingError as error:
            say(str(error))
            return FAILED
    print(report.describe())
    if report.complete and report.rows and not report.written:
        print("this was finished already, nothing was done")
    if arguments.html is not None:
        _write_html(arguments, report.complete)
    return FAILED if report.errors or not report.rows else 0


def _write_html(arguments: argparse.Namespace, complete: bool) -> None:
    from xmae_fast.embedding.page import write_embedding_page

    if not complete:
        say("the page is not written, as parts of other processes are still missing: the same command writes it then")
        return
    write_embedding_page(arguments.out, arguments.html, model=Path(arguments.model or DEFAULT_MODEL).name)
    print(arguments.html)
