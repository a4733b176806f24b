"""The copy that `repack` makes: laid out, filled block by block, read again; it survives interruptions."""

import errno
import hashlib
import json
import os
import shutil
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from datetime import UTC, datetime

import numpy as np

from xmae_fast._version import __version__
from xmae_fast.data.formats import packed
from xmae_fast.data.index.open_shards import ShardChangedError
from xmae_fast.data.repacking.journal import Journal
from xmae_fast.data.repacking.source import RepackSource
from xmae_fast.data.segments import Segments
from xmae_fast.workers.progress import Progress

_BLOCK_ROWS, _BLOCK_BYTES = 4096, 1 << 24  # segments, and bytes of one signal, that are copied at a time
_JOURNAL_S = 2.0  # seconds between two entries of the journal: the work that a crash may cost
_MARGIN = 1 << 20  # bytes for the structure of the HDF5 file


class PackedCopy:
    """The work on one unfinished file.

    Args:
        segments: what is copied.
        dtype: of the signals in the copy.
        settings: the selection and the dtype that `repack` was asked for.
        fd: the descriptor of the unfinished file.
        journal: says how far the copy has come.
        progress: is called with ("copy" or "verify", segments that are done, segments in all).
    """

    def __init__(
        self,
        segments: Segments,
        dtype: np.dtype,
        settings: dict,
        fd: int,
        journal: Journal,
        progress: Progress | None,
    ) -> None:
        self.segments, self.dtype, self.settings, self.fd, self.journal = segments, dtype, settings, fd, journal
        self.names = segments.names
        self.shape = len(segments), segments.seq_len
        self.row = segments.seq_len * dtype.itemsize
        self.block = max(1, min(_BLOCK_ROWS, _BLOCK_BYTES // self.row))
        self.source = RepackSource(segments, dtype)
        self.progress = progress or (lambda *_: None)
        self.offsets: dict[str, int] = {}

    def prepare(self, folder: str) -> int:
        """Go on with the work of an earlier call, or lay out the file.

        Args:
            folder: the folder of the output.

        Returns:
            The number of segments that are copied already.

        Raises:
            OSError: `folder` does not have enough free space.
        """
        identity = self._identity()
        offsets = (
            packed.signal_offsets(self.fd, self.shape, self.dtype, self.names) if self.journal.load(identity) else None
        )
        if offsets is None:
            self.journal.remove()  # first, so that it never describes another file
            os.ftruncate(self.fd, 0)
        tables = self.source.tables()
        needed = _MARGIN + len(self.names) * self.shape[0] * self.row
        needed += sum(table.shape[0] * np.dtype(table.dtype).itemsize for table in tables.values())
        free = shutil.disk_usage(folder).free + 512 * os.fstat(self.fd).st_blocks
        if free < needed:
            raise OSError(errno.ENOSPC, f"output: expected {needed:,} bytes of free space in {folder}, found {free:,}")
        if offsets is None:
            packed.create_packed(self.fd, self.shape, self.dtype, tables, self.attributes(), self.names)
            os.fsync(self.fd)
            offsets = packed.signal_offsets(self.fd, self.shape, self.dtype, self.names)
            if offsets is None:
                raise OSError(errno.EIO, f"output: the file in {folder} is not as it was just laid out")
            self.journal.start(identity)
        self.offsets = offsets
        return min(self.journal.blocks * self.block, len(self.segments))

    def run(self) -> None:
        """Copy what is not copied yet. The journal never lists a block that is not on the disk."""
        written = time.monotonic()
        with ThreadPoolExecutor(len(self.names)) as pool:
            for number in range(self.journal.blocks, -(-len(self.segments) // self.block)):
                start, stop, places = self._block(number)
                signals = self.source.read(start, stop, ahead=stop + self.block)
                self.journal.add(list(pool.map(self._store, signals, places)))
                if stop == len(self.segments) or time.monotonic() - written >= _JOURNAL_S:
                    os.fsync(self.fd)
                    self.journal.write()
                    written = time.monotonic()
                self.progress("copy", stop, len(self.segments))

    def verify(self) -> dict[str, str]:
        """Compare what the disk holds with what was read from the shards. Blocks that differ are copied once more.

        Returns:
            The checksums of the signals, by name.

        Raises:
            OSError: a block differs again.
            ShardChangedError: a shard has changed since it was copied.
        """
        checksums, wrong = self._read_back()
        if wrong:
            where = f"{len(wrong)} block(s), the first at segment {wrong[0] * self.block:,}"
            warnings.warn(f"output: {where}, differ from the shards and are copied again", stacklevel=3)
            for number in wrong:
                self._copy_again(number)
            os.fsync(self.fd)
            checksums, wrong = self._read_back()
        if wrong:
            raise OSError(errno.EIO, f"output: the disk does not hold what was written ({where})")
        return checksums

    def _read_back(self) -> tuple[dict[str, str], list[int]]:
        """The checksums of the signals, and the numbers of the blocks that differ from the journal."""
        if hasattr(os, "posix_fadvise"):  # so that the file is read from the disk and not from memory
            os.posix_fadvise(self.fd, 0, 0, os.POSIX_FADV_DONTNEED)
        digests, wrong = [hashlib.sha256() for _ in self.names], []

        def read(digest, place: int, size: int) -> str:
            data = packed.read_at(self.fd, size, place)
            digest.update(data)
            return hashlib.sha256(data).hexdigest()

        with ThreadPoolExecutor(len(self.names)) as pool:
            for number in range(self.journal.blocks):
                start, stop, places = self._block(number)
                found = list(pool.map(read, digests, places, [(stop - start) * self.row] * len(self.names)))
                if found != self.journal.digests[number]:
                    wrong.append(number)
                self.progress("verify", stop, len(self.segments))
        return {name: f"sha256:{digest.hexdigest()}" for name, digest in zip(self.names, digests, strict=True)}, wrong

    def _copy_again(self, number: int) -> None:
        start, stop, places = self._block(number)
        signals = self.source.read(start, stop)
        if list(map(self._store, signals, places)) != self.journal.digests[number]:
            self.journal.remove()  # other blocks may have changed as well
            raise ShardChangedError(f"paths: segments {start:,} to {stop - 1:,} changed while they were copied")

    def _block(self, number: int) -> tuple[int, int, list[int]]:
        """The segments [start, stop) of a block, and where in the file their signals go, in bytes."""
        start = number * self.block
        places = [self.offsets[name] + start * self.row for name in self.names]
        return start, min(start + self.block, len(self.segments)), places

    def _store(self, signal: np.ndarray, place: int) -> str:
        """Write a block of one signal; its SHA-256."""
        packed.write_at(self.fd, signal, place)
        return hashlib.sha256(signal.data).hexdigest()

    def _identity(self) -> str:
        """A hash of everything that decides the content of the file."""
        content = {
            "form": [packed.FORMAT_VERSION, __version__, self.dtype.str, *self.shape, self.block],
            "settings": self.settings,
            "shards": [[shard.path, shard.sidecar.valid_for] for shard in self.segments.index.shards],
            "rows": hashlib.sha256(self.segments.rows.data).hexdigest(),
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def attributes(self) -> dict:
        """Those of the root of the file, which say how it was made."""
        segments = self.segments
        rate = {"sampling_freq": segments.sampling_freq} if segments.sampling_freq else {}
        return rate | {
            "format": packed.FORMAT,
            **packed.version_attributes(self.names),
            "xmae_fast_version": __version__,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "selection": json.dumps(self.settings | {"layout": asdict(segments.layout)}),
            "rejected": json.dumps(dict(segments.rejected.most_common())),
            "broken": json.dumps(segments.index.broken),
        }
