"""A recording in memory, whatever file it came from: one channel of PPG and one of ECG, which are cut into windows."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

_LEADS = "i|ii|iii|mlii|ml2|v[1-6]?|mcl1?|av[rlf]"
_KINDS = {
    "PPG": (
        r"(raw[ _-]?)?(ppg|pleth|plethysmogra(m|ph)|bvp)([ _-]?(raw|record|wave|waveform|ir|red|green|sig|signal|\d))*",
    ),
    "ECG": (
        r"((ecg|ekg)[ _-]?(lead)?[ _-]?)?(ml)?ii",
        r"(raw[ _-]?)?(ecg|ekg)([ _-]?(raw|record|wave|waveform|sig|signal|\d))*",
        rf"((ecg|ekg)[ _-]?(lead)?[ _-]?)?({_LEADS})",
    ),
}


class RecordingError(ValueError):
    """A recording cannot become segments; the message names the file and what was expected of it."""


class Reading(NamedTuple):
    """What a reader is asked for.

    Args:
        ppg: the name of the channel with the PPG; None looks for a usual name.
        ecg: the name of the channel with the ECG; None looks for a usual name.
        fs: the sampling frequency in Hz, for files that do not state it.
    """

    ppg: str | None = None
    ecg: str | None = None
    fs: float | None = None


@dataclass
class Channel:
    """One signal.

    Args:
        name: of the channel in the file.
        values: [pieces, samples], NaN where samples are missing. A continuous recording is one piece.
        fs: the sampling frequency in Hz.
    """

    name: str
    values: np.ndarray
    fs: float


@dataclass
class Recording:
    """Both channels of a recording.

    Args:
        ppg: the PPG.
        ecg: the ECG.
        subjects: the subject of each piece; () if the file does not name it.
        ids: SegmentID, WinID and WinSeqID of each piece; () for a continuous recording.
        starts: [pieces], when each piece begins, in seconds.
        start: date and time of the first sample by ISO 8601; "" if they are not known.
    """

    ppg: Channel
    ecg: Channel
    subjects: Sequence[str] = ()
    ids: Sequence[tuple[str, str, str]] = ()
    starts: np.ndarray | None = None
    start: str = ""


@dataclass
class Windows:
    """The K windows of a recording.

    Args:
        channels: PPG and ECG.
        piece: [K], the number of the piece that each window lies in.
        first: [K] for PPG and [K] for ECG, the first sample of each window in its piece.
        size: how many samples of PPG and of ECG a window has.
        starts: [K], when each window begins, in seconds.
        subjects: [K]; "" where the recording does not name the subject.
        segment_ids: [K]; "" for a continuous recording.
        win_ids: [K].
        win_seq_ids: [K].
    """

    channels: tuple[Channel, Channel]
    piece: np.ndarray
    first: tuple[np.ndarray, np.ndarray]
    size: tuple[int, int]
    starts: np.ndarray
    subjects: list[str]
    segment_ids: list[str]
    win_ids: list[str]
    win_seq_ids: list[str]

    def signals(self, rows: slice) -> list[np.ndarray]:
        """PPG and ECG of the windows `rows`, [windows, samples] each."""
        piece = self.piece[rows, None]
        parts = zip(self.channels, self.first, self.size, strict=True)
        return [channel.values[piece, first[rows, None] + np.arange(size)] for channel, first, size in parts]


def find_channel(names: Sequence[str], kind: str, wanted: str | None = None) -> int:
    """Find a channel by its name.

    Args:
        names: the names of all channels.
        kind: "PPG" or "ECG". If `wanted` is None, the first channel with a usual name of this kind is taken; of several
            ECG leads, lead II.
        wanted: the name of the channel.

    Returns:
        The number of the channel in `names`.

    Raises:
        ValueError: there is no such channel, or more than one; the message lists the names.
    """
    plain = [name.strip() for name in names]
    listed = ", ".join(map(repr, plain)) or "none"
    if wanted is not None:
        for same in (str.__eq__, lambda a, b: a.lower() == b.lower()):
            found = [i for i, name in enumerate(plain) if same(name, wanted.strip())]
            if len(found) == 1:
                return found[0]
            if found:
                raise ValueError(f"expected one channel {wanted!r} for the {kind}, found {len(found)}")
        raise ValueError(f"expected a channel {wanted!r} for the {kind}, found {listed}")
    short = [re.sub(r"\s*[\[(].*[\])]$", "", name.rsplit("/", 1)[-1]).strip().lower() for name in plain]
    for pattern in _KINDS[kind]:
        for i, name in enumerate(short):
            if re.fullmatch(pattern, name):
                return i
    option = f"--{kind.lower()} NAME"
    raise ValueError(f"expected a channel with a name of {kind}, found {listed}; {option} says which one it is")


def cut(recording: Recording, window_s: float, hop_s: float) -> Windows:
    """Cut a recording into windows, which begin at the start of each piece. A window that is not complete is left out.

    Args:
        recording: what is cut.
        window_s: the length of a window in seconds.
        hop_s: seconds from the start of one window to the start of the next.

    Raises:
        ValueError: no window fits, or PPG and ECG do not have equally many pieces.
    """
    channels = recording.ppg, recording.ecg
    pieces = {len(channel.values) for channel in channels}
    if len(pieces) != 1:
        raise ValueError(f"expected as many pieces of PPG as of ECG, got {' and '.join(map(str, sorted(pieces)))}")
    sizes = round(window_s * recording.ppg.fs), round(window_s * recording.ecg.fs)
    per_piece = min(_count(channel, size, hop_s) for channel, size in zip(channels, sizes, strict=True))
    if not per_piece or 0 in pieces:
        lasts = min(channel.values.shape[1] / channel.fs for channel in channels) if 0 not in pieces else 0
        raise ValueError(f"expected at least one window of {window_s:g} s, the signals last {lasts:g} s")
    P = pieces.pop()
    number = np.tile(np.arange(per_piece), P)
    piece = np.repeat(np.arange(P), per_piece)
    ppg_first, ecg_first = (np.round(number * hop_s * channel.fs).astype(int) for channel in channels)
    begins = np.zeros(P) if recording.starts is None else np.asarray(recording.starts, float)
    subjects = recording.subjects or [""] * P
    if len(recording.ids):
        part = [""] * len(piece) if per_piece == 1 else [f"-{k + 1}" for k in number]
        segment, win, seq = zip(*(recording.ids[p] for p in piece.tolist()), strict=True)
        ids = list(segment), *([a + b for a, b in zip(names, part, strict=True)] for names in (win, seq))
    else:
        ids = [""] * len(piece), *([str(k + 1) for k in range(len(piece))],) * 2
    names = [subjects[int(p)] for p in piece]
    return Windows(channels, piece, (ppg_first, ecg_first), sizes, begins[piece] + number * hop_s, names, *ids)


def _count(channel: Channel, size: int, hop_s: float) -> int:
    """How many windows of `size` samples fit into a piece."""
    n = channel.values.shape[1]
    if n < size or not size:
        return 0
    count = int((n - size) / (hop_s * channel.fs)) + 2  # rounding decides whether the last ones fit
    while round((count - 1) * hop_s * channel.fs) + size > n:
        count -= 1
    return count
