"""Heights of register tiles of the AVX-512 kernels, in turns: the stem and the embedding, and a training step.

    python -m benchmarks.studies.tiles [--tables avx512,avx512_rows13] [--rounds 40] [--training-rounds 12] [--batch 64]

The first table is what the others are compared with. All must give the same bits, which is checked first. The choice by
processor is one line in csrc/cpu/base/dispatch.cpp."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from benchmarks.harness.context import MASK_RATIO, Context
from benchmarks.harness.counts import embed_flops, forward_flops
from benchmarks.harness.machine import measure_machine
from benchmarks.harness.timing import Effort, Run, interleave, ratio, spread
from benchmarks.models.contestants import Batch, Trainer, batches, our_loss, our_model
from xmae_fast import random_masking
from xmae_fast.backend import cpu_kernels, use_cpu_kernels
from xmae_fast.ops.cases import all_cases

TABLES = "avx512,avx512_rows13,avx512_rows14"


def embedding(context: Context, B: int) -> Run:
    model, data = our_model(context, "cpu"), context.batches(B)

    def run(i: int) -> Tensor:
        with torch.no_grad():
            return model.embed(data[i % len(data)][0])

    return run


def stem(context: Context, B: int) -> Run:
    model, data = our_model(context, "cpu"), context.batches(B)

    def run(i: int) -> Tensor:
        with torch.no_grad():
            return model.ppg_path.stem(data[i % len(data)][0][:, None])

    return run


def training(context: Context, data: list[Batch]) -> Trainer:
    model, N = our_model(context, "cpu", training=True), context.cfg.num_patches

    def masks() -> tuple[Tensor, Tensor]:
        drawn = random_masking(len(data[0].ppg), N, MASK_RATIO)
        return drawn.ids_keep, drawn.ids_restore

    return Trainer(model, our_loss(model), masks, data, fused=True)


def with_table(name: str, run: Callable, *arguments: int):
    with use_cpu_kernels(name):
        return run(*arguments)


def check(name: str, tables: list[str], results: Callable[[], list[Tensor]]) -> None:
    """Stop unless every table gives the same bits."""
    want = with_table(tables[0], results)
    for table in tables[1:]:
        got = with_table(table, results)
        if not all(torch.equal(a, b) for a, b in zip(want, got, strict=True)):
            raise SystemExit(f"{name}: the results of {table} are not those of {tables[0]}, bit for bit")


def compare(title: str, tables: list[str], run: Run, items: int, flops: float, rounds: int) -> None:
    """Measure and print. The pause lets a short run warm its table's own packed weights by an untimed call."""
    runs = {table: partial(with_table, table, run) for table in tables}
    seconds = interleave(runs, torch.device("cpu"), Effort(0.0, rounds, rounds), settle_s=0.01)
    print(f"\n{title}, {rounds} rounds; ratio to {tables[0]} in each round: median [10 %, 90 %]")
    for table in tables:
        middle, speed = spread(seconds[table]).median, ratio(seconds[tables[0]], seconds[table])
        print(
            f"  {table:14} {1e3 * middle / items:7.3f} ms per sample {flops / middle / 1e9:5.0f} GFLOP/s "
            f" {speed.median:.3f}x [{speed.low:.3f}, {speed.high:.3f}]"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", default=TABLES, help="names as backend.use_cpu_kernels takes them, with commas")
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--training-rounds", type=int, default=12)
    parser.add_argument("--batch", type=int, default=64)
    arguments = parser.parse_args()
    tables = arguments.tables.split(",")
    context = Context(torch.device("cpu"))
    cfg = context.cfg
    print(measure_machine(torch.device("cpu"), 0.5).line())
    print(f"published model; chosen on this processor: {cpu_kernels()}")
    for B in (arguments.batch, 1):
        stem_flops = all_cases()["conv_stem"].flops({"B": B, "L": cfg.seq_len, "S": cfg.stem_ch})
        for name, make, flops in (("stem", stem, stem_flops), ("embedding", embedding, embed_flops(cfg, B))):
            run = make(context, B)
            check(name, tables, lambda run=run: [run(i) for i in range(3)])
            compare(f"{name}, B = {B}", tables, run, B, flops, arguments.rounds)
    B = arguments.batch
    step = training(context, batches(context, B))
    check("training step", tables, lambda: list(step.probe().values()))
    flops = 3 * forward_flops(cfg, B, context.kept)
    compare(f"training step, B = {B}", tables, step, B, flops, arguments.training_rounds)


if __name__ == "__main__":
    main()
