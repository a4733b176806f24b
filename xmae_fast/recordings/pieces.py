"""Pieces of a signal that do not all have the same length."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


class Pieces:
    """P pieces of one signal.

    Args:
        pieces: P arrays [samples] of real numbers, NaN where samples are missing. They may be maps of a file's memory.

    Attributes:
        lengths: [P], the samples of each piece.
        shape: (P, samples of the longest piece), as of an array whose short pieces are filled up with missing samples.
        size: samples of all pieces.
    """

    def __init__(self, pieces: Sequence[np.ndarray]) -> None:
        self._pieces = [np.asarray(piece) for piece in pieces]
        for piece in self._pieces:
            if piece.ndim != 1:
                raise ValueError(f"pieces: expected arrays [samples], got shape {piece.shape}")
        self.lengths = np.array([len(piece) for piece in self._pieces], np.int64)
        self.size = int(self.lengths.sum())

    @property
    def shape(self) -> tuple[int, int]:
        """(pieces, samples of the longest piece)."""
        return len(self._pieces), int(self.lengths.max(initial=0))

    def __len__(self) -> int:
        return len(self._pieces)

    def __getitem__(self, number: int) -> np.ndarray:
        """The piece of this number, [samples]."""
        return self._pieces[number]

    def cut(self, piece: np.ndarray, first: np.ndarray, size: int) -> np.ndarray:
        """Windows of the pieces `piece` [K] from their samples `first` [K] on: [K, size] float64, NaN after the end."""
        out = np.full((len(piece), size), np.nan)
        for row, number, begin in zip(out, np.asarray(piece).tolist(), np.asarray(first).tolist(), strict=True):
            part = self._pieces[number][begin : begin + size]
            row[: len(part)] = part
        return out
