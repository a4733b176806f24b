"""Reads EDF, EDF+ and BDF. Only the channels that are asked for are read from the file."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime, timedelta
from functools import partial

import numpy as np

from xmae_fast.recordings.formats.edf_header import TICKS, Header, Signal, read_header, to_ticks
from xmae_fast.recordings.joining import join
from xmae_fast.recordings.reading import Reading
from xmae_fast.recordings.recording import Channel, Content, Loaded

_ONSET = re.compile(rb"([+-]\d+(?:\.\d*)?)[\x14\x15]")  # the text that begins a record's list of annotations
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
    records = np.memmap(path, np.uint8, "r", header.data_at, (header.whole, header.record_bytes))
    notes: list[str] = []
    chosen = [signals[i] for i in numbers]
    first, runs = _runs(records, header, chosen, notes)
    channels = []
    for signal in chosen:
        if not signal.samples:
            raise ValueError(f"expected samples of channel {signal.label!r}, the header states none")
        fs = signal.samples / header.ticks * TICKS if header.ticks else np.nan
        pieces, firsts, end = [], [], 0
        for start, stop, onset in runs:
            at = max(round(onset * signal.samples / header.ticks), end) if onset else end
            pieces.append(_values(records[start:stop], signal, header.width))
            firsts.append(at)
            end = at + len(pieces[-1])
        joined = pieces[0][None] if len(pieces) == 1 else join(firsts, pieces, end, fs)
        channels.append(Channel(signal.label, joined, float(fs)))
    start = header.start
    if start and first:
        start = (datetime.fromisoformat(start) + timedelta(microseconds=first / 10)).isoformat()
    return Loaded(channels, start=start, notes=notes)


def _values(records: np.ndarray, signal: Signal, width: int) -> np.ndarray:
    """The samples of a signal.

    Args:
        records: [R, bytes of a record] uint8.
        signal: which one.
        width: bytes of a sample.

    Returns:
        [R * samples] float64 in physical units.
    """
    out = np.empty((len(records), signal.samples))
    step = max(1, _BLOCK // records.shape[1])
    for start in range(0, len(records), step):
        raw = records[start : start + step, signal.at : signal.at + width * signal.samples]
        digital = raw.reshape(len(raw), signal.samples, width)
        if width == 2:
            block = np.ascontiguousarray(digital).view("<i2")[..., 0].astype(np.float64)
        else:
            whole = np.zeros((*digital.shape[:2], 4), np.uint8)
            whole[..., 1:] = digital  # the sign comes from the highest byte
            block = (whole.view("<i4")[..., 0] >> 8).astype(np.float64)
        out[start : start + step] = block if np.isnan(signal.gain) else signal.gain * (signal.offset + block)
    return out.reshape(-1)


def _runs(
    records: np.ndarray, header: Header, chosen: Sequence[Signal], notes: list[str]
) -> tuple[int, list[tuple[int, int, int]]]:
    """Which records follow each other without a gap.

    Args:
        records: [R, bytes of a record] uint8.
        header: of the file.
        chosen: the signals that are read; half a sample of the fastest is no gap.
        notes: get a sentence on gaps.

    Returns:
        The time of the first record in ticks after the start that the header states, and for each run of records the
        first one, the one after the last, and its time in ticks after the first record.

    Raises:
        ValueError: the times of the records cannot be read, or fall, or records overlap.
    """
    R = len(records)
    times = next((signal for signal in header.signals if signal.annotation and signal.samples), None)
    first = None if times is None else _onset(records[0], times, header.width)
    if not header.plus or not header.ticks:
        return 0, [(0, R, 0)]
    last = None if times is None else _onset(records[-1], times, header.width)
    even = first is not None and last is not None and last < first + R * header.ticks
    if header.plus == "C" and (first is None or last is None or even):
        # Devices that write times of no use into contiguous files exist: what the header says goes before them.
        return (first if first is not None and 0 <= first < TICKS else 0), [(0, R, 0)]
    onsets: list[int] = []
    for r in range(R):
        onset = None if times is None else _onset(records[r], times, header.width)
        if onset is None and header.records is not None and r >= header.records > 0:
            notes.append(f"records from number {r + 1} on have no time and are left out")
            break
        if onset is None:
            raise ValueError(f"expected the time of each record, as the file is discontinuous, record {r + 1} has none")
        onsets.append(onset)
    fastest = max(signal.samples for signal in chosen)
    slack = max(header.ticks // (2 * fastest) if fastest else 0, TICKS // 1000)
    runs: list[tuple[int, int, int]] = []
    begin = 0
    for r in range(1, len(onsets) + 1):
        if r < len(onsets):
            if onsets[r] < onsets[r - 1] + header.ticks - slack:
                kind = "falling" if onsets[r] < onsets[r - 1] else "overlapping"
                raise ValueError(
                    f"expected records one after another, got {kind} times: record {r + 1} begins at"
                    f" {onsets[r] / TICKS:g} s and record {r} at {onsets[r - 1] / TICKS:g} s,"
                    f" each lasts {header.ticks / TICKS:g} s"
                )
            if onsets[r] <= onsets[begin] + (r - begin) * header.ticks + slack:
                continue
        runs.append((begin, r, onsets[begin] - onsets[0]))
        begin = r
    if len(runs) > 1:
        recorded = len(onsets) * header.ticks
        gaps = (onsets[-1] + header.ticks - onsets[0] - recorded) / TICKS
        stated = "" if header.plus == "D" else ", though its header calls it contiguous"
        notes.append(
            f"the recording has {len(runs) - 1} gap(s) of {gaps:g} s in all{stated}: samples are missing there"
        )
    return onsets[0], runs


def _onset(record: np.ndarray, times: Signal, width: int) -> int | None:
    """The time of a record in ticks; None if it has none."""
    match = _ONSET.match(record[times.at : times.at + times.samples * width].tobytes().lstrip(b"\0 "))
    return None if match is None else to_ticks(match[1].decode())
