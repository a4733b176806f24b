"""How many bytes a training step and an embedding move on a GPU, and how long that takes at least, without a GPU.

    python -m xmae_fast.testing.traffic [--batch 512] [--gpu H200]

The bytes of a launch are those of the tensors that it is given, each once (of `_IN_PARTS`, its part): a kernel that
reads a part of one moves less, one that reads it twice and finds it in no cache moves more. The prediction is a stated
model and no measurement: what takes longer of bytes and arithmetic, if they overlap perfectly, and their sum, if they
do not at all; in both, a constant for each launch within a CUDA graph.
"""

from __future__ import annotations

import argparse
import math
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch

from xmae_fast.ops._launch import Launch
from xmae_fast.testing.launches import AtenLaunch, bytes_of, embedding, name_of, training_step

LAUNCH_S = 1e-6  # of a launch within a graph; 0.6 to 1.3 us are usual
FLOPS = {"training step": 1.311e9, "embedding": 0.315e9}  # of a segment, of the default model


class Gpu(NamedTuple):
    """What a GPU sustains: bytes/s, and operations/s in bfloat16."""

    bytes: float
    flops: float


GPUS = {"H200": Gpu(4.3e12, 790e12), "H100": Gpu(2.9e12, 790e12)}


def _partial_sums(launch: Launch) -> int:
    """Every program writes a tile of float32 sums to the arena of all layers; of a 1x1 layer that is its matrix."""
    rows, columns = ("BLOCK_J", "BLOCK_N") if "BLOCK_J" in launch.constants else ("CIN_PAD", "COUT_PAD")
    return math.prod(launch.grid) * launch.constants[rows] * launch.constants[columns] * 4


# What a launch moves of a tensor that many launches share: by kernel and argument.
_IN_PARTS: dict[tuple[str, str], Callable[[Launch], int]] = {
    ("stem_weight_gradient_kernel", "arena_ptr"): _partial_sums,
    ("stem_pointwise_gradient_kernel", "arena_ptr"): _partial_sums,
}


def moved(launch: Launch | AtenLaunch) -> int:
    """The bytes of the tensors of a launch."""
    if isinstance(launch, AtenLaunch):
        return launch.bytes
    shared = {name: part for name in launch.args if (part := _IN_PARTS.get((name_of(launch), name)))}
    own = bytes_of([x for name, x in launch.args.items() if name not in shared])
    return own + sum(min(part(launch), bytes_of(launch.args[name])) for name, part in shared.items())


def by_kernel(launches: Iterable[Launch | AtenLaunch]) -> dict[str, tuple[int, int]]:
    """How often each kernel is launched, and the bytes of all its launches; most bytes first."""
    found: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for launch in launches:
        found[name_of(launch)][0] += 1
        found[name_of(launch)][1] += moved(launch)
    return {name: (count, size) for name, (count, size) in sorted(found.items(), key=lambda item: -item[1][1])}


def predicted(count: int, size: int, flops: float, gpu: Gpu) -> tuple[float, float]:
    """Seconds of so many launches, bytes and operations: with perfect overlap, and with none."""
    memory, arithmetic = size / gpu.bytes, flops / gpu.flops
    return max(memory, arithmetic) + count * LAUNCH_S, memory + arithmetic + count * LAUNCH_S


def report(name: str, launches: list[Launch | AtenLaunch], B: int, gpu: str) -> str:
    """The table of a work and its prediction, as markdown."""
    table = by_kernel(launches)
    count, size = len(launches), sum(size for _, size in table.values())
    low, high = predicted(count, size, B * FLOPS[name], GPUS[gpu])
    lines = [f"| {kernel} | {times} | {part / 1e6:,.1f} |" for kernel, (times, part) in table.items()]
    return "\n".join([
        f"{name}, B = {B}, bfloat16 autocast", "", "| launch | times | MB |", "|---|---|---|", *lines,
        f"| **all** | **{count}** | **{size / 1e6:,.0f}** |", "",
        f"predicted on an {gpu} ({GPUS[gpu].bytes / 1e12:.1f} TB/s, {GPUS[gpu].flops / 1e12:.0f} TFLOP/s,"
        f" {LAUNCH_S * 1e6:.1f} us a launch): {low * 1e3:.2f} ms with perfect overlap, {high * 1e3:.2f} ms with none",
    ])  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--gpu", choices=GPUS, default="H200")
    args = parser.parse_args()
    for name, work in {"training step": training_step, "embedding": embedding}.items():
        print(f"\n{report(name, work(args.batch, torch.bfloat16, (9, 0)), args.batch, args.gpu)}")


if __name__ == "__main__":
    main()
