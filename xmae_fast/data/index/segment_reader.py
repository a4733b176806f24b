"""Segments that cannot be mapped, through h5py."""

from __future__ import annotations

from contextlib import suppress
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from xmae_fast.data import problems
from xmae_fast.data.formats.layout import Layout

if TYPE_CHECKING:
    from xmae_fast.data.index.scan import Scan

_UNREADABLE = (KeyError, OSError, RuntimeError, ValueError, IndexError)


class SegmentReader:
    """Segments of a scanned shard through h5py, wherever their bytes are."""

    def __init__(self, file, scan: Scan, layout: Layout) -> None:
        self.file, self.scan, self.layout = file, scan, layout
        self.columns = [layout.columns.index(name) for name in ("ppg", "ecg")]

    def __call__(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(ppg, ecg, problems): (k, L) of the stored dtype and (k,) uint8, of rows in any order."""
        signals = np.zeros((2, len(rows), self.scan.seq_len), self.scan.dtype)
        found = np.zeros(len(rows), np.uint8)
        if self.scan.form == "packed":
            self._read_packed(rows, signals, found)
        else:
            for i, row in enumerate(rows):
                found[i] = self._read_record(row, signals[:, i])
        return signals[0], signals[1], found

    def _read_packed(self, rows: np.ndarray, signals: np.ndarray, found: np.ndarray) -> None:
        order = np.argsort(rows, kind="stable")
        for start, stop in _runs(rows[order]):
            at, first = order[start:stop], int(rows[order[start]])
            last = int(rows[order[stop - 1]])
            try:
                for k, name in enumerate((self.layout.ppg, self.layout.ecg)):
                    signals[k, at] = self.file[name][first : last + 1][rows[at] - first]
            except _UNREADABLE:
                found[at] = self._read_one_by_one(rows[at], signals, at)

    def _read_one_by_one(self, rows: np.ndarray, signals: np.ndarray, at: np.ndarray) -> np.ndarray:
        """After a block failed: the damage may be in one of its rows only."""
        found = np.zeros(len(rows), np.uint8)
        for i, row in enumerate(rows.tolist()):
            with suppress(*_UNREADABLE):
                for k, name in enumerate((self.layout.ppg, self.layout.ecg)):
                    signals[k, at[i]] = self.file[name][row]
                continue
            found[i] = problems.UNREADABLE
        return found

    def _read_record(self, row: int, signals: np.ndarray) -> int:
        with suppress(*_UNREADABLE):
            signals[:] = self.file[self.scan.key[row]][()][:, self.columns].T
            return 0
        return problems.UNREADABLE


def _runs(rows: np.ndarray, gap: int = 16) -> list[tuple[int, int]]:
    """Parts [start, stop) of sorted rows with no hole of more than `gap` inside."""
    cuts = np.flatnonzero(np.diff(rows) > gap) + 1
    bounds = [0, *cuts.tolist(), len(rows)]
    return [(a, b) for a, b in pairwise(bounds) if b > a]
