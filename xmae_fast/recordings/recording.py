"""A recording in memory, whatever file it came from: a channel of PPG, of ECG, or both."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from xmae_fast.recordings.pieces import Pieces
from xmae_fast.recordings.stretches import Stretches


class RecordingError(ValueError):
    """A recording cannot be used; the message names the file and what was expected of it."""


@dataclass
class Channel:
    """One signal.

    Args:
        name: of the channel in the file.
        values: [pieces, samples] of any real type, NaN where samples are missing. A continuous recording is one piece;
            one with long gaps is `Stretches`, and pieces of different lengths are `Pieces`. A large array may be a map
            of the file, which cannot be written to.
        fs: the sampling frequency in Hz.
    """

    name: str
    values: np.ndarray | Stretches | Pieces
    fs: float

    @property
    def lengths(self) -> np.ndarray:
        """[pieces], the samples of each piece."""
        if isinstance(self.values, Pieces):
            return self.values.lengths
        return np.full(self.values.shape[0], self.values.shape[1], np.int64)

    def turn_round(self) -> None:
        """Change the sign of all values."""
        values = self.values
        if isinstance(values, Stretches):
            self.values = Stretches(values.firsts, [-stretch for stretch in values.stretches], values.size)
        elif isinstance(values, Pieces):
            self.values = Pieces([-values[number].astype(np.float64) for number in range(len(values))])
        else:
            self.values = -values.astype(np.float64)

    def spread(self, size: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Up to `count` windows of `size` samples, spread evenly over what was recorded.

        Returns:
            The piece and the first sample of each window, as `cut` takes them.
        """
        if isinstance(self.values, Stretches):
            begins, lengths = self.values.firsts, self.values.stops - self.values.firsts
        else:
            begins, lengths = np.zeros(len(self.lengths), np.int64), self.lengths
        room = np.maximum(lengths - size + 1, 0)  # how many windows begin in each
        if not room.sum():
            return np.zeros(0, np.int64), np.zeros(0, np.int64)
        places = np.unique(np.linspace(0, room.sum() - 1, count).astype(np.int64))
        ends = np.cumsum(room)
        part = np.searchsorted(ends, places, "right")
        first = begins[part] + places - (ends - room)[part]
        return (np.zeros_like(part) if isinstance(self.values, Stretches) else part), first

    def cut(self, piece: np.ndarray, first: np.ndarray, size: int) -> np.ndarray:
        """Windows of the signal.

        Args:
            piece: [K], the number of the piece that each window lies in.
            first: [K], the first sample of each window in its piece.
            size: samples of a window.

        Returns:
            [K, size] float64.
        """
        if isinstance(self.values, Stretches):
            return self.values.cut(first, size)
        if isinstance(self.values, Pieces):
            return self.values.cut(piece, first, size)
        return self.values[piece[:, None], first[:, None] + np.arange(size)].astype(np.float64, copy=False)


@dataclass
class Recording:
    """The channels of a recording.

    Args:
        ppg: the PPG; None if only ECG was read.
        ecg: the ECG; None if only PPG was read.
        subjects: the subject of each piece; () if the file does not name it.
        ids: SegmentID, WinID and WinSeqID of each piece; () for a continuous recording.
        starts: [pieces], when each piece begins, in seconds.
        start: date and time of the first sample by ISO 8601; "" if they are not known.
        notes: what a user should know of how the file was understood, a sentence each.
        form: the name of the format.
    """

    ppg: Channel | None
    ecg: Channel | None = None
    subjects: Sequence[str] = ()
    ids: Sequence[tuple[str, str, str]] = ()
    starts: np.ndarray | None = None
    start: str = ""
    notes: list[str] = field(default_factory=list)
    form: str = ""

    @property
    def channels(self) -> tuple[Channel, ...]:
        """The channels that were read: PPG before ECG."""
        return tuple(channel for channel in (self.ppg, self.ecg) if channel is not None)


@dataclass
class Loaded:
    """Channels that were read from a file, and what the file says of all of them.

    Args:
        channels: in the order in which they were asked for. The rate of one is NaN where the file states none.
        subjects, ids, starts, start, notes: as those of a Recording.
    """

    channels: list[Channel]
    subjects: Sequence[str] = ()
    ids: Sequence[tuple[str, str, str]] = ()
    starts: np.ndarray | None = None
    start: str = ""
    notes: list[str] = field(default_factory=list)


@dataclass
class Content:
    """What a file offers before channels are chosen.

    Args:
        names: of all its channels.
        load: reads the channels of these numbers.
        form: the name of the format, where it is another than the suffix tells.
        usual: the numbers of channels that are preferred for "PPG" and for "ECG" if none is asked for, best first;
            formats that define their channels give them.
        alike: the numbers of channels that can be the "PPG" and the "ECG" equally well if none is asked for, where
            their names do not say so; the one of the best quality is taken.
        notes: what a user should know of how the file was understood.
        light: the numbers of channels that tell how much light comes back, which a pulse makes less; they are turned
            round, so that a pulse rises.
    """

    names: Sequence[str]
    load: Callable[[Sequence[int]], Loaded]
    form: str = ""
    usual: dict[str, list[int]] = field(default_factory=dict)
    alike: dict[str, list[int]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    light: Sequence[int] = ()
