"""`xmae-fast export`: a thin layer over `xmae_fast.export`."""

from __future__ import annotations

import argparse

from xmae_fast.cli.shared import MODEL_HELP


def add_command(commands) -> None:
    """Add the command to the subparsers of the command line."""
    export = commands.add_parser(
        "export", help="write a checkpoint as a graph for other runtimes, checked against the model and measured"
    )
    export.add_argument("checkpoint", metavar="CHECKPOINT", help=MODEL_HELP)
    export.add_argument("--to", required=True, choices=["onnx", "torch-export", "executorch"], help="format")
    export.add_argument("-o", "--output", required=True, metavar="OUT", help="the file; OUT.json is written beside it")
    export.add_argument(
        "--entry", choices=["embed", "reconstruct"], default="embed",
        help="PPG to embeddings, or PPG and visible ECG to the whole ECG (default: %(default)s)",
    )  # fmt: skip
    export.add_argument(
        "--weights", choices=["float32", "float16", "int8"], default="float32",
        help="how they are stored; int8 (ONNX) also computes in int8, calibrated on --data (default: %(default)s)",
    )  # fmt: skip
    export.add_argument(
        "--data", nargs="+", metavar="IN", help="shards for calibration and check (default: simulated segments)"
    )
    export.add_argument("--calibration-segments", type=int, default=256, metavar="N", help="(default: %(default)s)")
    export.add_argument("--config", metavar="FILE.yaml", help="for checkpoints without their configuration")
    export.add_argument("--no-benchmark", action="store_true", help="measure no latencies")
    export.add_argument("--overwrite", action="store_true", help="replace the file if it is there")
    export.add_argument("--opset", type=int, metavar="N", help="version of ONNX's operators (default: 20, the least)")
    export.set_defaults(
        run=_export,
        python_names={"cfg": "config", "path": "output", "model": "checkpoint", "path_or_hub_id": "checkpoint"},
    )


def _export(arguments: argparse.Namespace) -> None:
    from xmae_fast._yaml import read_yaml
    from xmae_fast.export import export_model

    report = export_model(
        arguments.checkpoint,
        arguments.output,
        to=arguments.to,
        entry=arguments.entry,
        weights=arguments.weights,
        data=arguments.data,
        calibration_segments=arguments.calibration_segments,
        cfg=None if arguments.config is None else read_yaml(arguments.config),
        benchmark=not arguments.no_benchmark,
        overwrite=arguments.overwrite,
        opset=arguments.opset,
    )
    print(report.describe())
