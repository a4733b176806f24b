"""Reads the header of EDF, EDF+ and BDF files; what is wrong in it and can be understood is forgiven.

Source: Kemp et al., https://www.edfplus.info/specs/edf.html and edfplus.html; https://www.biosemi.com/faq/file_format.htm
"""

from __future__ import annotations

import math
import os
import re
from typing import NamedTuple

from xmae_fast.recordings.formats.edf_dates import start_of

TICKS = 10**7  # in a second; times of EDF are counted in them, exactly
_NUMBER = re.compile(r"([+-]?)(\d*)(?:[.,](\d*))?(?:[eE]([+-]?\d{1,2}))?")
# The fields of the signals, in their order, and the bytes that one of each takes.
_FIELDS = {
    "label": 16, "transducer": 80, "dimension": 8, "physical_min": 8, "physical_max": 8, "digital_min": 8,
    "digital_max": 8, "prefilter": 80, "samples": 8, "reserved": 32,
}  # fmt: skip


class Signal(NamedTuple):
    """One signal.

    Args:
        label: its name.
        samples: in one record.
        at: the byte of a record at which its samples begin.
        gain, offset: physical = gain * (offset + digital); gain is NaN where the header states no usable limits.
        annotation: whether it holds times and texts instead of samples.
    """

    label: str
    samples: int
    at: int
    gain: float
    offset: float
    annotation: bool


class Header(NamedTuple):
    """What a header says.

    Args:
        signals: all of them, those of annotations too.
        data_at: the byte of the file at which records begin.
        width: bytes of a sample: 2 in EDF, 3 in BDF.
        records: R, the records that are stated; None if that cannot be known from the header.
        whole: the records that are whole in the file.
        record_bytes: bytes of one record.
        ticks: the duration of a record in 1/TICKS s; 0 if it is not stated.
        start: the date and time by ISO 8601 to the second, or "".
        plus: "C" or "D" for EDF+ and BDF+, which is contiguous or not, "" for EDF and BDF.
        notes: what a user should know of how the header was understood.
    """

    signals: list[Signal]
    data_at: int
    width: int
    records: int | None
    whole: int
    record_bytes: int
    ticks: int
    start: str
    plus: str
    notes: list[str]


def read_header(path: str) -> Header:
    """Read the header of a file.

    Raises:
        ValueError: the file is no EDF or BDF; the message says what was expected.
        OSError: it cannot be read.
    """
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        main = file.read(256)
        if len(main) < 256:
            raise ValueError(f"expected a header of at least 256 bytes, the file has {size}")
        notes: list[str] = []
        count = _signal_count(main, notes)
        table = file.read(256 * count)
    if len(table) < 256 * count:
        raise ValueError(f"expected a header of {256 * (count + 1)} bytes for {count} signals, the file has {size}")
    reserved = _text(main[192:236]).upper()
    bdf = main[:1] == b"\xff" or b"BIOSEMI" in main[:8].upper() or reserved.startswith(("BDF+", "24BIT"))
    if not bdf and _text(main[:8]) != "0":
        notes.append(f"the version is {_text(main[:8])!r} instead of '0': the file is read as EDF")
    fields, at = {}, 0
    for name, length in _FIELDS.items():
        fields[name] = [_text(table[at + length * i : at + length * (i + 1)]) for i in range(count)]
        at += length * count
    width = 3 if bdf else 2
    signals, record_bytes = _signals(fields, width, notes)
    data_at = 256 * (count + 1)
    whole, rest = divmod(max(size - data_at, 0), record_bytes)
    records = _records(_text(main[236:244]), whole, rest, notes)
    start = start_of(_text(main[168:176]), _text(main[176:184]), _text(main[88:168]), notes)
    plus = reserved[4:5] if reserved[:5] in ("EDF+C", "EDF+D", "BDF+C", "BDF+D") else ""
    ticks = _duration(_text(main[244:252]), notes)
    return Header(signals, data_at, width, records, whole, record_bytes, ticks, start, plus, notes)


def number(text: str) -> float | None:
    """A number with a point or a comma as its decimal mark; None if the text is none.

    The digits after the mark are divided by a power of ten and added, and tens are multiplied one by one: EDFlib does
    so, and physical values are the same as its values to the last bit.
    """
    match = _NUMBER.fullmatch(text)
    if not match or not (match[2] or match[3]):
        return None
    sign = -1 if match[1] == "-" else 1
    value = float(sign * int(match[2] or 0))
    if match[3]:
        value += float(sign * int(match[3])) / 10 ** len(match[3])
    exponent = int(match[4] or 0)
    for _ in range(abs(exponent)):
        value = value * 10 if exponent > 0 else value / 10
    return value


