"""Where a training step, its two stems and an embedding spend their time on a GPU, kernel by kernel.

The number of launches is shown beside what was planned, and the time of each kernel beside what its bytes take at the
copy rate measured here (`gpu/expected.py`).

    python -m benchmarks.gpu.profile [--batch 512] [--out FILE.json]
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.gpu.expected import add_predictions, predicted_us
from benchmarks.harness.choosing import add_choices, apply_choices
from benchmarks.harness.context import PUBLISHED_CFG, Context
from benchmarks.harness.machine import copy_rate
from benchmarks.suites.stems import ours
from xmae_fast import _graphs as graphs
from xmae_fast import available, xMAE
from xmae_fast.testing.launches import embedding, training_step
from xmae_fast.training import GraphedStep, adamw

REPEATS = 10


def kernels_of(run: Callable[[], object]) -> list[dict]:
    """Kernels of one call, longest first: name, launches, microseconds of all of them. `run` is warm already."""
    run()
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA]) as trace:
        for _ in range(REPEATS):
            run()
        torch.cuda.synchronize()
    rows = [
        {"kernel": event.key, "launches": event.count / REPEATS, "us": event.self_device_time_total / REPEATS}
        for event in trace.key_averages()
        if event.self_device_time_total
    ]
    return sorted(rows, key=lambda row: -row["us"])


def wall_ms(run: Callable[[], object]) -> float:
    """Milliseconds of a call among many, by device events."""
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    for _ in range(REPEATS):
        run()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / REPEATS


def works(B: int) -> dict[str, Callable[[], object]]:
    torch.manual_seed(0)
    ppg, ecg = torch.randn(2, B, PUBLISHED_CFG.seq_len, device="cuda")
    model = xMAE(PUBLISHED_CFG).cuda().train()
    step = GraphedStep(model, adamw(model.parameters()), autocast=torch.bfloat16)
    embedder = xMAE(PUBLISHED_CFG).cuda().eval()

    def embed() -> torch.Tensor:
        with torch.autocast("cuda", torch.bfloat16):
            return embedder.embed(ppg)

    context = Context(torch.device("cuda"))
    stems_runs = {
        f"both stems in training, impl={impl}": partial(ours(context, B, impl), 0)
        for impl in ("triton", "cuda")
        if available()["conv_stem"][impl].usable
    }
    return {"training step": lambda: step(ppg, ecg), "embedding": embed, **stems_runs}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--out", type=Path, help="also write everything here, as JSON")
    add_choices(parser)
    args = parser.parse_args()
    apply_choices(args)
    rate = copy_rate(torch.device("cuda"), 0.3)
    expected = {"training step": training_step, "embedding": embedding}
    found = {}
    for name, run in works(args.batch).items():
        for _ in range(graphs.WARM_UP + 1):
            run()
        rows = kernels_of(run)
        found[name] = {"ms": wall_ms(run), "kernels": rows}
        launches, busy = sum(row["launches"] for row in rows), sum(row["us"] for row in rows) / 1e3
        said = f"\n{name}, B = {args.batch}: {found[name]['ms']:.3f} ms, {busy:.3f} ms of it in {launches:.0f} kernels"
        if name in expected:
            planned = expected[name](args.batch, torch.bfloat16, torch.cuda.get_device_capability())
            found[name]["planned_launches"] = len(planned)
            add_predictions(rows, predicted_us(planned, rate))
            said += f" ({len(planned)} planned)"
        print(said + "\n")
        for row in rows[:40]:
            aim = f"{row['predicted_us']:7.1f}" if "predicted_us" in row else "      -"
            print(f"{row['us']:9.1f} us, predicted {aim}  {row['launches']:5.1f} x  {row['kernel'][:90]}")
        if args.out:  # after each: what fails later keeps what was found
            args.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
