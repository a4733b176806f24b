"""The tables of xmae_fast/ops/conv_stem/cuda/TRAINING.md: work, traffic and predicted time of every launch of training.

    python -m tests.ops.cuda.predict_train

Bytes and products follow from the shapes; shared-memory accesses are counted in a run on the host (host/cta.h) of a few
samples and scaled. What is assumed of an H200 stands in the constants below and in predict.py; nothing was measured.
"""

from __future__ import annotations

import re
from collections import defaultdict
from typing import NamedTuple

import torch

from tests.ops.cuda.predict import CLOCK, HMMA_CLOCKS, MULTIPROCESSORS, TANH_PER_CLOCK
from tests.ops.cuda.test_train_host import inputs_of, step
from tests.ops.cuda.train_host import HostTrain
from xmae_fast.ops.conv_stem import operators
from xmae_fast.ops.conv_stem.triton.layout import lengths

SIZES = ((512, 1000), (512, 200))  # B and L of PPG and of the visible ECG
COUNTED = ((6, 1000), (6, 200))  # what the host runs
HBM, LAUNCH = 4.3e12, 2e-6  # bytes a second; seconds between launches in a CUDA graph
WIDTHS = (32, 64, 128)
PAIRS = {(7, 32): 22, (7, 64): 42, (7, 128): 82}  # taps x 8-channel tiles with weights, of merged branches


class Convolution(NamedTuple):
    """A matrix of weights: its place in the launches (forward, backward), taps, channels, level of its output."""

    name: str
    forward: int
    backward: int
    k: int
    c_in: int
    c_out: int
    level: int
    stride: int = 1


# Launches 0 and 1 of the forward pack weights and go over x; 0 of the backward is the end's.
CONVOLUTIONS = (
    Convolution("enc1 fuse of x's block", 2, 20, 1, 32, 32, 0), Convolution("enc1 branches", 3, 19, 7, 32, 32, 0),
    Convolution("enc1 fuse", 4, 18, 1, 32, 32, 0), Convolution("down1", 5, 17, 3, 32, 64, 1, 2),
    Convolution("enc2 branches", 6, 16, 7, 64, 64, 1), Convolution("enc2 fuse", 7, 15, 1, 64, 64, 1),
    Convolution("enc2 branches", 8, 14, 7, 64, 64, 1), Convolution("enc2 fuse", 9, 13, 1, 64, 64, 1),
    Convolution("down2", 10, 12, 3, 64, 128, 2, 2),
    Convolution("enc3 branches", 11, 11, 7, 128, 128, 2), Convolution("enc3 fuse", 12, 10, 1, 128, 128, 2),
    Convolution("enc3 branches", 13, 9, 7, 128, 128, 2), Convolution("enc3 fuse", 14, 8, 1, 128, 128, 2),
    Convolution("mix2: lat2 + up(red3to2)", 15, 6, 1, 64, 64, 1), Convolution("smooth2", 16, 5, 3, 64, 64, 1),
    Convolution("mix1: lat1 + up(red2to1)", 17, 3, 1, 32, 32, 0), Convolution("smooth1", 18, 2, 3, 32, 32, 0),
    Convolution("head", 19, 1, 3, 32, 32, 0),
)  # fmt: skip
REDUCTIONS = {"mix2: lat2 + up(red3to2)": (7, 128, 64, 2), "mix1: lat1 + up(red2to1)": (4, 64, 32, 1)}


def rows(level: int, sizes=SIZES) -> int:
    return sum(B * lengths(L)[level] for B, L in sizes)


