"""A long signal of which only some stretches were recorded; what lies between them takes no memory."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


class Stretches:
    """Stretches of one signal on a grid of even times. Samples between the stretches are missing.

    Args:
        firsts: [S], the number of the first sample of each stretch, ascending; stretches do not overlap.
        stretches: S arrays of samples, NaN where single samples are missing.
        length: how many samples the whole signal has; None ends it with the last stretch.

    Attributes:
        shape: (1, samples of the whole signal), as of an array with one piece.
        size: samples of the whole signal.
    """

    def __init__(
        self, firsts: Sequence[int] | np.ndarray, stretches: Sequence[np.ndarray], length: int | None = None
    ) -> None:
        self.firsts = np.asarray(firsts, np.int64)
        self.stretches = [np.asarray(stretch, np.float64) for stretch in stretches]
        stops = self.firsts + [len(stretch) for stretch in self.stretches]
        if len(self.firsts) != len(self.stretches) or (self.firsts[1:] < stops[:-1]).any() or (self.firsts < 0).any():
            raise ValueError("firsts: expected ascending numbers of stretches that do not overlap")
        self.stops = stops
        end = int(stops[-1]) if len(stops) else 0
        self.size = end if length is None else max(int(length), end)

    @property
    def shape(self) -> tuple[int, int]:
        """(1, samples)."""
        return 1, self.size

    def __len__(self) -> int:
        return 1

    def cut(self, first: np.ndarray, size: int) -> np.ndarray:
        """Samples from `first` [K] on, [K, size] float64; NaN where nothing was recorded."""
        out = np.full((len(first), size), np.nan)
        for row, begin in zip(out, first.tolist(), strict=True):
            number = int(np.searchsorted(self.stops, begin, "right"))
            while number < len(self.stretches) and self.firsts[number] < begin + size:
                at = int(self.firsts[number])
                low, high = max(begin, at), min(begin + size, int(self.stops[number]))
                row[low - begin : high - begin] = self.stretches[number][low - at : high - at]
                number += 1
        return out

    def windows_near(self, size: int, hop: float, count: int) -> np.ndarray:
        """The numbers of windows that may hold a sample, ascending, and of few others beside them.

        Args:
            size: samples of a window.
            hop: samples from the start of one window to the start of the next; it need not be whole.
            count: how many windows there are.
        """
        low = np.clip(np.floor((self.firsts - size) / hop).astype(np.int64) - 1, 0, count)
        high = np.clip(np.ceil(self.stops / hop).astype(np.int64) + 1, 0, count)
        low = np.maximum(low, np.append(0, high[:-1])[: len(low)])  # those of the stretch before are there already
        length = np.maximum(high - low, 0)
        before = np.cumsum(length) - length
        return np.arange(length.sum()) + np.repeat(low - before, length)

    def recorded(self, first: np.ndarray, size: int) -> np.ndarray:
        """[K] bool: whether any sample of the windows from `first` [K] on lies in a stretch."""
        number = np.searchsorted(self.stops, first, "right")
        begins = np.append(self.firsts, np.iinfo(np.int64).max)[number]
        return begins < np.asarray(first) + size
