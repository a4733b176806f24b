"""Reads WFDB records (PhysioNet): a header .hea and the signal files that it names; each signal has its own rate."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from xmae_fast._optional import need
from xmae_fast.recordings.reading import Reading
from xmae_fast.recordings.recording import Channel, Content, Loaded


def open_wfdb(path: str, reading: Reading) -> Content:
    """Find out about one record of one or several segments; gaps are NaN."""
    wfdb = need("wfdb", "WFDB needs", "prepare")
    record = os.path.splitext(path)[0]
    header = wfdb.rdheader(record, rd_segments=True)
    multi = isinstance(header, wfdb.MultiRecord)
    names = header.get_sig_name() if multi else header.sig_name
    if not names:
        raise ValueError("expected signals, the header names none")

    def load(numbers: Sequence[int]) -> Loaded:
        order = sorted(set(numbers))
        which = {"channel_names": [names[i] for i in order]} if multi else {"channels": order}
        found = wfdb.rdrecord(record, smooth_frames=False, return_res=64, m2s=True, **which)
        signals = found.e_p_signal
        frames = found.samps_per_frame or [1] * len(signals)
        channels = []
        for i in numbers:
            k = found.sig_name.index(names[i]) if multi else order.index(i)
            values = np.asarray(signals[k], np.float64)[None]
            channels.append(Channel(names[i].strip(), values, float(found.fs * frames[k])))
        start = header.base_datetime
        return Loaded(channels, start=start.isoformat() if start else "")

    return Content(names, load)


def header_files(path: str) -> list[str]:
    """The files beside a header that it names; for a multi-segment record these are the headers of its segments."""
    folder = Path(path).parent
    tokens = [line.split()[0] for line in _lines(path)[1:]]
    named = [folder / (f"{token}.hea" if is_multi_segment(path) else token) for token in dict.fromkeys(tokens)]
    return [str(file) for file in named if file.is_file()]


def is_multi_segment(path: str) -> bool:
    """Whether a header's first line is `name/segments ...`."""
    lines = _lines(path)
    return bool(lines) and "/" in lines[0].split()[0]


def _lines(path: str) -> list[str]:
    """The lines of a header without comments and empty lines."""
    text = Path(path).read_text(encoding="utf-8", errors="replace")
    return [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
