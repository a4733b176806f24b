"""`xmae-fast embed`: a thin layer over `xmae_fast.embed_files`."""

from __future__ import annotations

import argparse
import os

from xmae_fast.cli.failures import FAILED, GOES_ON
from xmae_fast.cli.progress import progress_with_speed
from xmae_fast.cli.shared import MODEL_HELP, add_layout_arguments, layout_of

_OUTPUT_HELP = (
    "pooled: mean of the encoder's tokens, which pretraining trains (default); projected: the same through a projection"
    " that pretraining does not train; tokens: all tokens"
)
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
    embed.add_argument("inputs", nargs="+", metavar="IN", help="shards, folders, patterns, URLs; or .npy, .npz of PPG")
    embed.add_argument("-o", "--out", required=True, metavar="OUT", help="folder of the embeddings")
    embed.add_argument("-m", "--model", required=True, metavar="MODEL", help=MODEL_HELP)
    embed.add_argument("--output", choices=["pooled", "projected", "tokens"], default="pooled", help=_OUTPUT_HELP)
    embed.add_argument("--format", choices=["h5", "npy", "parquet"], default="h5", help="(default: %(default)s)")
    embed.add_argument("--dtype", choices=["float32", "float16"], default="float32", help="(default: %(default)s)")
    embed.add_argument(
        "--quality", type=float, default=0.0, help="that both signals of shards reach (default: %(default)s, all)"
    )
    embed.add_argument("--fs", type=float, metavar="HZ", help="sampling rate of recordings")
    embed.add_argument(
        "--hop", type=float, metavar="S", help="seconds between windows of recordings (default: a window)"
    )
    embed.add_argument(
        "--tail",
        choices=["drop", "align"],
        default="drop",
        help="what to do with an end that fills no window: leave it out, or end a window there (default: %(default)s)",
    )
    embed.add_argument("--device", help="(default: a GPU if there is one)")
    embed.add_argument("--bf16", action="store_true", help="run the encoder in bfloat16 (files keep --dtype)")
    embed.add_argument("--batch-size", type=int, metavar="N", help="(default: 64 on a CPU, 1024 elsewhere)")
    embed.add_argument("--part-rows", type=int, metavar="N", help="segments in a part (default: 32 MiB of embeddings)")
    embed.add_argument("--overwrite", action="store_true", help="replace other embeddings in OUT")
    embed.set_defaults(
        run=_embed,
        goes_on=GOES_ON,
        python_names={"paths": "inputs", "path_or_hub_id": "model", "folder": "out", "file_format": "format"},
    )
    add_layout_arguments(embed)


def _embed(arguments: argparse.Namespace) -> int:
    import torch

    from xmae_fast._processes import started_by_srun
    from xmae_fast.embedding import embed_files

    if (tasks := started_by_srun()) > 1 and "RANK" not in os.environ:
        raise ValueError(_SRUN.format(tasks))

    with progress_with_speed() as progress:
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
    if report.complete and report.rows and not report.written:
        print("this was finished already, nothing was done")
    return 0 if report.rows else FAILED
