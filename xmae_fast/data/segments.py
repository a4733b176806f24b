"""Segments of shards by number: selection, memory maps, and reading of many at once. What data set and loader share."""

import mmap
import os
import warnings
from collections import Counter
from collections.abc import Iterable
from typing import Literal

import numpy as np

from xmae_fast.data import problems
from xmae_fast.data.augment import NormalizeDtype
from xmae_fast.data.gather import default_threads, make_gather, reader_name
from xmae_fast.data.index import Paths, SegmentIndex, open_index
from xmae_fast.data.layout import Layout
from xmae_fast.data.scan import SegmentReader, gather_arrays
from xmae_fast.data.scan_pool import Progress
from xmae_fast.data.selection import Quality, select
from xmae_fast.data.shards import open_shard
from xmae_fast.data.sidecar import content_probe
from xmae_fast.data.splits import EXCLUDED_PREFIXES

_HINT_GAP = 1 << 16  # bytes between segments that are still read ahead in one go


class ShardChangedError(OSError):
    """A shard was replaced, changed or cut short after its index was opened."""


class Segments:
    """The used segments of shards, numbered 0 to len - 1. Arguments: see `SegmentDataset`."""

    def __init__(
        self,
        paths: Paths,
        *,
        quality: Quality = 0.9,
        subjects: Iterable[str] | None = None,
        exclude_subjects: Iterable[str] = (),
        exclude_prefixes: tuple[str, ...] = EXCLUDED_PREFIXES,
        split: Literal["train", "val", "test"] | None = None,
        seed: int = 77,
        augment: bool | Literal["published"] = False,
        on_bad: Literal["skip", "raise"] = "skip",
        normalize_dtype: NormalizeDtype = "float16",
        num_threads: int | None = None,
        layout: Layout | None = None,
        cache_dir: str | os.PathLike | None = None,
        impl: str = "auto",
        progress: Progress | None = None,
        storage_options: dict | None = None,
    ) -> None:
        _check_option("split", split, ("train", "val", "test", None))
        _check_option("augment", augment, (False, True, "published"))
        _check_option("on_bad", on_bad, ("skip", "raise"))
        _check_option("normalize_dtype", normalize_dtype, ("float16", "float32"))
        _check_option("impl", impl, ("auto", "cpu", "reference"))
        if augment == "published" and split is None:
            raise ValueError('augment: "published" depends on the split, expected split "train", "val" or "test"')
        if num_threads is not None and num_threads < 1:
            raise ValueError(f"num_threads: expected at least 1 or None, got {num_threads}")
        if not 0 <= seed < 2**32:
            raise ValueError(f"seed: expected 0 to 2**32 - 1, got {seed}")
        self.seed, self.split, self.on_bad, self.normalize_dtype = seed, split, on_bad, normalize_dtype
        self.augmenting = split != "train" if augment == "published" else augment and split in ("train", None)
        self.num_threads, self.impl, self.layout = num_threads or default_threads(), impl, layout or Layout()
        self.index: SegmentIndex = open_index(
            paths, layout=self.layout, cache_dir=cache_dir, on_bad=on_bad, progress=progress,
            storage_options=storage_options,
        )  # fmt: skip
        selected = select(
            self.index, quality=quality, subjects=subjects, exclude_subjects=exclude_subjects,
            exclude_prefixes=tuple(exclude_prefixes), split=split, seed=seed, normalize_dtype=normalize_dtype,
        )  # fmt: skip
        self.rows, self.subjects, self._number, self.rejected, bad = selected
        if bad >= 0 and on_bad == "raise":
            reason = problems.describe(int(self.index.problem[bad]), normalize_dtype)
            raise ValueError(f"{self.index.name(bad)}: segment is {reason} (on_bad='raise'; all: {_listed(self.rejected)})")
        if not len(self.rows):
            listed = ", ".join(shard.path for shard in self.index.shards)
            raise ValueError(f"paths: no segment remains of {listed} (rejected: {_listed(self.rejected)})")
        self.seq_len, self.sampling_freq = self._agreed()
        self._open: _Open | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_open": None}  # each process opens its own

    def subject_of(self, items: np.ndarray) -> np.ndarray:
        """(k,) int64 into `subjects`."""
        return self._number[self.index.subject[self.rows[items]]].astype(np.int64)

    def read(
        self, items: np.ndarray, epoch: int, ppg: np.ndarray, ecg: np.ndarray, threads: int | None = None
    ) -> np.ndarray:
        """Write segments `items` (k,) to the rows of `ppg` and `ecg` (k, L) float32; (k,) bool tells which were good.

        A segment that was good when the index was made and is no longer: ValueError, or with on_bad="skip" its row is
        not written and it is counted in `rejected`. ShardChangedError: a file changed."""
        rows = self.rows[items]
        files = self.index.shard_of(rows)
        opened = self.opened()
        opened.check(np.unique(files))
        found = np.zeros(len(rows), np.uint8)
        settings = {"half": self.normalize_dtype == "float16", "threads": threads or self.num_threads}
        draws = {"seed": self.seed, "epoch": epoch, "items": np.ascontiguousarray(items, np.int64)} if self.augmenting else {}
        mapped = opened.map_of[files] >= 0
        if mapped.all():
            found[:] = self._gather(opened, rows, files, ppg, ecg, settings | draws)
        else:
            for part in (np.flatnonzero(mapped), np.flatnonzero(~mapped)):
                if len(part):
                    some = draws | ({"items": draws["items"][part]} if draws else {})
                    read = self._gather if part is not None and mapped[part[0]] else self._read_arrays
                    out = np.empty((2, len(part), self.seq_len), np.float32)
                    found[part] = read(opened, rows[part], files[part], *out, settings | some)
                    ppg[part], ecg[part] = out
        bad = found & (problems.relevant(self.normalize_dtype))
        if bad.any():
            self._report(rows, files, bad, opened)
        return bad == 0

    def hint(self, items: np.ndarray) -> None:
        """Ask the system to read these segments into the page cache, soon."""
        rows = np.sort(self.rows[items])
        files, opened = self.index.shard_of(rows), self.opened()
        for file in np.unique(files):
            mapping = opened.maps.get(int(file))
            if mapping is None or not hasattr(mapping, "madvise"):
                continue
            extent = self.index.shards[file].format.stride * self.seq_len
            offsets = (self.index.ppg_offset, self.index.ecg_offset)
            starts = np.sort(np.concatenate([offset[rows[files == file]] for offset in offsets]))
            cuts = np.flatnonzero(np.diff(starts) > extent + _HINT_GAP) + 1
            for run in np.split(starts, cuts):
                first = int(run[0]) // mmap.PAGESIZE * mmap.PAGESIZE
                mapping.madvise(mmap.MADV_WILLNEED, first, min(int(run[-1]) + extent, len(mapping)) - first)

    def resident(self, items: np.ndarray) -> float:
        """Share of these segments that the page cache holds, as far as the system tells (else 1)."""
        rows = self.rows[items]
        files, opened = self.index.shard_of(rows), self.opened()
        mapped = opened.map_of[files] >= 0
        if opened.gather is None or not mapped.any():
            return 1.0
        return opened.gather.resident(opened.map_of[files[mapped]], self.index.ppg_offset[rows[mapped]])

    def opened(self) -> "_Open":
        """Maps and files of this process, opened when first needed."""
        if self._open is None or self._open.pid != os.getpid():
            self._open = _Open(self)
        return self._open

    def explain(self) -> str:
        """Which files are mapped and which are not and why, what is used, and what was left out."""
        lines = [shard.describe() for shard in self.index.shards]
        lines += [f"left out: {reason}" for reason in self.index.broken.values()]
        lines.append(f"{len(self):,} of {len(self.index):,} segments of {len(self.subjects):,} subjects are used")
        if self.rejected:
            lines.append(f"rejected: {_listed(self.rejected)}")
        lines.append(
            f"reader: {reader_name(self.impl)}, {self.num_threads} thread(s), {self.normalize_dtype} arithmetic,"
            f" augmentation {'on' if self.augmenting else 'off'}"
        )
        return "\n".join(lines)

    def _gather(self, opened, rows, files, ppg, ecg, settings) -> np.ndarray:
        offsets = self.index.ppg_offset[rows], self.index.ecg_offset[rows]
        return opened.gather.gather(opened.map_of[files], *offsets, ppg, ecg, **settings)

    def _read_arrays(self, opened, rows, files, ppg, ecg, settings) -> np.ndarray:
        """Segments that cannot be mapped, through h5py."""
        found = np.zeros(len(rows), np.uint8)
        for file in np.unique(files):
            part = np.flatnonzero(files == file)
            *signals, found[part] = opened.reader(int(file))(rows[part] - self.index.shards[file].start)
            out = np.empty((2, len(part), self.seq_len), np.float32)
            gather, arguments = gather_arrays(*signals, self.impl)
            some = settings | ({"items": settings["items"][part]} if "items" in settings else {})
            found[part] |= gather.gather(*arguments, *out, **some)
            ppg[part], ecg[part] = out
        return found

    def _report(self, rows: np.ndarray, files: np.ndarray, bad: np.ndarray, opened: "_Open") -> None:
        opened.check(np.unique(files[bad != 0]))
        first = int(np.flatnonzero(bad)[0])
        shard = self.index.shards[files[first]]
        if (bad & (problems.OUTSIDE | problems.UNREADABLE)).any() and shard.mapped:
            raise ShardChangedError(f"shard {shard.path}: cut short while it was mapped")
        reason = problems.describe(int(bad[first]), self.normalize_dtype)
        name = self.index.name(int(rows[first]))
        if self.on_bad == "raise":
            raise ValueError(f"{name}: segment is {reason}, it was not when the index was made")
        found = problems.count(bad, self.normalize_dtype)
        self.rejected += Counter({f"{reason} since indexed": count for reason, count in found.items()})
        warnings.warn(f"{name}: segment is {reason}, it was not when the index was made; left out", stacklevel=4)

    def _agreed(self) -> tuple[int, float | None]:
        """Samples and rate of all shards that are used; ValueError where they differ."""
        used = [self.index.shards[i].sidecar.scan for i in np.unique(self.index.shard_of(self.rows))]
        paths = [self.index.shards[i].path for i in np.unique(self.index.shard_of(self.rows))]
        for scan, path in zip(used, paths, strict=True):
            if scan.seq_len != used[0].seq_len:
                raise ValueError(
                    f"shard {path}: expected segments of {used[0].seq_len} samples as in {paths[0]}, got {scan.seq_len}"
                )
        rates = {scan.sampling_freq for scan in used} - {None}
        if len(rates) > 1:
            raise ValueError(f"paths: expected one sampling frequency, got {', '.join(f'{r:g}' for r in sorted(rates))} Hz")
        return used[0].seq_len, rates.pop() if rates else None


