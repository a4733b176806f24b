"""Cuts a recording into windows, each of the same time of all its channels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from xmae_fast.recordings.recording import Channel, Recording
from xmae_fast.recordings.stretches import Stretches


@dataclass
class Windows:
    """The K windows of a recording.

    Args:
        channels: of the recording, PPG before ECG.
        piece: [K], the number of the piece that each window lies in.
        first: [K] for each channel, the first sample of each window in its piece.
        size: for each channel, how many samples a window has.
        starts: [K], when each window begins, in seconds.
        ecg_delay_s: [K], how much later the first sample of the ECG is than that of the PPG, in seconds; 0 for equal
            rates and where only one signal was read.
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
    ecg_delay_s: np.ndarray
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

    If the channels have one rate, a window begins at their sample that is nearest to its time. If not, it begins at the
    last sample of the slower channel that is not later than its time, and the faster channel begins at its last sample
    that is not later than this one.

    Of the windows in a gap between stretches (`Stretches`), in which no channel was recorded, only the first is listed;
    the others are counted, so that the numbers of windows after the gap tell their times.

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
    counts = _counts(channels, sizes, hop_s)
    if not counts.any():
        lasts = min(channel.lengths.max(initial=0) / channel.fs for channel in channels)
        raise ValueError(f"expected at least one window of {window_s:g} s, the signals last {lasts:g} s")
    P = pieces.pop()
    if all(isinstance(channel.values, Stretches) for channel in channels):  # these have one piece
        number = _listed(channels, sizes, int(counts[0]), hop_s)
        piece = before = np.zeros(len(number), np.int64)
    else:
        piece = np.repeat(np.arange(P), counts)
        before = (np.cumsum(counts) - counts)[piece]  # windows of the pieces before
        number = np.arange(len(piece)) - before
    first = _firsts(channels, number, hop_s)
    delay = np.zeros(len(piece))
    if len({channel.fs for channel in channels}) > 1:
        delay = first[1] / channels[1].fs - first[0] / channels[0].fs
    begins = np.zeros(P) if recording.starts is None else np.asarray(recording.starts, float)
    subjects = recording.subjects or [""] * P
    if len(recording.ids):
        part = ["" if counts[p] == 1 else f"-{k + 1}" for p, k in zip(piece.tolist(), number.tolist(), strict=True)]
        segment, win, seq = zip(*(recording.ids[p] for p in piece.tolist()), strict=True)
        ids = list(segment), *([a + b for a, b in zip(names, part, strict=True)] for names in (win, seq))
    else:
        ids = [""] * len(piece), *([str(k + 1) for k in (before + number).tolist()],) * 2
    names = [subjects[int(p)] for p in piece]
    return Windows(channels, piece, first, sizes, begins[piece] + number * hop_s, delay, names, *ids)


def _firsts(channels: Sequence[Channel], number: np.ndarray, hop_s: float) -> tuple[np.ndarray, ...]:
    """For each channel the first samples of the windows `number` [K] of a piece, [K] each."""
    rates = [channel.fs for channel in channels]
    if len(set(rates)) == 1:
        return (np.round(number * hop_s * rates[0]).astype(int),) * len(rates)
    almost = 1e-6  # of a sample: rounding must not miss the whole samples at which rates with a common divisor meet
    slowest = min(rates)
    begin = np.floor(number * hop_s * slowest + almost)
    return tuple((begin if fs == slowest else np.floor(begin / slowest * fs + almost)).astype(int) for fs in rates)


def _listed(channels: tuple[Channel, ...], sizes: tuple[int, ...], count: int, hop_s: float) -> np.ndarray:
    """The numbers of the windows of a piece that are listed: those with something recorded, and one of each long gap.

    Args:
        channels: of the recording, whose values are `Stretches`.
        sizes: samples of a window of each channel.
        count: how many windows there are.
        hop_s: seconds from the start of one window to the start of the next.
    """
    near = []
    for channel, size in zip(channels, sizes, strict=True):
        assert isinstance(channel.values, Stretches)
        near.append(channel.values.windows_near(size, hop_s * channel.fs, count))
    number = np.unique(np.concatenate(near))
    recorded = np.zeros(len(number), bool)
    for channel, first, size in zip(channels, _firsts(channels, number, hop_s), sizes, strict=True):
        assert isinstance(channel.values, Stretches)
        recorded |= channel.values.recorded(first, size)
    number = number[recorded]
    after = np.append(-1, number) + 1  # the first window after each that is kept begins a gap, if it is not kept itself
    return np.union1d(number, after[after < count])


def _counts(channels: Sequence[Channel], sizes: Sequence[int], hop_s: float) -> np.ndarray:
    """[pieces], how many windows, which have `sizes` samples in the channels, fit into each piece."""
    lengths, inverse = np.unique(np.stack([channel.lengths for channel in channels]), axis=1, return_inverse=True)
    return np.array([_count(channels, n, sizes, hop_s) for n in lengths.T.tolist()], np.int64)[inverse]


def _count(channels: Sequence[Channel], lengths: Sequence[int], sizes: Sequence[int], hop_s: float) -> int:
    """How many windows, which have `sizes` samples in the channels, fit into a piece of `lengths` samples."""
    if any(n < size or not size for n, size in zip(lengths, sizes, strict=True)):
        return 0
    fits = (int((n - size) / (hop_s * c.fs)) for c, n, size in zip(channels, lengths, sizes, strict=True))
    count = min(fits) + 2  # rounding decides whether the last ones fit

    def too_long() -> bool:
        last = _firsts(channels, np.array([count - 1]), hop_s)
        return any(first[0] + size > n for first, size, n in zip(last, sizes, lengths, strict=True))

    while too_long():
        count -= 1
    return count
