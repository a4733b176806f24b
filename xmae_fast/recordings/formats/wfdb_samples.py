"""Reads the samples of one WFDB record of one segment, with the package wfdb, some frames at a time."""

from __future__ import annotations

import os
import re
import tempfile
from typing import Any

import numpy as np

from xmae_fast.recordings.formats.wfdb_header import Header, beside

_BLOCK = 1 << 22  # samples of all signals of a file that are decoded at a time


def read_samples(header: Header, numbers: list[int], frames: int) -> dict[int, np.ndarray]:
    """The samples of some signals in physical units, by their numbers; NaN where the format marks one as missing.

    Args:
        header: of the record.
        numbers: of the signals, ascending.
        frames: how many are read.

    Raises:
        ValueError: wfdb cannot read the record.
    """
    # wfdb finds fields by patterns that do not take every date, name and unit, and such a unit shifts the fields.
    usual = header.frames and all(re.fullmatch(r"[\w^?%/-]*", line.unit) for line in header.signals)
    if usual:
        folder = os.path.dirname(beside(header.path, header.signals[numbers[0]].file))
        record = os.path.join(folder, os.path.splitext(os.path.basename(header.path))[0])
        try:
            return _read(record, header, numbers, frames)
        except ValueError:
            pass
    with tempfile.TemporaryDirectory() as folder:
        return _read(_plain_record(folder, header, frames), header, numbers, frames)


def _plain_record(folder: str, header: Header, frames: int) -> str:
    """Write a header without names, units and dates, and links to its signal files; returns the path of the record."""
    links: dict[str, str] = {"~": "~"}
    lines = [f"r {len(header.signals)} {header.fs:.9g} {header.frames or frames}"]
    for line in header.signals:
        if line.file not in links:
            links[line.file] = f"s{len(links)}.dat"
            os.symlink(os.path.abspath(beside(header.path, line.file)), os.path.join(folder, links[line.file]))
        lines.append(f"{links[line.file]} {line.form}x{line.frames}:{line.skew}+{line.offset} {line.scale}")
    with open(os.path.join(folder, "r.hea"), "w", encoding="ascii") as file:
        file.write("\n".join([*lines, ""]))
    return os.path.join(folder, "r")


def _read(record: str, header: Header, numbers: list[int], frames: int) -> dict[int, np.ndarray]:
    """The samples of the first `frames` frames of the signals `numbers` of the record at a path without suffix."""
    out = {i: np.empty(frames * header.signals[i].frames) for i in numbers}
    for start, stop in _blocks(header, numbers, frames):
        for i, values in _decode(record, numbers, start, stop).items():
            each = header.signals[i].frames
            if len(values) != (stop - start) * each:
                raise ValueError(f"expected {(stop - start) * each} samples of {header.signals[i].name!r}")
            out[i][start * each : stop * each] = values
    return out


def _blocks(header: Header, numbers: list[int], frames: int) -> list[tuple[int, int]]:
    """Frames that are decoded together: all if samples build upon those before them or are shifted."""
    lines = [line for line in header.signals if line.file in {header.signals[i].file for i in numbers}]
    if any(line.form == "8" or line.skew for line in lines):
        return [(0, frames)]
    step = max(1, _BLOCK // sum(line.frames for line in lines))
    return [(start, min(start + step, frames)) for start in range(0, frames, step)]


def _decode(record: str, numbers: list[int], start: int, stop: int) -> dict[int, np.ndarray]:
    """The samples of frames from `start` to `stop`, by the numbers of the signals."""
    import wfdb

    try:
        found: Any = wfdb.rdrecord(
            record, sampfrom=start, sampto=stop, channels=numbers, smooth_frames=False, return_res=64
        )
    except MemoryError:
        raise
    except Exception as error:  # damage makes wfdb raise anything
        detail = " ".join(str(error).split())[:200]
        raise ValueError(f"expected a record that wfdb can read ({type(error).__name__}: {detail})") from error
    return dict(zip(numbers, found.e_p_signal, strict=True))