class _Open:
    """A process's maps of the shards that can be mapped, and files of the others."""

    def __init__(self, segments: Segments) -> None:
        self.pid = os.getpid()
        self.shards = segments.index.shards
        self.layout = segments.layout
        self.status: dict[int, tuple] = {}
        self.maps: dict[int, mmap.mmap] = {}
        self.readers: dict[int, SegmentReader] = {}
        self.map_of = np.full(len(self.shards), -1, np.int32)
        used = np.unique(segments.index.shard_of(segments.rows))
        for i in used.tolist():
            self._open(i)
        formats = [self.shards[i].format for i in self.maps]
        maps = list(self.maps.values())
        self.gather = make_gather(maps, formats, segments.seq_len, segments.impl) if maps else None

    def check(self, files: np.ndarray) -> None:
        """ShardChangedError unless these files are the ones that were opened, unchanged."""
        for i in files.tolist():
            path = self.shards[i].path
            try:
                status = _status(os.stat(path))
            except FileNotFoundError:
                raise ShardChangedError(f"shard {path}: expected the file that was indexed, found nothing") from None
            if status != self.status[i]:
                self._compare(i, status)

    def reader(self, i: int) -> SegmentReader:
        if i not in self.readers:
            sidecar = self.shards[i].sidecar
            scan = sidecar.scan
            scan.key = sidecar.keys() if scan.form == "published" else None
            self.readers[i] = SegmentReader(open_shard(self.shards[i].path), scan, self.layout)
        return self.readers[i]

    def _open(self, i: int) -> None:
        path = self.shards[i].path
        if not os.path.isfile(path):
            raise FileNotFoundError(f"shard {path}: expected an HDF5 file, found nothing")
        with open(path, "rb") as file:
            self.status[i] = _status(os.fstat(file.fileno()))
            self._compare(i, self.status[i])
            if self.shards[i].mapped:
                self.map_of[i] = len(self.maps)
                self.maps[i] = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    def _compare(self, i: int, status: tuple) -> None:
        """Against the index. A file that was only touched passes."""
        shard, expected = self.shards[i], self.shards[i].sidecar.valid_for
        size, mtime_ns = status[:2]
        same_file = i not in self.maps or status[2:] == self.status[i][2:]
        if size != expected["size"] or not same_file or (
            mtime_ns != expected["mtime_ns"] and content_probe(shard.path, size) != expected["probe"]
        ):  # fmt: skip
            raise ShardChangedError(
                f"shard {shard.path}: expected the file that was indexed ({expected['size']:,} bytes), it was changed or"
                f" replaced ({size:,} bytes)"
            )
        self.status[i] = status


def _status(status: os.stat_result) -> tuple:
    return status.st_size, status.st_mtime_ns, status.st_dev, status.st_ino


def _listed(counts: Counter[str]) -> str:
    return ", ".join(f"{count:,} {reason}" for reason, count in counts.most_common()) or "none"


def _check_option(name: str, value: object, allowed: tuple) -> None:
    if value not in allowed:
        raise ValueError(f"{name}: expected one of {', '.join(map(repr, allowed))}, got {value!r}")
