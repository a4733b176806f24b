"""Reads the headers of WFDB records, with which their files are found and their channels known.

Source: https://physionet.org/physiotools/wag/header-5.htm
"""

from __future__ import annotations

import os
import re
from datetime import datetime, timedelta
from pathlib import Path
from typing import NamedTuple

NUMERICS_FS = 2.0  # Hz; what is sampled at most so often is no waveform, but a monitor's numbers
_DEFAULT_FS = 250.0
# Bytes of one sample in signal files without compression.
_SAMPLE_BYTES = {
    "8": 1, "80": 1, "16": 2, "61": 2, "160": 2, "212": 1.5, "310": 4 / 3, "311": 4 / 3, "24": 3, "32": 4,
}  # fmt: skip
# Fields from the gain on may be missing; the description is what follows them.
_SIGNAL = re.compile(
    r"(\S+)\s+(\d+)(?:x(\d*))?(?::(\d*))?(?:\+(\d*))?(?=\s|$)"
    r"(?:\s+(-?\d*\.?\d+\.?(?:e[+-]?\d+)?(?:\(-?\d+\))?)(?:/(\S*))?(?=\s|$))?((?:\s+-?\d+(?=\s|$)){0,5})(.*)",
    re.IGNORECASE,
)


class Line(NamedTuple):
    """One signal of a header.

    Args:
        name: its description; its number where it has none.
        file: the name of its signal file; "~" if there is none.
        form: the number of its format.
        frames: samples in one frame.
        skew: samples that it lags.
        offset: bytes of the signal file before its samples.
        scale: the gain and what follows it up to the description, as the header has them, without the unit.
        unit: of physical values.
    """

    name: str
    file: str
    form: str
    frames: int
    skew: int
    offset: int
    scale: str
    unit: str


class Header(NamedTuple):
    """What a header says.

    Args:
        path: of the header.
        fs: frames per second.
        frames: how many there are; None if it does not say.
        signals: of a single record.
        segments: names and frames of the segments of a multi-segment record; None where frames are not said. Empty
            for a single record.
        start: date and time by ISO 8601; "" if one of them is not stated.
        notes: what a user should know of how the header was understood.
    """

    path: str
    fs: float
    frames: int | None
    signals: list[Line]
    segments: list[tuple[str, int | None]]
    start: str
    notes: list[str]

    @property
    def fastest(self) -> float:
        """The rate of the fastest signal in Hz; that of frames if no signal is listed."""
        return self.fs * max((line.frames for line in self.signals), default=1)


def read_header(path: str) -> Header:
    """Read one header.

    Raises:
        ValueError: it is none; the message says what was expected.
        OSError: it cannot be read.
    """
    lines = header_lines(path)
    match = re.match(r"(\S+?)(?:/(\d+))?\s+(\d+)(?:\s+(\S+))?(?:\s+(\d+))?(?:\s+(.*))?$", lines[0]) if lines else None
    if match is None:
        raise ValueError("expected a header that begins with a record's name and its number of signals")
    _, segments, count, rate, frames, rest = match.groups()
    notes: list[str] = []
    fs = _DEFAULT_FS
    if rate is None:
        notes.append(f"the header states no rate: {fs:g} Hz is taken, as the format defines")
    else:
        found = re.match(r"\d*\.?\d*(?:[eE][+-]?\d+)?", rate)
        try:
            fs = float(found[0] if found else "")
        except ValueError:
            raise ValueError(f"expected a rate in Hz in the header's first line, got {rate!r}") from None
    if not 0 < fs < 1e9:
        raise ValueError(f"expected a rate above 0 Hz in the header's first line, got {rate!r}")
    start = _start((rest or "").split(), notes)
    length = int(frames) if frames and int(frames) else None
    if segments is not None:
        listed = [_segment(line) for line in lines[1 : 1 + int(segments)]]
        if len(listed) < int(segments):
            notes.append(f"the header states {segments} segments and names {len(listed)}")
        return Header(path, fs, length, [], listed, start, notes)
    signals = [_signal(line, number) for number, line in enumerate(lines[1 : 1 + int(count)])]
    if len(signals) < int(count):
        raise ValueError(f"expected {count} signals in the header, found {len(signals)}")
    return Header(path, fs, length, signals, [], start, notes)


