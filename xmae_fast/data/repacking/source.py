"""Reads what `repack` copies from shards: signals as they are stored, and the tables beside them."""

import os
from collections.abc import Iterator
from typing import Any

import numpy as np

from xmae_fast.data import problems
from xmae_fast.data.formats.packed import Table
from xmae_fast.data.formats.shards import import_h5py, open_shard
from xmae_fast.data.gather import make_gather
from xmae_fast.data.index.open_shards import ShardChangedError
from xmae_fast.data.index.segment_index import Shard
from xmae_fast.data.segments import Segments


class RepackSource:
    """Reads the selected segments of shards.

    Attributes:
        used: the numbers of the shards that have selected segments.

    Args:
        segments: the selected segments.
        dtype: the type that signals are converted to.
    """

    def __init__(self, segments: Segments, dtype: np.dtype) -> None:
        self.segments, self.dtype = segments, dtype
        self.used = np.unique(segments.index.shard_of(segments.rows)).tolist()
        self.gathers: dict[int, Any] = {}

    def read(self, start: int, stop: int, ahead: int | None = None) -> np.ndarray:
        """Read segments [start, stop).

        Args:
            start: the first segment.
            stop: one more than the last segment.
            ahead: if given, the system is asked to read segments [stop, ahead) meanwhile.

        Returns:
            The signals, [S, stop - start, L]: PPG and ECG, or the PPG alone.

        Raises:
            ShardChangedError: a shard is not what was indexed.
        """
        rows = self.segments.rows[start:stop]
        files = self.segments.index.shard_of(rows)
        opened = self.segments.opened()
        if ahead is not None and stop < min(ahead, len(self.segments)):
            self.segments.hint(np.arange(stop, min(ahead, len(self.segments))))
        out = np.empty((len(self.segments.names), len(rows), self.segments.seq_len), self.dtype)
        present = np.unique(files)
        for file in present.tolist():
            first, last = np.searchsorted(files, [file, file + 1])
            out[:, first:last] = self._of_shard(file, rows[first:last])[: len(out)]
        opened.check(present)  # after the copy, so that what was copied comes from the file that was indexed
        return out

    def tables(self) -> dict[str, Table]:
        """The data sets beside the signals, which say whose each segment is, how good it is, and where it is from."""
        segments, index = self.segments, self.segments.index
        n, rows = len(segments), segments.rows
        names = np.array([_utf8(name) for name in segments.subjects])
        place = np.full(len(index.shards), -1, np.int32)
        place[self.used] = np.arange(len(self.used))
        sources = self.sources()
        columns = {
            "subject": segments.subject_of(np.arange(n)).astype(np.int32),
            "subjects": names.astype(_text(names.dtype.itemsize)),
            "ppg_quality": index.quality[rows, 0],
            "ecg_quality": index.quality[rows, 1],
            "source": place[index.shard_of(rows)],
            "sources": sources,
        }
        if segments.signals == "ppg":
            del columns["ecg_quality"]
        tables = {name: Table(values.shape, values.dtype, [values]) for name, values in columns.items()}
        width = max(keys.dtype.itemsize for keys in self._keys())
        return tables | {"key": Table((n,), np.dtype(f"S{width}"), self._keys())}

    def _of_shard(self, file: int, rows: np.ndarray) -> np.ndarray:
        """PPG and ECG of rows [k] of a shard, [2, k, L] of the stored type in native byte order; the PPG twice if no
        ECG is copied."""
        index, opened = self.segments.index, self.segments.opened()
        shard = index.shards[file]
        if shard.mapped:
            if file not in self.gathers:
                settings = [opened.maps[file]], [shard.format], self.segments.seq_len, self.segments.impl
                self.gathers[file] = make_gather(*settings)
            signals = np.empty((2, len(rows), self.segments.seq_len), shard.format.dtype.newbyteorder("="))
            places = np.zeros(len(rows), np.int32), index.ppg_offset[rows], self.segments.ecg_offset[rows]
            found = self.gathers[file].copy(*places, *signals.view(np.uint8), self.segments.num_threads)
        else:
            *signals, found = opened.reader(file)(rows - shard.start)
            signals = np.stack(signals)
        if found.any():
            opened.check(np.array([file]))
            first = int(np.flatnonzero(found)[0])
            reason = problems.describe(int(found[first]), self.segments.normalize_dtype)
            raise ShardChangedError(f"{index.name(int(rows[first]))}: {reason}, it was not when the index was made")
        return signals

    def _keys(self) -> Iterator[np.ndarray]:
        """The names of the records in their shards, [k] bytes for each shard in turn."""
        index = self.segments.index
        bounds = np.searchsorted(self.segments.rows, [(index.shards[i].start, index.shards[i].stop) for i in self.used])
        for i, (first, last) in zip(self.used, bounds.tolist(), strict=True):
            rows = self.segments.rows[first:last] - index.shards[i].start
            yield np.array(record_names(index.shards[i])[rows].tolist())

    def sources(self) -> np.ndarray:
        """The data set `sources`: a row for each shard."""
        shards = [self.segments.index.shards[i] for i in self.used]
        paths = [os.fsencode(shard.path) for shard in shards]
        fields = [("path", _text(max(map(len, paths)))), ("size", "i8"), ("mtime_ns", "i8"), ("probe", "S32")]
        known = [shard.sidecar.valid_for for shard in shards]
        rows = [(p, k["size"], k["mtime_ns"], k["probe"].encode()) for p, k in zip(paths, known, strict=True)]
        return np.array(rows, fields)


def record_names(shard: Shard) -> np.ndarray:
    """The names of all records of a shard; if it is packed and has a data set `key`, the names in it.

    Returns:
        [n] bytes.

    Raises:
        ShardChangedError: the index does not have as many segments as the shard.
    """
    n = shard.stop - shard.start
    names = shard.sidecar.keys()
    if shard.header.form == "packed":
        with open_shard(shard.path) as file:
            own = file.get("key")
            if isinstance(own, import_h5py().Dataset) and own.shape == (n,) and own.dtype.kind == "S":
                names = own[()]
    if len(names) != n:
        raise ShardChangedError(f"shard {shard.path}: expected an index of {n:,} segments, its file has {len(names):,}")
    return names


def _text(width: int) -> np.dtype:
    return import_h5py().string_dtype("utf-8", max(width, 1))


def _utf8(name: str) -> bytes:
    try:
        return name.encode()
    except UnicodeEncodeError:
        raise ValueError(f"subjects: expected names in UTF-8, got {name!r}") from None
