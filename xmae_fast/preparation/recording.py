"""A recording in memory, whatever file it came from: one PPG and one ECG channel, and how to cut them into windows."""

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
    """A recording that cannot become segments; the message names the file and what was expected of it."""


class Reading(NamedTuple):
    """What a reader is asked for. ppg, ecg: names of channels, None to find them by their names; fs: Hz, for files
    that do not state their rate."""

    ppg: str | None = None
    ecg: str | None = None
    fs: float | None = None


@dataclass
class Channel:
    """One signal, (P, n): P pieces of n samples at `fs` Hz, NaN where missing. A continuous recording is one piece."""

    name: str
    values: np.ndarray
    fs: float


@dataclass
class Recording:
    """Both channels. subjects: whose each piece is, () where the file does not say; ids: SegmentID, WinID, WinSeqID of
    each piece, () for a continuous recording; starts: (P,) s, when each piece begins; start: date and time of the
    first sample where known, ISO 8601."""

    ppg: Channel
    ecg: Channel
    subjects: Sequence[str] = ()
    ids: Sequence[tuple[str, str, str]] = ()
    starts: np.ndarray | None = None
    start: str = ""


@dataclass
class Windows:
    """K windows of a recording: which piece each is of, its first PPG and ECG sample there, and how many it has; when
    it begins in s, and its names, "" where the recording has none."""

    channels: tuple[Channel, Channel]
    piece: np.ndarray  # (K,)
    first: tuple[np.ndarray, np.ndarray]  # (K,) each
    size: tuple[int, int]
    starts: np.ndarray  # (K,)
    subjects: list[str]
    segment_ids: list[str]
    win_ids: list[str]
    win_seq_ids: list[str]

    def signals(self, rows: slice) -> list[np.ndarray]:
        """PPG (k, n) and ECG (k, m) of some of them."""
        piece = self.piece[rows, None]
        parts = zip(self.channels, self.first, self.size, strict=True)
        return [channel.values[piece, first[rows, None] + np.arange(size)] for channel, first, size in parts]


def find_channel(names: Sequence[str], kind: str, wanted: str | None = None) -> int:
    """The number of the channel `wanted` among `names`, or of the one whose name is that of a `kind` ("PPG" or "ECG";
    of ECG leads, II first). ValueError lists what there is."""
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
    """Windows of `window_s` seconds every `hop_s`, from each piece's start; those that do not fit whole are left out.
    ValueError where not one fits."""
    channels = recording.ppg, recording.ecg
    pieces = {len(channel.values) for channel in channels}
    if len(pieces) != 1:
        raise ValueError(f"expected as many pieces of PPG as of ECG, got {' and '.join(map(str, sorted(pieces)))}")
    sizes = [round(window_s * channel.fs) for channel in channels]
    per_piece = min(_count(channel, size, hop_s) for channel, size in zip(channels, sizes, strict=True))
    if not per_piece or 0 in pieces:
        lasts = min(channel.values.shape[1] / channel.fs for channel in channels) if 0 not in pieces else 0
        raise ValueError(f"expected at least one window of {window_s:g} s, the signals last {lasts:g} s")
    P = pieces.pop()
    number = np.tile(np.arange(per_piece), P)
    piece = np.repeat(np.arange(P), per_piece)
    first = tuple(np.round(number * hop_s * channel.fs).astype(int) for channel in channels)
    begins = np.zeros(P) if recording.starts is None else np.asarray(recording.starts, float)
    subjects = recording.subjects or [""] * P
    if len(recording.ids):
        part = [""] * len(piece) if per_piece == 1 else [f"-{k + 1}" for k in number]
        segment, win, seq = zip(*(recording.ids[p] for p in piece), strict=True)
        ids = list(segment), *([a + b for a, b in zip(names, part, strict=True)] for names in (win, seq))
    else:
        ids = [""] * len(piece), *([str(k + 1) for k in range(len(piece))],) * 2
    names = [subjects[p] for p in piece]
    return Windows(channels, piece, first, tuple(sizes), begins[piece] + number * hop_s, names, *ids)


def _count(channel: Channel, size: int, hop_s: float) -> int:
    """Windows that fit in a piece."""
    n = channel.values.shape[1]
    if n < size or not size:
        return 0
    count = int((n - size) / (hop_s * channel.fs)) + 2  # rounding decides about the last ones
    while round((count - 1) * hop_s * channel.fs) + size > n:
        count -= 1
    return count
