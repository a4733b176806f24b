"""Reads WFDB records (PhysioNet): a header .hea and the signal files that it names; each signal has its own rate.

Segments of a record are read one by one, and long signals in blocks: memory follows what was recorded.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial

import numpy as np

from xmae_fast._optional import need
from xmae_fast.recordings.formats.wfdb_header import (
    NUMERICS_FS,
    Header,
    Line,
    beside,
    frames_in_files,
    header_lines,
    read_header,
)
from xmae_fast.recordings.formats.wfdb_samples import read_samples
from xmae_fast.recordings.joining import join
from xmae_fast.recordings.reading import Reading
from xmae_fast.recordings.recording import Channel, Content, Loaded


class _Part:
    """A part of a record: the header of the segment, the number of its first frame, and how many frames it has."""

    def __init__(self, header: Header, first: int, frames: int | None) -> None:
        self.header, self.first, self.frames = header, first, frames


def open_wfdb(path: str, reading: Reading) -> Content:
    """Find out about one record of one or several segments; gaps are NaN."""
    need("wfdb", "WFDB needs", "prepare")
    header = read_header(path)
    parts, layout, frames, notes = _parts(header)
    signals = layout.signals
    if not signals or not parts:
        raise ValueError(
            "expected signals, the header names none" if not signals else "expected a segment with signals"
        )
    fastest = header.fs * max(line.frames for line in signals)
    if fastest <= NUMERICS_FS:
        names = ", ".join(line.name for line in signals)
        raise ValueError(
            f"expected signals, found numerics at {fastest:g} Hz ({names}): the waveforms are in another record"
        )
    load = partial(_load, header, parts, layout, frames)
    return Content([line.name for line in signals], load, notes=[*header.notes, *notes])


def _parts(header: Header) -> tuple[list[_Part], Header, int | None, list[str]]:
    """The parts of a record, the header that names its signals, how many frames it has, and notes.

    Raises:
        ValueError: a segment is not there, or its rate is another.
    """
    if not header.segments:
        return [_Part(header, 0, header.frames)], header, header.frames, []
    parts, notes, layout, first = [], [], None, 0
    for number, (name, frames) in enumerate(header.segments):
        part = None
        if name != "~":
            file = beside(header.path, f"{name}.hea")
            if not os.path.isfile(file):
                raise ValueError(f"expected the segment {name}.hea beside {os.path.basename(header.path)}")
            try:
                part = read_header(file)
            except ValueError as error:
                raise ValueError(f"segment {name}: {error}") from None
            if part.segments:
                raise ValueError(f"segment {name}: expected signals, got segments")
        if part is not None and frames == 0 and number == 0:
            layout = part
            continue
        if frames is None:
            frames = part.frames if part is not None else None
            if frames is None:
                raise ValueError(f"expected the number of frames of segment {name} in the header's line")
            notes.append(f"the header does not state the length of segment {name}: it is {frames} frames")
        if part is not None and frames:
            if abs(part.fs - header.fs) > 1e-6 * header.fs:
                raise ValueError(f"segment {name}: expected {header.fs:g} Hz as in the record, got {part.fs:g} Hz")
            parts.append(_Part(part, first, frames))
        first += frames
    fixed = layout is None
    layout = layout or (parts[0].header if parts else header)
    for part in parts:
        if fixed and len(part.header.signals) != len(layout.signals):
            raise ValueError(f"expected {len(layout.signals)} signals in each segment, as there is no layout")
    return parts, layout, max(first, header.frames or 0), notes


def _load(header: Header, parts: list[_Part], layout: Header, frames: int | None, numbers: Sequence[int]) -> Loaded:
    """Read the channels of these numbers."""
    notes: list[str] = []
    fixed = layout is parts[0].header  # all segments have the same signals in the same order
    firsts: dict[int, list[int]] = {i: [] for i in numbers}
    pieces: dict[int, list[np.ndarray]] = {i: [] for i in numbers}
    for part in parts:
        places = {i: i if fixed else _place(part.header.signals, layout.signals, i) for i in numbers}
        there = {i: k for i, k in places.items() if k is not None}
        for i, k in there.items():
            found, expected = part.header.signals[k].frames, layout.signals[i].frames
            if found != expected:
                name = os.path.splitext(os.path.basename(part.header.path))[0]
                raise ValueError(
                    f"segment {name}: expected {expected} samples of {layout.signals[i].name!r} in a frame, got {found}"
                )
        if there:
            values = _read(part, sorted(set(there.values())), notes)
            for i, k in there.items():
                firsts[i].append(part.first * layout.signals[i].frames)
                pieces[i].append(values[k])
    channels = []
    for i in numbers:
        each = layout.signals[i].frames
        fs = header.fs * each
        if header.segments:
            joined = join(firsts[i], pieces[i], (frames or 0) * each, fs)
        else:
            joined = pieces[i][0][None]
        channels.append(Channel(layout.signals[i].name, joined, float(fs)))
    return Loaded(channels, start=header.start, notes=notes)


def _place(signals: list[Line], layout: list[Line], number: int) -> int | None:
    """The number in a segment of a signal of the layout: the k-th of its name; None if the segment does not have it."""
    names = [line.name for line in signals]
    wanted = [line.name for line in layout]
    if len(names) == len(wanted) and names == [str(k) for k in range(len(names))]:  # a segment without names
        return number
    same = [k for k, name in enumerate(names) if name == wanted[number]]
    nth = wanted[:number].count(wanted[number])
    return same[nth] if nth < len(same) else None


def _read(part: _Part, numbers: list[int], notes: list[str]) -> dict[int, np.ndarray]:
    """The samples of some signals of a part in physical units, by the numbers of the signals.

    Args:
        part: which one.
        numbers: of its signals, ascending.
        notes: get a sentence if the signal file is shorter than the header says.

    Raises:
        ValueError: the signals cannot be read.
    """
    header = part.header
    record = os.path.splitext(os.path.basename(header.path))[0]
    empty = [i for i in numbers if header.signals[i].file == "~"]
    if empty:
        raise ValueError(f"expected a signal file of channel {header.signals[empty[0]].name!r}, the header names none")
    held = frames_in_files(header, numbers)
    stated = min((n for n in (part.frames, header.frames) if n is not None), default=None)
    if stated is None and held is None:
        raise ValueError("expected the number of frames in the header, as its signal files are compressed")
    frames = held if stated is None else stated if held is None else min(stated, held)
    assert frames is not None
    if stated is not None and frames < stated:
        notes.append(f"the signal file of {record} ends after {frames} of {stated} frames: what is there is read")
    if stated is not None and held is not None and held > stated + header.fs:
        notes.append(f"the signal file of {record} holds {held} frames, the header states {stated}: these are read")
    if not frames:
        raise ValueError(f"expected samples in the signal file of {record}, it has none")
    return read_samples(header, numbers, frames)


def header_files(path: str) -> list[str]:
    """The files beside a header that it names; for a multi-segment record these are the headers of its segments."""
    tokens = [line.split()[0] for line in header_lines(path)[1:]]
    multi = is_multi_segment(path)
    named = [beside(path, f"{token}.hea" if multi else token) for token in dict.fromkeys(tokens)]
    return [file for file in named if os.path.isfile(file)]


def is_multi_segment(path: str) -> bool:
    """Whether a header's first line is `name/segments ...`."""
    lines = header_lines(path)
    return bool(lines) and "/" in lines[0].split()[0]
