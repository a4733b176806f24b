"""Cuts a recording into windows, each of the same time of all its channels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from xmae_fast.recordings.recording import Channel, Recording


@dataclass
class Windows:
    """The K windows of a recording.

    Args:
        channels: of the recording, PPG before ECG.
        piece: [K], the number of the piece that each window lies in.
        first: [K] for each channel, the first sample of each window in its piece.
        size: for each channel, how many samples a window has.
        starts: [K], when each window begins, in seconds.
        subjects: [K]; "" where the recording does not name the subject.
        segment_ids: [K]; "" for a continuous recording.
        win_ids: [K].
        win_seq_ids: [K].
    """

    channels: tuple[Channel, ...]
    piece: np.ndarray
    first: tuple[np.ndarray, ...]
    size: tuple[int, ...]
    starts: np.ndarray
    subjects: list[str]
    segment_ids: list[str]
    win_ids: list[str]
    win_seq_ids: list[str]

    def signals(self, rows: slice) -> list[np.ndarray]:
        """The windows `rows` of each channel, [windows, samples] each."""
        parts = zip(self.channels, self.first, self.size, strict=True)
        return [channel.cut(self.piece[rows], first[rows], size) for channel, first, size in parts]


def cut(recording: Recording, window_s: float, hop_s: float) -> Windows:
    """Cut a recording into windows, which begin at the start of each piece. A window that is not complete is left out.

    Args:
        recording: what is cut.
        window_s: the length of a window in seconds.
        hop_s: seconds from the start of one window to the start of the next.

    Raises:
        ValueError: no window fits, or PPG and ECG do not have equally many pieces.
    """
    channels = recording.channels
    pieces = {len(channel.values) for channel in channels}
    if len(pieces) != 1:
        raise ValueError(f"expected as many pieces of PPG as of ECG, got {' and '.join(map(str, sorted(pieces)))}")
    sizes = tuple(round(window_s * channel.fs) for channel in channels)
    counts = np.min([_counts(channel, size, hop_s) for channel, size in zip(channels, sizes, strict=True)], axis=0)
    if not counts.any():
        lasts = min(channel.lengths.max(initial=0) / channel.fs for channel in channels)
        raise ValueError(f"expected at least one window of {window_s:g} s, the signals last {lasts:g} s")
    P = pieces.pop()
    piece = np.repeat(np.arange(P), counts)
    number = np.arange(len(piece)) - np.repeat(np.cumsum(counts) - counts, counts)
    first = tuple(np.round(number * hop_s * channel.fs).astype(int) for channel in channels)
    begins = np.zeros(P) if recording.starts is None else np.asarray(recording.starts, float)
    subjects = recording.subjects or [""] * P
    if len(recording.ids):
        part = ["" if counts[p] == 1 else f"-{k + 1}" for p, k in zip(piece.tolist(), number.tolist(), strict=True)]
        segment, win, seq = zip(*(recording.ids[p] for p in piece.tolist()), strict=True)
        ids = list(segment), *([a + b for a, b in zip(names, part, strict=True)] for names in (win, seq))
    else:
        ids = [""] * len(piece), *([str(k + 1) for k in range(len(piece))],) * 2
    names = [subjects[int(p)] for p in piece]
    return Windows(channels, piece, first, sizes, begins[piece] + number * hop_s, names, *ids)


def _counts(channel: Channel, size: int, hop_s: float) -> np.ndarray:
    """[pieces], how many windows of `size` samples fit into each piece."""
    lengths, inverse = np.unique(channel.lengths, return_inverse=True)
    return np.array([_count(n, size, hop_s * channel.fs) for n in lengths.tolist()], np.int64)[inverse]


def _count(n: int, size: int, hop: float) -> int:
    """How many windows of `size` samples, which begin every `hop` samples, fit into n samples."""
    if n < size or not size:
        return 0
    count = int((n - size) / hop) + 2  # rounding decides whether the last ones fit
    while round((count - 1) * hop) + size > n:
        count -= 1
    return count
