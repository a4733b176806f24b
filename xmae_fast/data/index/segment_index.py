"""All segments of all shards, in arrays."""

import os
import warnings
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from xmae_fast.data.formats.layout import Layout
from xmae_fast.data.gather import MapFormat
from xmae_fast.data.index.scan_pool import Progress, scan_all
from xmae_fast.data.index.sidecar import Sidecar, load_sidecar, sidecar_paths
from xmae_fast.data.remote.fetch import resolve_paths

Paths = str | os.PathLike | Iterable[str | os.PathLike]


@dataclass(frozen=True)
class Shard:
    """One file of an index: its rows are [start, stop)."""

    path: str
    sidecar: Sidecar
    start: int
    stop: int

    @property
    def mapped(self) -> bool:
        return self.sidecar.scan.mapped

    @property
    def format(self) -> MapFormat:
        return MapFormat(np.dtype(self.sidecar.scan.dtype), self.sidecar.scan.stride)

    def describe(self) -> str:
        """Size, form and how it is read, in a line."""
        scan = self.sidecar.scan
        rate = f" at {scan.sampling_freq:g} Hz" if scan.sampling_freq else ""
        how = "mapped" if scan.mapped else f"through h5py ({scan.why_not})"
        order = "" if np.dtype(scan.dtype).isnative else ", other byte order"
        return (
            f"{self.path}: {self.stop - self.start:,} segments of {scan.seq_len} samples{rate},"
            f" {np.dtype(scan.dtype).name}{order}, {scan.form} layout, {how}; index {self.sidecar.path}"
        )


class SegmentIndex:
    """n segments of several shards, in the order of the shards and of the segments in each; 37 bytes each.

    subject: (n,) int32 into `subjects`, sorted names; ppg_offset, ecg_offset: (n,) int64 bytes from the start of the
    file, -1 where it is not mapped; quality: (n, 2) float64, PPG and ECG, NaN where a key cannot be read;
    problem: (n,) uint8, bits of `problems`; labels: (n,) arrays by name. `broken`: shards that could not be read at
    all, and why."""

    def __init__(self, shards: list[tuple[str, Sidecar]], broken: dict[str, str]) -> None:
        self.broken = broken
        self.shards: list[Shard] = []
        names = sorted({name for _, sidecar in shards for name in sidecar.scan.subjects})
        number = {name: i for i, name in enumerate(names)}
        self.subjects = names
        sizes = [len(sidecar.scan.subject) for _, sidecar in shards]
        n = sum(sizes)
        self.subject, self.problem = np.empty(n, np.int32), np.empty(n, np.uint8)
        self.ppg_offset, self.ecg_offset = np.empty((2, n), np.int64)
        self.quality = np.empty((n, 2), order="F")
        start = 0
        for (path, sidecar), size in zip(shards, sizes, strict=True):
            scan, rows = sidecar.scan, slice(start, start + size)
            of_subject = np.array([number[name] for name in scan.subjects], np.int32)
            self.subject[rows] = of_subject[scan.subject] if size else 0
            for name in ("ppg_offset", "ecg_offset", "quality", "problem"):
                getattr(self, name)[rows] = getattr(scan, name)
                setattr(scan, name, None)  # kept once
            scan.subject = None
            self.shards.append(Shard(path, sidecar, start, start + size))
            start += size
        scans = [shard.sidecar.scan for shard in self.shards]
        names = list(scans[0].labels)
        self.labels = {name: np.concatenate([scan.labels.pop(name) for scan in scans]) for name in names}
        self.starts = np.array([shard.start for shard in self.shards], np.int64)

    def __len__(self) -> int:
        return len(self.subject)

    @property
    def nbytes(self) -> int:
        """Memory of the arrays."""
        arrays = self.subject, self.problem, self.ppg_offset, self.ecg_offset, self.quality, *self.labels.values()
        return sum(array.nbytes for array in arrays)

    def shard_of(self, rows: np.ndarray) -> np.ndarray:
        """(k,) int32: the shard of each row."""
        return (np.searchsorted(self.starts, rows, "right") - 1).astype(np.int32)

    def name(self, row: int) -> str:
        """Shard and record of a row, for messages."""
        shard = self.shards[int(self.shard_of(np.array([row]))[0])]
        try:
            key = shard.sidecar.keys()[row - shard.start].decode("utf-8", "replace")
        except (OSError, ValueError):
            key = f"number {row - shard.start}"
        return f"shard {shard.path}, record {key}"


def open_index(
    paths: Paths,
    *,
    layout: Layout | None = None,
    cache_dir: str | os.PathLike | None = None,
    num_workers: int | None = None,
    on_bad: str = "raise",
    progress: Progress | None = None,
    storage_options: dict | None = None,
) -> SegmentIndex:
    """The index of shards: files, folders, globs or fsspec addresses (fetched once, see `fetch`).

    Indexes that are missing or stale are built, shards in parallel on `num_workers` processes (default: one for each
    processor), and kept beside their shards as `.<name>.index.npz`, or in `cache_dir`. `progress`: called with (shard,
    segments done, segments in all if known), and with (address, bytes done, bytes in all) while one is fetched.
    on_bad: what a shard that cannot be read at all does: "raise" ValueError, or "skip" it with a warning.
    FileNotFoundError for a missing shard; ValueError when none is left."""
    layout = layout or Layout()
    listed = resolve_paths(paths, cache_dir=cache_dir, progress=progress, storage_options=storage_options)
    found = {path: load_sidecar(path, layout, cache_dir) for path in listed}
    missing = [(path, sidecar_paths(path, cache_dir)) for path, sidecar in found.items() if sidecar is None]
    broken: dict[str, str] = {}
    for path, outcome in scan_all(missing, layout, num_workers or os.cpu_count() or 1, progress).items():
        if isinstance(outcome, FileNotFoundError | PermissionError):
            raise outcome
        if isinstance(outcome, Exception):
            broken[path] = str(outcome)
            if on_bad == "raise":
                raise outcome
            continue
        found[path] = Sidecar(outcome)
    whole = [(path, sidecar) for path, sidecar in found.items() if sidecar is not None]
    if not whole:
        raise ValueError(f"paths: no readable shard in {', '.join(listed)} ({'; '.join(broken.values())})")
    if broken:
        reasons = "; ".join(broken.values())
        warnings.warn(f"{len(broken)} of {len(listed)} shards are left out: {reasons}", stacklevel=2)
    return SegmentIndex(whole, broken)
