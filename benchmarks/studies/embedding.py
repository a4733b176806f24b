"""Embedding end to end against the bare encoder: a raw long record, and a packed shard.

    python -m benchmarks.studies.embedding [--minutes 30] [--segments 1024] [--rounds 5] [--data PACKED.h5] [--output O]

Targets: encoder share of a raw record's time >= 80 % on a CPU; packed shard >= 95 % of the bare encoder's rate."""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

import xmae_fast
from benchmarks.harness.machine import measure_machine
from xmae_fast.data import SegmentLoader, SimulationCfg, repack, simulate
from xmae_fast.embedding import Embedder, embed_files
from xmae_fast.model.outputs import encode

CFG = xmae_fast.ModelCfg(d_model=256, proj_dim=256)  # the published model
FS, BATCH = 125, 64


def raw_record(minutes: float) -> np.ndarray:
    """[T] PPG at 125 Hz: simulated segments end to end, at another rate and in another unit."""
    segments = simulate(1, round(minutes * 6), seed=1, cfg=SimulationCfg()).ppg
    at = np.arange(round(minutes * 60 * FS)) / FS
    return 1000 + 100 * np.interp(at, np.arange(segments.size) / 100, segments.reshape(-1))


def packed_shard(folder: Path, segments: int) -> Path:
    paths = simulate(segments // 8, 8, seed=2).write_shards(folder)
    repack(paths, folder / "packed.h5")
    return folder / "packed.h5"


def bare_rate(model: xmae_fast.xMAE, ppg: torch.Tensor, output: str) -> float:
    """Segments/s of the encoder alone, prepared segments in memory."""
    began = time.perf_counter()
    for part in ppg.split(BATCH):
        encode(model, part, output)
    return len(ppg) / (time.perf_counter() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--segments", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--data", help="a packed shard instead of a simulated one")
    parser.add_argument("--output", choices=["pooled", "projected", "tokens"], default="pooled")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    model, output = xmae_fast.xMAE(CFG).eval(), arguments.output
    print(measure_machine(torch.device("cpu"), 0.3).line())
    record = raw_record(arguments.minutes)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shard = Path(arguments.data) if arguments.data else packed_shard(folder, arguments.segments)
        batches = SegmentLoader(shard, BATCH, quality=0, shuffle=False, exclude_prefixes=())
        ppg = torch.cat([batch["ppg"].clone() for batch in batches])
        bare_rate(model, ppg[: 4 * BATCH], output)
        Embedder(model, check=False)(record[: 30 * FS], FS)
        bare, files, judged, plain = [], [], [], []
        for number in range(arguments.rounds):
            bare.append(bare_rate(model, ppg, output))
            report = embed_files(shard, folder / f"out{number}", model, output=output, batch_size=BATCH, device="cpu")
            files.append(report.segments_per_s / bare[-1])
            for shares, quality in ((judged, True), (plain, False)):
                embedder = Embedder(model, quality=quality, output=output, batch_size=BATCH, check=False)
                began = time.perf_counter()
                found = embedder(record, FS)
                shares.append(len(found) / bare[-1] / (time.perf_counter() - began))
    middle = statistics.median
    print(f"published model, {output}, B = {BATCH}, {arguments.rounds} rounds, medians [least, most]")
    for text, values, form in (
        (f"bare encoder, {len(ppg):,} segments", bare, "{:,.0f} segments/s"),
        ("packed shard to files, of the bare rate", files, "{:.1%}"),
        (f"raw record of {arguments.minutes:g} min at {FS} Hz: encoder share", judged, "{:.1%}"),
        ("the same without quality", plain, "{:.1%}"),
    ):
        print(f"{text}: {form.format(middle(values))} [{form.format(min(values))}, {form.format(max(values))}]")


if __name__ == "__main__":
    main()
