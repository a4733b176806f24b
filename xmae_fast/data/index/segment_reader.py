"""Reads segments of a shard through h5py, for shards that cannot be read from a memory map."""

from __future__ import annotations

from contextlib import suppress
from itertools import pairwise

import numpy as np

from xmae_fast.data import problems
from xmae_fast.data.formats.layout import Layout
from xmae_fast.data.index.shard_scan import ShardHeader

_UNREADABLE = (KeyError, OSError, RuntimeError, ValueError, IndexError)


class SegmentReader:
    """Reads segments of a scanned shard through h5py, wherever their bytes are.

    Args:
        file: the open h5py.File.
        layout: the names of its data sets and columns.
        header: what the scan found out about the shard.
        keys: [n] bytes, the names of the records; needed in the published layout only.
        signals: "both", or "ppg" to read no ECG; a shard without ECG is read as with "ppg".
    """

    def __init__(
        self, file, layout: Layout, header: ShardHeader, keys: np.ndarray | None, signals: str = "both"
    ) -> None:
        self.file, self.layout, self.header = file, layout, header
        self.keys = keys if keys is not None else np.empty(0, "S1")  # a packed file needs none
        count = 1 if "ppg" in (signals, header.signals) else 2
        self.columns = [layout.columns.index(name) for name in ("ppg", "ecg")[:count]]
        self.names = (layout.ppg, layout.ecg)[:count]

    def __call__(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Read segments.

        Args:
            rows: [k], the numbers of the segments in the shard, in any order.

        Returns:
            PPG and ECG, [k, L] each in the stored type, and the problems, [k] uint8: 0 or `problems.UNREADABLE`. If no
            ECG is read, the second is the PPG again.
        """
        signals = np.zeros((len(self.names), len(rows), self.header.seq_len), self.header.dtype)
        found = np.zeros(len(rows), np.uint8)
        if self.header.form == "packed":
            self._read_packed(rows, signals, found)
        else:
            for i, row in enumerate(rows):
                found[i] = self._read_record(row, signals[:, i])
        return signals[0], signals[-1], found

    def _read_packed(self, rows: np.ndarray, signals: np.ndarray, found: np.ndarray) -> None:
        order = np.argsort(rows, kind="stable")
        for start, stop in _runs(rows[order]):
            at, first = order[start:stop], int(rows[order[start]])
            last = int(rows[order[stop - 1]])
            try:
                for k, name in enumerate(self.names):
                    signals[k, at] = self.file[name][first : last + 1][rows[at] - first]
            except _UNREADABLE:
                found[at] = self._read_one_by_one(rows[at], signals, at)

    def _read_one_by_one(self, rows: np.ndarray, signals: np.ndarray, at: np.ndarray) -> np.ndarray:
        """Read the rows of a block that could not be read as a whole: the damage may be in one row only."""
        found = np.zeros(len(rows), np.uint8)
        for i, row in enumerate(rows.tolist()):
            with suppress(*_UNREADABLE):
                for k, name in enumerate(self.names):
                    signals[k, at[i]] = self.file[name][row]
                continue
            found[i] = problems.UNREADABLE
        return found

    def _read_record(self, row: int, signals: np.ndarray) -> int:
        with suppress(*_UNREADABLE):
            signals[:] = self.file[self.keys[row]][()][:, self.columns].T
            return 0
        return problems.UNREADABLE


def _runs(rows: np.ndarray, gap: int = 16) -> list[tuple[int, int]]:
    """Ranges [start, stop) of positions in the sorted `rows`; neighbours in a range are at most `gap` apart."""
    cuts = np.flatnonzero(np.diff(rows) > gap) + 1
    bounds = [0, *cuts.tolist(), len(rows)]
    return [(a, b) for a, b in pairwise(bounds) if b > a]
