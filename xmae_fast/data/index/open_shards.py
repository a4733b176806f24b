"""The shards that a process has open, as memory maps or files, and checks that they are still what was indexed."""

import mmap
import os

import numpy as np

from xmae_fast.data.formats.layout import Layout
from xmae_fast.data.formats.linked import content_probe, is_same
from xmae_fast.data.formats.shards import open_shard
from xmae_fast.data.gather import make_gather
from xmae_fast.data.index.segment_index import SegmentIndex
from xmae_fast.data.index.segment_reader import SegmentReader


class ShardChangedError(OSError):
    """A shard was replaced, changed or cut short after its index was opened."""


class OpenShards:
    """Opens shards for one process: as memory maps where this is possible, else as files.

    Attributes:
        maps: the memory maps, by the shard's number.
        map_of: [number of shards] int32, the place of each shard in `maps`, or -1.
        gather: the reader over the maps; None if there is no map.

    Args:
        index: the index of the shards.
        used: the numbers of the shards to open.
        seq_len: L.
        layout: the names of data sets and columns.
        impl: the reader, see `make_gather`.
        signals: "both", or "ppg" to read no ECG.

    Raises:
        FileNotFoundError: a shard is missing.
        ShardChangedError: a shard is not what was indexed.
    """

    def __init__(
        self, index: SegmentIndex, used: np.ndarray, seq_len: int, layout: Layout, impl: str, signals: str = "both"
    ) -> None:
        self.pid = os.getpid()
        self.shards, self.layout, self.signals = index.shards, layout, signals
        self.status: dict[int, tuple] = {}
        self.maps: dict[int, mmap.mmap] = {}
        self.readers: dict[int, SegmentReader] = {}
        self.map_of = np.full(len(self.shards), -1, np.int32)
        for i in used.tolist():
            self._open(i)
        formats = [self.shards[i].format for i in self.maps]
        maps = list(self.maps.values())
        self.gather = make_gather(maps, formats, seq_len, impl) if maps else None

    def check(self, files: np.ndarray) -> None:
        """Check that the shards with the numbers `files` are the files that were opened, and unchanged.

        Raises:
            ShardChangedError: a shard was replaced, changed or removed, or a file that it takes data from.
        """
        for i in files.tolist():
            path = self.shards[i].path
            try:
                status = _status(os.stat(path))
            except FileNotFoundError:
                raise ShardChangedError(f"shard {path}: expected the file that was indexed, found nothing") from None
            if status != self.status[i]:
                self._compare(i, status)
            self._check_others(i)

    def reader(self, i: int) -> SegmentReader:
        """The reader of shard `i` through h5py, which is opened when it is first needed."""
        if i not in self.readers:
            shard = self.shards[i]
            keys = shard.sidecar.keys() if shard.header.form == "published" else None
            file = open_shard(shard.path)
            self.readers[i] = SegmentReader(file, self.layout, shard.header, keys, self.signals)
        return self.readers[i]

    def _open(self, i: int) -> None:
        path = self.shards[i].path
        if not os.path.isfile(path):
            raise FileNotFoundError(f"shard {path}: expected an HDF5 file, found nothing")
        self._check_others(i)
        with open(path, "rb") as file:
            self._compare(i, _status(os.fstat(file.fileno())))
            if self.shards[i].mapped:
                self.map_of[i] = len(self.maps)
                self.maps[i] = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    def _check_others(self, i: int) -> None:
        """Check the other files that the shard takes data from; nearly no shard has any."""
        for other, known in self.shards[i].sidecar.valid_for.get("others", {}).items():
            if known and not is_same(other, known):  # a file that was missing holds no segment that is used
                what = f"it takes data from {other}: expected the file that was indexed, found another or none"
                raise ShardChangedError(f"shard {self.shards[i].path}: {what}")

    def _compare(self, i: int, status: tuple) -> None:
        """Compare a file with the index. A file passes if only its time has changed."""
        path, expected = self.shards[i].path, self.shards[i].sidecar.valid_for
        size, mtime_ns, *file = status
        changed = size != expected["size"] or (i in self.status and file != list(self.status[i][2:]))
        if not changed and mtime_ns != expected["mtime_ns"]:
            changed = content_probe(path, size) != expected["probe"]
        if changed:
            was = expected["size"]
            raise ShardChangedError(
                f"shard {path}: expected the file that was indexed, {was:,} bytes; it was changed or replaced, {size:,}"
            )
        self.status[i] = status


def _status(status: os.stat_result) -> tuple:
    """What tells a file and its version from others."""
    return status.st_size, status.st_mtime_ns, status.st_dev, status.st_ino
