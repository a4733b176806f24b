"""Files for the loaders' contests, which vanish afterwards."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.harness.context import Context
from xmae_fast.data import repack, write_shard

SEGMENTS_PER_SUBJECT = 16


@dataclass(frozen=True)
class SegmentFiles:
    """The same `count` segments of L samples in the published layout, again for contests that empty the page cache, and
    packed."""

    published: str
    cold: str
    packed: str
    count: int
    L: int

    @property
    def size(self) -> int:
        """Bytes of the published shard."""
        return os.path.getsize(self.published)


@contextmanager
def segment_files(context: Context, count: int) -> Iterator[SegmentFiles]:
    """The context's segments, real or simulated, repeated until there are `count`, as records of their own."""
    ppg, ecg = (x.cpu().numpy() for x in context.segments)
    rows = np.arange(count) % len(ppg)
    subjects = [f"bench_{i // SEGMENTS_PER_SUBJECT:06d}" for i in range(count)]
    good = np.ones(count)
    with tempfile.TemporaryDirectory() as name:
        published, cold, packed = (Path(name) / f"{kind}.h5" for kind in ("published", "cold", "packed"))
        write_shard(published, ppg[rows], ecg[rows], subjects, ppg_quality=good, ecg_quality=good)
        shutil.copyfile(published, cold)
        repack(published, packed)
        yield SegmentFiles(str(published), str(cold), str(packed), count, ppg.shape[1])


def forget(path: str) -> None:
    """Drop a file's pages from the page cache, as far as the system does so on request."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


@contextmanager
def one_core() -> Iterator[None]:
    """Threads that start in here, and this one, share one processor. Does nothing where the system cannot."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