def products(k: int, c_in: int, c_out: int, level: int) -> float:
    """Multiplications of m16n8k16 in one direction."""
    return rows(level) / 16 * PAIRS.get((k, c_out), k * c_out // 8) * c_in / 16


class Work(NamedTuple):
    """The work of a launch: bytes of HBM traffic, products of m16n8k16, SiLUs or derivatives, wavefronts of memory."""

    bytes: float
    products: float
    silu: float
    wavefronts: float

    def seconds(self) -> float:
        """The time of what bounds the launch, as if everything else went on beside it."""
        clocks = max(self.products * HMMA_CLOCKS, self.wavefronts, self.silu / TANH_PER_CLOCK) / MULTIPROCESSORS
        return LAUNCH + max(self.bytes / HBM, clocks / CLOCK)


def forward_work(one: Convolution, wavefronts: float) -> Work:
    numbers_in = rows(one.level - (one.stride == 2)) * one.c_in
    numbers_out = rows(one.level) * one.c_out
    read, made, silu = 2 * numbers_in, products(*one[3:7]), numbers_in
    if one.forward == 2:
        read = 4 * rows(0)  # x
    if one.name in REDUCTIONS:
        _, c_up, _, level = REDUCTIONS[one.name]
        read += 2 * rows(level) * c_up
        made += products(1, c_up, one.c_out, one.level)
        silu += 2 * rows(one.level) * c_up
    return Work(read + 2 * numbers_out, made, 0 if one.name.startswith("smooth") else silu, wavefronts)


def backward_work(k: int, c_in: int, c_out: int, level: int, stride: int, wavefronts: float, *, x: bool) -> Work:
    numbers_in = rows(level - (stride == 2)) * c_in
    numbers_out = rows(level) * c_out
    moved = 2 * 2 * numbers_out + (4 * rows(0) if x else 2 * 2 * numbers_in)  # d and pre; source and the gradient left
    return Work(moved, 2 * products(k, c_in, c_out, level), 2 * numbers_in, wavefronts)


def counted() -> tuple[dict[int, float], dict[int, float], list]:
    """Wavefronts of every forward and backward launch, scaled to SIZES, and the accesses of both runs."""
    scale = rows(0) / rows(0, COUNTED)
    host = HostTrain()
    stems = [inputs_of(B, L, seed=seed) for seed, (B, L) in enumerate(COUNTED)]
    with host.registered(count_banks=1, multiprocessors=1):  # many tiles for a CTA, as on a GPU
        step(stems)
        backward = host.banks()
        xs, params = [stem["x"] for stem in stems], [stem["params"] for stem in stems]
        operators.train(xs, params, True, torch.bfloat16, "cuda")
        forward = host.banks()
    names = [re.sub(r".*cuda::(\w+Shape)<(.*?)>.*", r"\1<\2>", one.kernel) for one in host.launched]
    assert "ForwardShape<128, 128, 7" in names[11]
    found = []
    for banks in (forward, backward):
        sums: dict[int, float] = defaultdict(float)
        for entry in banks:
            sums[entry.layer] += entry.wavefronts * scale
        found.append(sums)
    return *found, [*forward, *backward]


def tables() -> str:
    forward, backward, accesses = counted()
    lines = [
        "| launch | forward: MB | GFLOP | wavefronts, M | us | backward: MB | GFLOP | wavefronts, M | us |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    totals = [0.0] * 8

    def cells(work: Work | None) -> list[float]:
        if work is None:
            return [0.0] * 4
        return [work.bytes / 1e6, work.products * 16 * 8 * 16 * 2 / 1e9, work.wavefronts / 1e6, work.seconds() * 1e6]

    def add(name: str, ahead: Work | None, back: Work | None) -> None:
        values = [*cells(ahead), *cells(back)]
        for i, value in enumerate(values):
            totals[i] += value
        shown = [f"{value:,.0f}" if value else "" for value in values]
        lines.append(f"| {name} | {' | '.join(shown)} |")

    features, weights = 2 * 32 * rows(0), 2 * 4 * 480_000
    add("weights packed / gradients collected", Work(weights, 0, 0, 0), Work(70e6, 0, 0, 0))
    add("lag products of x", Work(4 * rows(0), 0, 0, 0), None)
    for one in CONVOLUTIONS:
        back = backward_work(*one[3:8], backward[one.backward], x=one.forward == 2)
        add(one.name, forward_work(one, forward[one.forward]), back)
        if one.name in REDUCTIONS:
            place, *shape = REDUCTIONS[one.name]
            add("  its reduction", None, backward_work(1, *shape, 1, backward[place], x=False))
    add("end", Work(2 * features, 0, features / 2, 0), Work(3 * features, 0, features / 2, 0))
    lines.append(f"| **sum** | {' | '.join(f'{value:,.0f}' for value in totals)} |")
    kinds: dict[tuple[str, int], list[int]] = defaultdict(lambda: [0, 0, 0])
    for entry in accesses:
        for i, count in enumerate((entry.instructions, entry.wavefronts, entry.ideal)):
            kinds[entry.kind, entry.size][i] += count
    lines += ["", "| access | instructions | wavefronts | fewest possible | factor |", "|---|---|---|---|---|"]
    for (kind, size), (instructions, wavefronts, ideal) in sorted(kinds.items()):
        counts = f"{instructions:,} | {wavefronts:,} | {ideal:,} | {wavefronts / ideal:.2f}"
        lines.append(f"| {kind}, {size} bytes | {counts} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(tables())