def to_ticks(text: str) -> int | None:
    """A time in s as a number of ticks; None if the text is no number."""
    match = _NUMBER.fullmatch(text)
    if not match or not (match[2] or match[3]):
        return None
    if match[4]:
        return round((number(text) or 0.0) * TICKS)
    fraction = (match[3] or "")[:7]
    ticks = int(match[2] or 0) * TICKS + int(fraction.ljust(7, "0"))
    return -ticks if match[1] == "-" else ticks


def _text(raw: bytes) -> str:
    """A field, whatever its encoding: UTF-8 if it can be that, or else Latin-1."""
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        text = raw.decode("latin-1")
    return "".join(c if c.isprintable() else " " for c in text).strip()


def _whole_number(text: str) -> int | None:
    """An integer, which may be written as 256.0; None if the text is none."""
    value = number(text)
    return None if value is None or not math.isfinite(value) or value != int(value) else int(value)


def _signal_count(main: bytes, notes: list[str]) -> int:
    """How many signals there are, by their number or else by the stated size of the header."""
    stated, size = _whole_number(_text(main[252:256])), _whole_number(_text(main[184:192]))
    by_size = size // 256 - 1 if size and size >= 512 and size % 256 == 0 else None
    if stated is None or stated < 1:
        if by_size is None:
            raise ValueError(
                f"expected an EDF or BDF file with a number of signals, its header states {_text(main[252:256])!r}"
            )
        notes.append(f"the header states no number of signals: its size tells that there are {by_size}")
        return by_size
    if by_size != stated:
        notes.append(f"the header is read as that of {stated} signals, the size that it states is another")
    return stated


def _signals(fields: dict[str, list[str]], width: int, notes: list[str]) -> tuple[list[Signal], int]:
    """The signals, and the bytes of a record.

    Args:
        fields: the text of each field for each signal.
        width: bytes of a sample.
        notes: get a sentence on each signal without usable limits.

    Raises:
        ValueError: a number of samples cannot be read, or there are none at all.
    """
    signals, at = [], 0
    for i, label in enumerate(fields["label"]):
        samples = _whole_number(fields["samples"][i])
        if samples is None or samples < 0:
            raise ValueError(
                f"expected a number of samples in each record for channel {i}, {label!r}, the header states"
                f" {fields['samples'][i]!r}"
            )
        annotation = label.lower() in ("edf annotations", "bdf annotations")
        gain, offset = _scale(*(number(fields[key][i]) for key in list(_FIELDS)[3:7]))
        if math.isnan(gain) and not annotation and samples:
            limits = ", ".join(fields[key][i] or "nothing" for key in list(_FIELDS)[3:7])
            notes.append(
                f"the limits of channel {i}, {label!r}, are of no use (physical and digital minimum and maximum"
                f" {limits}): its values are digital"
            )
        signals.append(Signal(label, samples, at, gain, offset, annotation))
        at += samples * width
    if not at:
        raise ValueError("expected samples, the header states none for any channel")
    return signals, at


def _scale(low: float | None, high: float | None, digital_low: float | None, digital_high: float | None):
    """Gain and offset of a signal, in the order of operations of EDFlib; NaN and 0 where the limits are of no use."""
    if low is None or high is None or digital_low is None or digital_high is None:
        return math.nan, 0.0
    if low == high or digital_low == digital_high or not all(map(math.isfinite, (low, high, digital_low))):
        return math.nan, 0.0
    gain = (high - low) / (digital_high - digital_low)
    offset = high / gain - digital_high if gain else math.nan
    return (gain, offset) if math.isfinite(gain) and math.isfinite(offset) else (math.nan, 0.0)


def _records(text: str, whole: int, rest: int, notes: list[str]) -> int | None:
    """How many records the header states; notes tell how the file differs from it."""
    stated = _whole_number(text)
    tail = f", the last {rest} bytes are part of another and left out" if rest else ""
    if stated is None or stated < 0:
        notes.append(f"the header states {text or 'no'!s} records: the {whole} that the file holds are read{tail}")
        return None
    if stated > whole:
        notes.append(f"the file is cut: {whole} of {stated} records are whole and read{tail}")
    elif stated < whole:
        notes.append(f"the header states {stated} records, the file holds {whole}: all are read{tail}")
    return stated


def _duration(text: str, notes: list[str]) -> int:
    """The duration of a record in ticks; 0 if the header states none that is of use."""
    ticks = to_ticks(text)
    if ticks is None or ticks <= 0:
        notes.append(f"the header states no duration of a record (it holds {text!r})")
        return 0
    if "," in text:
        notes.append(f"the duration of a record, {text!r}, is read as {ticks / TICKS:g} s: a comma is a decimal mark")
    return ticks
