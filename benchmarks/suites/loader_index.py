"""The index of a corpus of five million segments: opening it and choosing from it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from benchmarks.harness.contest import OURS, Contestant, Group
from benchmarks.harness.context import Context
from benchmarks.harness.timing import Run
from xmae_fast.data import Layout, open_index
from xmae_fast.data.index.shard_scan import Scan, ShardHeader, ShardRows
from xmae_fast.data.index.sidecar import fingerprint, sidecar_paths, write_sidecar
from xmae_fast.data.selection import Selection, select
from xmae_fast.testing import Error

SHARDS = 27
LIMIT_BYTES = 64


def groups(context: Context) -> Iterator[Group]:
    """Indexes as a scan would have written them, of shards that are holes of the right size."""
    per_shard = 10_000 if context.quick else 185_186
    with _corpus(per_shard) as paths:
        n = per_shard * len(paths)
        index = open_index(paths)

        def choose(i: int) -> Selection:
            return select(
                index, quality=0.9, subjects=None, exclude_subjects=(), exclude_prefixes=("vital_",), split="train",
                seed=77, normalize_dtype="float16",
            )  # fmt: skip

        def check(_: Run) -> list[Error]:
            rows = choose(0).rows
            good = (index.quality >= 0.9).all(1)
            if len(index) != n or not good[rows].all() or index.nbytes / n >= LIMIT_BYTES:
                raise AssertionError(f"{len(index)} segments, {index.nbytes / n} bytes each")
            return []

        yield Group(
            f"loader: index of {n:,} segments in {len(paths)} shards, {index.nbytes / n:.0f} bytes a segment",
            [
                Contestant("opening it", lambda: lambda i: open_index(paths), check, OURS),
                Contestant("choosing by quality, subject, split", lambda: choose, check, OURS),
            ],
            items=n,
            unit="segments",
        )


@contextmanager
def _corpus(per_shard: int) -> Iterator[list[str]]:
    rng, L, layout = np.random.default_rng(0), 1000, Layout()
    with tempfile.TemporaryDirectory() as folder:
        paths = []
        for shard in range(SHARDS):
            path = Path(folder) / f"shard_{shard:02d}.h5"
            offsets = np.arange(per_shard, dtype=np.int64) * 6_350 + 4_096
            with open(path, "wb") as file:
                file.truncate(int(offsets[-1]) + 6_000)
            subjects = [f"p_{shard * 200 + i:06d}" for i in range(200)]
            header = ShardHeader("published", L, "<f2", 6, True, "", 100.0, subjects)
            subject = np.sort(rng.integers(0, 200, per_shard)).astype(np.int32)
            quality, problem = rng.uniform(0.7, 1, (per_shard, 2)).round(3), np.zeros(per_shard, np.uint8)
            rows = ShardRows(subject, offsets + 2, offsets + 4, quality, problem)
            scan = Scan(header, rows, np.full(per_shard, b"p_000000/0000+++1+++1+++1+++0.900+++0.900"))
            write_sidecar(sidecar_paths(str(path), None)[0], scan, fingerprint(str(path), layout))
            paths.append(str(path))
        yield paths
