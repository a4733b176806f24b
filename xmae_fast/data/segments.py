"""What data set and loader share: selected segments of shards by number, their memory maps, and reading of many."""

import mmap
import os
import warnings
from collections import Counter
from collections.abc import Iterable
from typing import Literal

import numpy as np

from xmae_fast.data import problems
from xmae_fast.data.augment import NormalizeDtype
from xmae_fast.data.formats.layout import Layout
from xmae_fast.data.formats.packed import SIGNALS
from xmae_fast.data.gather import default_threads, gather_arrays, reader_name
from xmae_fast.data.index.open_shards import OpenShards, ShardChangedError
from xmae_fast.data.index.segment_index import Paths, SegmentIndex, open_index
from xmae_fast.data.options import Quality, check_option, check_reading
from xmae_fast.data.ppg_alone import problems_of_ppg, signals_of
from xmae_fast.data.selection import select
from xmae_fast.data.splits import EXCLUDED_PREFIXES
from xmae_fast.workers.progress import Progress

_HINT_GAP = 1 << 16  # segments that are at most this many bytes apart are read ahead together


class Segments:
    """The selected segments of shards, numbered 0 to len - 1; for the arguments see `SegmentDataset`.

    `signals` may also be None, which reads the PPG alone if no shard has ECG."""

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
        signals: Literal["both", "ppg"] | None = "both",
    ) -> None:
        self.augmenting = check_reading(split, augment, on_bad, normalize_dtype)
        check_option("impl", impl, ("auto", "cpu", "reference"))
        check_option("signals", signals, ("both", "ppg", None))
        if isinstance(exclude_prefixes, str):
            raise ValueError(f"exclude_prefixes: expected a list of beginnings, got the text {exclude_prefixes!r}")
        if num_threads is not None and num_threads < 1:
            raise ValueError(f"num_threads: expected at least 1 or None, got {num_threads}")
        if not 0 <= seed < 2**32:
            raise ValueError(f"seed: expected 0 to 2**32 - 1, got {seed}")
        self.seed, self.split, self.on_bad, self.normalize_dtype = seed, split, on_bad, normalize_dtype
        self.num_threads, self.impl, self.layout = num_threads or default_threads(), impl, layout or Layout()
        self.index: SegmentIndex = open_index(
            paths, layout=self.layout, cache_dir=cache_dir, on_bad=on_bad, progress=progress,
            storage_options=storage_options,
        )  # fmt: skip
        self.signals = signals_of(self.index.shards, signals, self.layout)
        if self.signals == "ppg":
            self.index.problem = problems_of_ppg(self.index, self.layout)
        selected = select(
            self.index, signals=self.signals, quality=quality, subjects=subjects, exclude_subjects=exclude_subjects,
            exclude_prefixes=tuple(exclude_prefixes), split=split, seed=seed, normalize_dtype=normalize_dtype,
        )  # fmt: skip
        self.rows, self.subjects, self._number, self.rejected, bad = selected
        if bad >= 0 and on_bad == "raise":
            reason = problems.describe(int(self.index.problem[bad]), normalize_dtype)
            raise ValueError(
                f"{self.index.name(bad)}: segment is {reason} (on_bad='raise'; rejected: {_listed(self.rejected)})"
            )
        if not len(self.rows):
            listed = ", ".join(shard.path for shard in self.index.shards)
            raise ValueError(f"paths: no segment remains of {listed} (rejected: {_listed(self.rejected)})")
        self.seq_len, self.sampling_freq = self._agreed()
        self._open: OpenShards | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_open": None}  # each process opens the files itself

    def subject_of(self, items: np.ndarray | slice) -> np.ndarray:
        """The numbers of the subjects of segments `items` [k] in `subjects`, [k] int64."""
        return self._number[self.index.subject[self.rows[items]]].astype(np.int64)

    def labels_of(self, items: np.ndarray) -> dict[str, np.ndarray]:
        """The labels of segments `items` [k], [k] each, by name."""
        return {name: values[self.rows[items]] for name, values in self.index.labels.items()}

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the signals that are read, as batches and packed files have them."""
        return SIGNALS if self.signals == "both" else SIGNALS[:1]

    @property
    def ecg_offset(self) -> np.ndarray:
        """[n] where the second signal of the index's segments lies; with signals="ppg" it is the PPG once more, which
        costs no reading."""
        return self.index.ppg_offset if self.signals == "ppg" else self.index.ecg_offset

    def read(self, items: np.ndarray, epoch: int, ppg: np.ndarray, ecg: np.ndarray) -> np.ndarray:
        """Read segments, augment them if this is wanted, and normalise them.

        Args:
            items: [k], the numbers of the segments.
            epoch: decides the augmentation together with the seed and the items.
            ppg: [k, L] float32, is written.
            ecg: [k, L] float32, is written; with signals="ppg" its values are of no use.

        Returns:
            [k] bool, whether each segment was good. With on_bad="skip", a segment that has become unusable since it was
            indexed is counted in `rejected`, and its row is not written.

        Raises:
            ValueError: a segment has become unusable since it was indexed, and `on_bad` is "raise".
            ShardChangedError: a file has changed since it was indexed.
        """
        rows = self.rows[items]
        files = self.index.shard_of(rows)
        opened = self.opened()
        opened.check(np.unique(files))
        found = np.zeros(len(rows), np.uint8)
        settings = {"half": self.normalize_dtype == "float16", "threads": self.num_threads}
        if self.augmenting:
            settings |= {"seed": self.seed, "epoch": epoch, "items": np.ascontiguousarray(items, np.int64)}
        mapped = opened.map_of[files] >= 0
        if mapped.all():
            found[:] = self._gather(opened, rows, files, ppg, ecg, settings)
        else:
            for those, read in ((mapped, self._gather), (~mapped, self._read_arrays)):
                part = np.flatnonzero(those)
                if not len(part):
                    continue
                out = np.empty((2, len(part), self.seq_len), np.float32)
                found[part] = read(opened, rows[part], files[part], out[0], out[1], _of_part(settings, part))
                ppg[part], ecg[part] = out
        bad = found & (problems.relevant(self.normalize_dtype))
        if bad.any():
            self._report(rows, files, bad, opened)
        return bad == 0

    def hint(self, items: np.ndarray) -> None:
        """Ask the system to read segments `items` [k] into the page cache soon."""
        if not len(items):
            return
        rows = np.sort(self.rows[items])
        files, opened = self.index.shard_of(rows), self.opened()
        for file in np.unique(files):
            mapping = opened.maps.get(int(file))
            if mapping is None or not hasattr(mapping, "madvise"):
                continue
            extent = self.index.shards[file].format.stride * self.seq_len
            offsets = (self.index.ppg_offset, self.index.ecg_offset)[: len(self.names)]
            starts = np.sort(np.concatenate([offset[rows[files == file]] for offset in offsets]))
            cuts = np.flatnonzero(np.diff(starts) > extent + _HINT_GAP) + 1
            for run in np.split(starts, cuts):
                first = int(run[0]) // mmap.PAGESIZE * mmap.PAGESIZE
                mapping.madvise(mmap.MADV_WILLNEED, first, min(int(run[-1]) + extent, len(mapping)) - first)

    def resident(self, items: np.ndarray) -> float:
        """The share of segments `items` [k] that the page cache holds; 1 where the system does not tell."""
        rows = self.rows[items]
        files, opened = self.index.shard_of(rows), self.opened()
        mapped = opened.map_of[files] >= 0
        if opened.gather is None or not mapped.any():
            return 1.0
        return opened.gather.resident(opened.map_of[files[mapped]], self.index.ppg_offset[rows[mapped]])

    def opened(self) -> OpenShards:
        """The maps and files of this process, which are opened when they are first needed."""
        if self._open is None or self._open.pid != os.getpid():
            used = np.unique(self.index.shard_of(self.rows))
            self._open = OpenShards(self.index, used, self.seq_len, self.layout, self.impl, self.signals)
        return self._open

    def close(self) -> None:
        """Close the maps and files of this process; they are opened again when they are needed."""
        self._open = None

    def explain(self) -> str:
        """Says which files are mapped and why others are not, what is used, and what was left out."""
        lines = [shard.describe() for shard in self.index.shards]
        lines += [f"left out: {reason}" for reason in self.index.broken.values()]
        lines.append(f"{len(self):,} of {len(self.index):,} segments of {len(self.subjects):,} subjects are used")
        if self.rejected:
            lines.append(f"rejected: {_listed(self.rejected)}")
        lines.append(
            f"reader: {reader_name(self.impl)}, {self.num_threads} thread(s), {self.normalize_dtype} arithmetic,"
            f" augmentation {'on' if self.augmenting else 'off'}{', PPG alone' if self.signals == 'ppg' else ''}"
        )
        return "\n".join(lines)

    def _gather(self, opened, rows, files, ppg, ecg, settings) -> np.ndarray:
        offsets = self.index.ppg_offset[rows], self.ecg_offset[rows]
        return opened.gather.gather(opened.map_of[files], *offsets, ppg, ecg, **settings)

    def _read_arrays(self, opened, rows, files, ppg, ecg, settings) -> np.ndarray:
        """The same as `_gather` through h5py, for segments that cannot be mapped."""
        found = np.zeros(len(rows), np.uint8)
        for file in np.unique(files):
            part = np.flatnonzero(files == file)
            stored_ppg, stored_ecg, found[part] = opened.reader(int(file))(rows[part] - self.index.shards[file].start)
            out = np.empty((2, len(part), self.seq_len), np.float32)
            gather, arguments = gather_arrays(stored_ppg, stored_ecg, self.impl)
            found[part] |= gather.gather(*arguments, out[0], out[1], **_of_part(settings, part))
            ppg[part], ecg[part] = out
        return found

    def _report(self, rows: np.ndarray, files: np.ndarray, bad: np.ndarray, opened: OpenShards) -> None:
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
        """(L, sampling frequency) of the shards that are used; ValueError if they do not agree."""
        used = [self.index.shards[i] for i in np.unique(self.index.shard_of(self.rows))]
        L, first = used[0].header.seq_len, used[0].path
        for shard in used:
            if (got := shard.header.seq_len) != L:
                raise ValueError(f"shard {shard.path}: expected segments of {L} samples as in {first}, got {got}")
        rates = {shard.header.sampling_freq for shard in used} - {None}
        if len(rates) > 1:
            listed = ", ".join(f"{rate:g}" for rate in sorted(rates))
            raise ValueError(f"paths: expected one sampling frequency, got {listed} Hz")
        return L, rates.pop() if rates else None


def _of_part(settings: dict, part: np.ndarray) -> dict:
    """The settings of `gather` for a part of its segments."""
    return settings | ({"items": settings["items"][part]} if "items" in settings else {})


def _listed(counts: Counter[str]) -> str:
    return ", ".join(f"{count:,} {reason}" for reason, count in counts.most_common()) or "none"
