"""`xmae-fast reconstruct`: a thin layer over `xmae_fast.reconstruct`."""

from __future__ import annotations

import argparse

from xmae_fast.cli.shared import MODEL_HELP


def add_command(commands) -> None:
    """Add the command to the subparsers of the command line."""
    command = commands.add_parser("reconstruct", help="draw the ECG that a model reconstructs for segments of shards")
    command.add_argument("inputs", nargs="+", metavar="IN", help="shards, folders, patterns or URLs")
    command.add_argument("-o", "--output", required=True, metavar="FILE.png", help="the picture")
    command.add_argument("-m", "--model", required=True, metavar="MODEL", help=MODEL_HELP)
    command.add_argument(
        "--segments", default="0,1,2", metavar="N,N", help="numbers of the segments (default: %(default)s)"
    )
    command.add_argument(
        "--visible", default="0-2", metavar="S-S,S-S", help="seconds of ECG that the model sees (default: %(default)s)"
    )
    command.add_argument("--quality", type=float, default=0.9, help="that both signals reach (default: %(default)s)")
    command.set_defaults(
        run=_reconstruct, python_names={"path": "output", "paths": "inputs", "path_or_hub_id": "model"}
    )


def _reconstruct(arguments: argparse.Namespace) -> None:
    import numpy as np

    from xmae_fast import from_pretrained
    from xmae_fast._files import check_replaceable, is_picture
    from xmae_fast.data.segments import Segments
    from xmae_fast.embedding import reconstruct

    check_replaceable(arguments.output, is_picture, "a picture of xmae-fast")
    segments = Segments(arguments.inputs, quality=arguments.quality, exclude_prefixes=())
    items = np.array(_numbers("--segments", arguments.segments, int), np.int64)
    if not len(items) or items.min() < 0 or items.max() >= len(segments):
        raise ValueError(f"--segments: expected numbers from 0 to {len(segments) - 1}, got {arguments.segments}")
    ppg, ecg = np.zeros((2, len(items), segments.seq_len), np.float32)
    if not segments.read(items, 0, ppg, ecg).all():
        raise ValueError("--segments: expected segments that are good, got one that has gone bad since it was indexed")
    spans = [_span(text) for text in arguments.visible.split(",") if text.strip()]
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


def _span(text: str) -> tuple[float, float]:
    seconds = _numbers("--visible", text, float, "-")
    if len(seconds) != 2:
        raise ValueError(f"--visible: expected spans S-S, from one second to another, got {text!r}")
    return seconds[0], seconds[1]
