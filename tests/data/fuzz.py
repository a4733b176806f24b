"""Damages shards and indexes and loads them: `python -m tests.data.fuzz --cases 10000`.

Each case must end in an error, or in finite batches; every segment must be given or counted as left out. The number of
times that each outcome occurred is printed.
"""

import argparse
import tempfile
import warnings
from collections import Counter
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch

from tests.data.layouts import write_packed, write_published
from xmae_fast.data import SegmentLoader
from xmae_fast.data.index import segment_index as index_module
from xmae_fast.data.index.scan_pool import ScanWorker

KINDS = {
    "published": lambda path, signals: write_published(path, signals),
    "compressed": lambda path, signals: write_published(path, signals, compression="gzip"),
    "packed": lambda path, signals: write_packed(path, signals, dtype=">f4"),
    "chunked": lambda path, signals: write_packed(path, signals, chunks=(3, 40), compression="gzip"),
    "chunks mapped": lambda path, signals: write_packed(path, signals, chunks=(3, 40)),
}


def mutate(data: bytearray, rng: np.random.Generator) -> None:
    """Damage a file in place."""
    kind = rng.choice(["bit", "bit", "bits", "byte", "cut", "zeros", "grown", "swap"])
    at = int(rng.integers(len(data)))
    if kind == "bit":
        data[at] ^= 1 << rng.integers(8)
    elif kind == "bits":
        for where in rng.integers(len(data), size=20):
            data[where] ^= 1 << rng.integers(8)
    elif kind == "byte":
        data[at] = rng.choice([0, 1, 127, 128, 255])
    elif kind == "cut":
        del data[at:]
    elif kind == "zeros":
        size = min(int(rng.integers(1, 64)), len(data) - at)
        data[at : at + size] = bytes(size)
    elif kind == "grown":
        data += bytes(rng.integers(0, 256, 100, np.uint8))
    else:
        other = int(rng.integers(len(data) - 8))
        data[at : at + 8], data[other : other + 8] = data[other : other + 8], data[at : at + 8]


def load(path: Path, worker: ScanWorker, selected: int) -> str:
    """The outcome of one case; AssertionError if a batch is not what it should be."""

    def scan_here(jobs, layout, num_workers, progress):
        if not jobs:
            return {}
        (shard, targets), *_ = jobs
        try:
            return {shard: worker.scan(shard, layout, targets)}
        except (ValueError, OSError) as error:
            return {shard: error}

    # One process for all cases: starting one for each would take hours.
    with patch.object(index_module, "scan_all", scan_here):
        try:
            loader = SegmentLoader(path, 7, augment=True, prefetch=1)
            batches = list(loader)
        except (ValueError, OSError) as error:
            return "process ended, reported" if "ended the process" in str(error) else type(error).__name__
    for batch in batches:
        for name in ("ppg", "ecg"):
            assert torch.isfinite(batch[name]).all()
            assert (batch[name].amax(1) == 1).all()
            assert (batch[name].amin(1) == -1).all()
        assert ((batch["subject"] >= 0) & (batch["subject"] < len(loader.subjects))).all()
    seen = sum(len(batch["subject"]) for batch in batches)
    assert seen + sum(loader.rejected.values()) == len(loader.segments.index)
    return "all segments" if seen == selected else "counted skips"


def run(cases: int, seed: int = 0) -> Counter[str]:
    """How often each outcome occurred in `cases` cases, in each of which a shard or an index is damaged."""
    rng = np.random.default_rng(seed)
    outcomes: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as name, ScanWorker() as worker, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        folder = Path(name)
        signals = rng.normal(size=(2, 12, 40))
        originals = {}
        for kind, write in KINDS.items():
            write(folder / "x.h5", signals)
            load(folder / "x.h5", worker, 12)
            index = next(folder.glob(".x.h5*"))
            originals[kind] = (folder / "x.h5").read_bytes(), index.read_bytes()
            index.unlink()
        names = list(KINDS)
        for case in range(cases):
            shard, index = map(bytearray, originals[names[case % len(names)]])
            target = "index" if rng.random() < 0.15 else "shard"
            if target == "index":
                (folder / "x.h5").write_bytes(shard)
                load(folder / "x.h5", worker, 12)  # makes an index with the time of this file
                index = bytearray((folder / ".x.h5.index.npz").read_bytes())
                mutate(index, rng)
                (folder / ".x.h5.index.npz").write_bytes(index)
            else:
                mutate(shard, rng)
                (folder / "x.h5").write_bytes(shard)
            outcomes[f"{target}: {load(folder / 'x.h5', worker, 12)}"] += 1
            for path in folder.glob(".x.h5*"):
                path.unlink()
    return outcomes


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    for outcome, count in sorted(run(options.cases, options.seed).items()):
        print(f"{count:6,}  {outcome}")
