"""The index: all segments of all shards, in arrays."""

import logging
import os
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from xmae_fast.data.formats.layout import Layout
from xmae_fast.data.gather import MapFormat
from xmae_fast.data.index.scan_pool import scan_all
from xmae_fast.data.index.shard_scan import ShardHeader, ShardRows
from xmae_fast.data.index.sidecar import Sidecar, load_sidecar, read_sidecar, sidecar_paths
from xmae_fast.data.problems import grouped
from xmae_fast.data.remote.paths import resolve_paths
from xmae_fast.workers.progress import Progress

_log = logging.getLogger("xmae_fast.data")
Paths = str | os.PathLike | Iterable[str | os.PathLike]


@dataclass(frozen=True)
class Shard:
    """One file of an index.

    Args:
        path: the file.
        sidecar: its scan.
        start: the first of the file's rows in the index.
        stop: one more than the last of them.
    """

    path: str
    sidecar: Sidecar
    start: int
    stop: int

    @property
    def header(self) -> ShardHeader:
        """What all segments of the file have in common."""
        return self.sidecar.header

    @property
    def mapped(self) -> bool:
        """Whether segments are read from a memory map of the file."""
        return self.header.mapped

    @property
    def format(self) -> MapFormat:
        """How samples lie in the memory map."""
        return MapFormat(np.dtype(self.header.dtype), self.header.stride)

    def describe(self) -> str:
        """One line that says how large the file is, how it is laid out, and how it is read."""
        header = self.header
        rate = f" at {header.sampling_freq:g} Hz" if header.sampling_freq else ""
        how = "mapped" if header.mapped else f"through h5py ({header.why_not})"
        order = "" if np.dtype(header.dtype).isnative else ", other byte order"
        alone = ", PPG alone" if header.signals == "ppg" else ""
        return (
            f"{self.path}: {self.stop - self.start:,} segments of {header.seq_len} samples{rate},"
            f" {np.dtype(header.dtype).name}{order}, {header.form} layout{alone}, {how}; index {self.sidecar.path}"
        )


class SegmentIndex:
    """The n segments of several shards, in the order of the shards and of the segments in each; 37 bytes each.

    Attributes:
        shards: the files.
        broken: the files that could not be read at all, and why.
        subjects: the sorted names of all subjects.
        subject: [n] int32, the number of each segment's subject in `subjects`.
        ppg_offset: [n] int64, bytes from the start of the file to the first sample; -1 where the file is not mapped.
        ecg_offset: [n] int64, the same for ECG; -1 also in a shard without ECG.
        quality: [n, 2] float64, the qualities of PPG and ECG; NaN where a key cannot be read.
        problem: [n] uint8, bits of `xmae_fast.data.problems`.
        labels: [n] each, by name.
        starts: [number of shards] int64, the first row of each shard.

    Args:
        shards: for each file its path, its scan and its number of segments.
        rows: the segments of each file, in the same order. Each is dropped after it was copied, so that an iterator
            that does not keep them saves half of the memory.
        broken: see above.
    """

    def __init__(
        self, shards: Sequence[tuple[str, Sidecar, int]], rows: Iterable[ShardRows], broken: dict[str, str]
    ) -> None:
        self.broken = broken
        self.shards: list[Shard] = []
        self.subjects = sorted({name for _, sidecar, _ in shards for name in sidecar.header.subjects})
        number = {name: i for i, name in enumerate(self.subjects)}
        n = sum(size for *_, size in shards)
        self.subject, self.problem = np.empty(n, np.int32), np.empty(n, np.uint8)
        self.ppg_offset, self.ecg_offset = np.empty((2, n), np.int64)
        self.quality = np.empty((n, 2), order="F")
        labels: list[dict[str, np.ndarray]] = []
        start = 0
        for (path, sidecar, size), of_shard in zip(shards, rows, strict=True):
            here = slice(start, start + size)
            of_subject = np.array([number[name] for name in sidecar.header.subjects], np.int32)
            self.subject[here] = of_subject[of_shard.subject] if size else 0
            for name in ("ppg_offset", "ecg_offset", "quality", "problem"):
                getattr(self, name)[here] = getattr(of_shard, name)
            labels.append(of_shard.labels)
            self.shards.append(Shard(path, sidecar, start, start + size))
            start += size
        self.labels = {name: np.concatenate([of_shard[name] for of_shard in labels]) for name in labels[0]}
        self.starts = np.array([shard.start for shard in self.shards], np.int64)

    def __len__(self) -> int:
        return len(self.subject)

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        arrays = self.subject, self.problem, self.ppg_offset, self.ecg_offset, self.quality, *self.labels.values()
        return sum(array.nbytes for array in arrays)

    def shard_of(self, rows: np.ndarray) -> np.ndarray:
        """The number of the shard of each row in `rows` [k]; [k] int32."""
        return (np.searchsorted(self.starts, rows, "right") - 1).astype(np.int32)

    def name(self, row: int) -> str:
        """Names the shard and the record of a row, for messages."""
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
    """The index of shards. Indexes of single shards that are missing or out of date are built first.

    Args:
        paths: files, folders, patterns, or addresses that fsspec knows (each is fetched once, see `fetch`).
        layout: how the shards are laid out; by default this is found out.
        cache_dir: where the indexes are kept; by default beside their shards, as `.<name>.index.npz`.
        num_workers: how many processes scan shards at the same time; by default one for each processor.
        on_bad: what happens when a shard cannot be read at all: "raise" raises ValueError, "skip" leaves the shard out
            with a warning.
        progress: is called with (shard, segments that are done, segments in all or None) while shards are scanned, and
            with (address, bytes that are done, bytes in all or None) while a shard is fetched.
        storage_options: are passed to fsspec.

    Raises:
        FileNotFoundError, PermissionError, BlockingIOError: a shard is missing, may not be read, or another process has
            it open for writing; whatever `on_bad` is.
        ValueError: a shard cannot be read, and `on_bad` is "raise"; or no shard is left.
    """
    layout = layout or Layout()
    listed = resolve_paths(paths, cache_dir=cache_dir, progress=progress, storage_options=storage_options)
    found = {path: load_sidecar(path, layout, cache_dir) for path in listed}
    missing = [(path, sidecar_paths(path, cache_dir)) for path, stored in found.items() if stored is None]
    _log.debug("%d of %d shards are to be scanned", len(missing), len(found))
    broken: dict[str, str] = {}
    for path, outcome in scan_all(missing, layout, num_workers or os.cpu_count() or 1, progress).items():
        if isinstance(outcome, FileNotFoundError | PermissionError | BlockingIOError):
            raise outcome
        if isinstance(outcome, Exception):
            broken[path] = str(outcome)
            if on_bad == "raise":
                raise outcome
            del found[path]
            continue
        found[path] = read_sidecar(outcome)
    if not found:
        raise ValueError(f"paths: no readable shard in {', '.join(listed)} ({'; '.join(grouped(broken))})")
    if broken:
        reasons = "; ".join(grouped(broken))
        warnings.warn(f"{len(broken)} of {len(listed)} shards are left out: {reasons}", stacklevel=2)
    opened = {path: stored for path, stored in found.items() if stored is not None}
    del found  # it would keep the rows that SegmentIndex drops
    shards = [(path, sidecar, len(rows)) for path, (sidecar, rows) in opened.items()]
    return SegmentIndex(shards, (opened.pop(path)[1] for path, *_ in shards), broken)