def header_lines(path: str) -> list[str]:
    """The lines of a header without comments and empty lines."""
    text = Path(path).read_text(encoding="utf-8", errors="replace")
    return [line.strip() for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]


def beside(path: str, name: str) -> str:
    """A file that a header names: beside it or, where the header is a link, beside what this leads to."""
    near = os.path.join(os.path.dirname(path), name)
    far = os.path.join(os.path.dirname(os.path.realpath(path)), name)
    return far if not os.path.isfile(near) and os.path.isfile(far) else near


def frames_in_files(header: Header, numbers: list[int]) -> int | None:
    """How many frames the signal files of some signals hold; None if that cannot be known from their sizes.

    Raises:
        ValueError: a signal file is not there.
    """
    counts = []
    for name in dict.fromkeys(header.signals[i].file for i in numbers):
        file = beside(header.path, name)
        if not os.path.isfile(file):
            raise ValueError(f"expected the signal file {name} beside {os.path.basename(header.path)}")
        lines = [line for line in header.signals if line.file == name]
        if lines[0].form in _SAMPLE_BYTES:
            frame = _SAMPLE_BYTES[lines[0].form] * sum(line.frames for line in lines)
            counts.append(int(max(os.path.getsize(file) - lines[0].offset, 0) / frame + 1e-9))
    return min(counts, default=None)


def why_aside(path: str) -> str:
    """Why a header is no recording, in a few words; "" if it may be one."""
    try:
        header = read_header(path)
        first = header
        if header.segments:
            named = [name for name, _ in header.segments if name != "~"]
            file = beside(path, f"{named[0]}.hea") if named else ""
            first = read_header(file) if os.path.isfile(file) else header
    except (OSError, ValueError):
        return ""  # reading it says what is wrong
    if header is first and all(line.file == "~" for line in header.signals) and not header.segments:
        return "without signals"
    return f"of numerics, at {first.fastest:g} Hz" if first.signals and first.fastest <= NUMERICS_FS else ""


def _signal(line: str, number: int) -> Line:
    """One line `file format[xframes][:skew][+offset] gain resolution zero first checksum block description`."""
    match = _SIGNAL.match(line)
    if match is None:
        raise ValueError(f"expected a file and a format in the header's line of signal {number}, got {line!r}")
    file, form, frames, skew, offset, gain, unit, rest, name = match.groups()
    numbers = int(frames or 1) or 1, int(skew or 0), int(offset or 0)
    return Line(name.strip() or str(number), file, form, *numbers, f"{gain or ''}{rest}".lower(), unit or "")


def _segment(line: str) -> tuple[str, int | None]:
    """One line `name frames`."""
    tokens = line.split()
    return tokens[0], int(tokens[1]) if len(tokens) > 1 and tokens[1].isdigit() else None


def _start(tokens: list[str], notes: list[str]) -> str:
    """Date and time by ISO 8601 of `[[hh:]mm:]ss[.fraction] dd/mm/yyyy`; "" if one of them is missing."""
    if len(tokens) < 2:
        return ""
    try:
        clock, day = tokens[0].split(":"), [int(part) for part in tokens[1].split("/")]
        seconds = sum(float(part) * 60**power for power, part in enumerate(reversed(clock)))
        if len(day) == 3 and len(clock) <= 3:
            midnight = datetime(day[2], day[1], day[0])
            return (midnight + timedelta(microseconds=round(seconds * 1e6))).isoformat()
    except (ValueError, OverflowError):
        pass
    notes.append(f"the date and time of the start, {' '.join(tokens[:2])!r}, cannot be read")
    return ""
