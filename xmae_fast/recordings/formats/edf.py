"""Reads EDF, EDF+ and BDF. Only the channels that are asked for are read from the file."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import BinaryIO

import numpy as np

from xmae_fast.recordings.formats.edf_header import TICKS, Header, Signal, read_header, to_ticks
from xmae_fast.recordings.joining import join
from xmae_fast.recordings.reading import Reading
from xmae_fast.recordings.recording import Channel, Content, Loaded

_ONSET = re.compile(rb"([+-]\d+(?:\.\d*)?)[\x14\x15]")  # the text that begins a record's list of annotations
_LATEST = 100 * 366 * 86400 * TICKS  # a later time is damage
_BLOCK = 1 << 22  # bytes of records that are read at a time


def open_edf(path: str, reading: Reading) -> Content:
    """Find out about one file; signals are in physical units, and each has its own rate."""
    header = read_header(path)
    signals = [signal for signal in header.signals if not signal.annotation]
    if not signals:
        raise ValueError("expected signals, the file has annotations only")
    if not header.whole:
        raise ValueError(f"expected records of {header.record_bytes} bytes, the file holds none that is whole")
    return Content([signal.label for signal in signals], partial(_load, path, header, signals), notes=header.notes)


def _load(path: str, header: Header, signals: list[Signal], numbers: Sequence[int]) -> Loaded:
    """Read the channels of these numbers among `signals`."""
    notes: list[str] = []
    chosen = [signals[i] for i in numbers]
    for signal in chosen:
        if not signal.samples:
            raise ValueError(f"expected samples of channel {signal.label!r}, the header states none")
    values = [np.empty((header.whole, signal.samples)) for signal in chosen]
    times = next((signal for signal in header.signals if signal.annotation and signal.samples), None)
    onsets: list[int | None] = []
    with open(path, "rb") as file:
        for begin, records in _blocks(file, header):
            for out, signal in zip(values, chosen, strict=True):
                _decode(records, signal, header.width, out[begin : begin + len(records)])
            if header.plus and times is not None:
                part = records[:, times.at : times.at + times.samples * header.width]
                onsets += [_onset(raw.tobytes()) for raw in part]
    first, runs = _runs(onsets or [None] * header.whole, header, chosen, notes)
    channels = []
    for signal, out in zip(chosen, values, strict=True):
        fs = signal.samples / (header.ticks / TICKS) if header.ticks else np.nan
        pieces, firsts, end = [], [], 0
        for begin, stop, onset in runs:
            at = max(round(onset * signal.samples / header.ticks), end) if onset else end
            pieces.append(out[begin:stop].reshape(-1))
            firsts.append(at)
            end = at + len(pieces[-1])
        joined = pieces[0][None] if len(pieces) == 1 else join(firsts, pieces, end, fs)
        channels.append(Channel(signal.label, joined, float(fs)))
    start = header.start
    if start and first:
        try:
            start = (datetime.fromisoformat(start) + timedelta(microseconds=first / 10)).isoformat()
        except OverflowError:
            start = ""
    return Loaded(channels, start=start, notes=notes)


def _blocks(file: BinaryIO, header: Header) -> Iterator[tuple[int, np.ndarray]]:
    """The records of a file, some at a time: the number of the first, and their bytes, [records, bytes of a record]."""
    step = max(1, _BLOCK // header.record_bytes)
    file.seek(header.data_at)
    for begin in range(0, header.whole, step):
        count = min(step, header.whole - begin)
        raw = np.fromfile(file, np.uint8, count * header.record_bytes)
        if len(raw) < count * header.record_bytes:
            raise ValueError("expected a file at rest, it became shorter while it was read")
        yield begin, raw.reshape(count, header.record_bytes)


def _decode(records: np.ndarray, signal: Signal, width: int, out: np.ndarray) -> None:
    """Write the samples of a signal in physical units.

    Args:
        records: [R, bytes of a record] uint8.
        signal: which one.
        width: bytes of a sample.
        out: [R, samples] float64.
    """
    raw = records[:, signal.at : signal.at + width * signal.samples].reshape(len(records), signal.samples, width)
    if width == 2:
        out[:] = np.ascontiguousarray(raw).view("<i2")[..., 0]
    else:
        whole = np.zeros((*raw.shape[:2], 4), np.uint8)
        whole[..., 1:] = raw  # the sign comes from the highest byte
        out[:] = whole.view("<i4")[..., 0] >> 8
    if not np.isnan(signal.gain):
        out += signal.offset
        out *= signal.gain


def _runs(
    onsets: list[int | None], header: Header, chosen: Sequence[Signal], notes: list[str]
) -> tuple[int, list[tuple[int, int, int]]]:
    """Which records follow each other without a gap.

    Args:
        onsets: [R], the time of each record in ticks after the start that the header states; None where it has none.
        header: of the file.
        chosen: the signals that are read; half a sample of the fastest is no gap.
        notes: get a sentence on gaps.

    Returns:
        The time of the first record, and for each run of records the first one, the one after the last, and its time in
        ticks after the first record.

    Raises:
        ValueError: the times of the records cannot be read, or fall, or records overlap.
    """
    R, T = len(onsets), header.ticks
    begin, last = onsets[0], onsets[-1]
    even = begin is None or last is None or last < begin + R * T
    if not header.plus or not T or (header.plus == "C" and even):
        # Contiguous files with times of no use exist: what the header says goes before them.
        return (begin if begin is not None and 0 <= begin < TICKS else 0), [(0, R, 0)]
    times: list[int] = []
    for r, onset in enumerate(onsets):
        if onset is None and header.records is not None and r >= header.records > 0:
            notes.append(f"records from number {r + 1} on have no time and are left out")
            break
        if onset is None:
            raise ValueError(
                f"expected the time of each record, as there are gaps between some, record {r + 1} has none"
            )
        times.append(onset)
    slack = max(T // (2 * max(signal.samples for signal in chosen)), TICKS // 1000)
    runs: list[tuple[int, int, int]] = []
    first = 0
    for r in range(1, len(times) + 1):
        if r < len(times):
            if times[r] < times[r - 1] + T - slack:
                kind = "falling" if times[r] < times[r - 1] else "overlapping"
                raise ValueError(
                    f"expected records one after another, got {kind} times: record {r + 1} begins at"
                    f" {times[r] / TICKS:g} s and record {r} at {times[r - 1] / TICKS:g} s, each lasts {T / TICKS:g} s"
                )
            if times[r] <= times[first] + (r - first) * T + slack:
                continue
        runs.append((first, r, times[first] - times[0]))
        first = r
    if len(runs) > 1:
        missing = (times[-1] + T - times[0] - len(times) * T) / TICKS
        stated = "" if header.plus == "D" else ", though its header calls it contiguous"
        notes.append(
            f"the recording has {len(runs) - 1} gap(s) of {missing:g} s in all{stated}: samples are missing there"
        )
    return times[0], runs


def _onset(raw: bytes) -> int | None:
    """The time that a record's annotations begin with, in ticks; None if there is none."""
    match = _ONSET.match(raw.lstrip(b"\0 "))
    ticks = None if match is None else to_ticks(match[1].decode())
    return None if ticks is None or abs(ticks) > _LATEST else ticks
