"""Pretraining on two processes with a core each against one process on one core, the same global batch.

    python -m benchmarks.studies.train_scaling --data SHARDS [--steps 40] [--batch 32] [--rounds 3] [--out FILE.json]

Segments/s are those of training alone (loader, step, exchange of gradients), from run.json; runs alternate.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

CONFIG = "xmae_small"


def run(data: Path, processes: int, steps: int, batch: int, folder: Path, extra: list[str]) -> float:
    """Segments/s of a run of `steps` steps on cores 0 .. processes - 1, one thread each."""
    cli = ["-m", "xmae_fast.cli", "pretrain", "-c", CONFIG, "-e", "scaling", "--runs", str(folder), "--overwrite"]
    values = [
        f"data={data}",
        f"batch_size={batch}",
        f"max_steps={steps}",
        "max_minutes=null",
        f"log_every={steps}",
        *extra,
    ]
    launcher = [sys.executable]
    if processes > 1:
        launcher += ["-m", "torch.distributed.run", f"--nproc_per_node={processes}", "--standalone"]
    cores = ",".join(map(str, range(processes)))
    command = ["taskset", "-c", cores, *launcher, *cli, *(word for value in values for word in ("--set", value))]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    finished = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if finished.returncode:
        raise RuntimeError(f"{' '.join(command)}: exit status {finished.returncode}\n{finished.stderr[-2000:]}")
    return json.loads((folder / "scaling" / "run.json").read_text())["result"]["segments_per_s"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="shards or a folder of them")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--batch", type=int, default=32, help="segments of a step, of all processes together")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--set", action="append", default=[], dest="extra", metavar="KEY=VALUE")
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    options = parser.parse_args()
    rates: dict[int, list[float]] = {1: [], 2: []}
    with tempfile.TemporaryDirectory() as name:
        for _ in range(options.rounds):
            for processes, found in rates.items():
                found.append(run(options.data, processes, options.steps, options.batch, Path(name), options.extra))
                print(f"{processes} process(es): {found[-1]:.1f} segments/s", flush=True)
    ratios = [two / one for one, two in zip(rates[1], rates[2], strict=True)]
    print(f"two processes: {statistics.median(ratios):.2f}x one ({min(ratios):.2f}-{max(ratios):.2f})")
    if options.out:
        options.out.write_text(
            json.dumps({"segments_per_s": rates, "ratios": ratios, "batch": options.batch}, indent=1)
        )


if __name__ == "__main__":
    main()
