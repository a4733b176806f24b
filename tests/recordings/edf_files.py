"""Writes EDF and BDF files, also such as the standard forbids."""

from __future__ import annotations

from pathlib import Path

import numpy as np

WIDTHS = {
    "labels": 16, "transducers": 80, "dimensions": 8, "physical_min": 8, "physical_max": 8, "digital_min": 8,
    "digital_max": 8, "prefilters": 80, "samples": 8, "reserved_signals": 32,
}  # fmt: skip


def field(value: object, width: int) -> bytes:
    raw = value if isinstance(value, bytes) else str(value).encode("latin-1")
    return raw[:width].ljust(width)


def header(signals: int = 2, **changes) -> bytes:
    """A header of PLETH, II and further channels; `changes` gives fields, those of signals as lists."""
    limits = {"physical_min": -2, "physical_max": 2, "digital_min": -32768, "digital_max": 32767, "samples": 125}
    texts = {"labels": ["PLETH", "II", *(f"c{i}" for i in range(2, signals))][:signals], "dimensions": ["mV"] * signals}
    each = {name: changes.get(name, texts.get(name, [limits.get(name, "")] * signals)) for name in WIDTHS}
    main = {
        "version": (0, 8), "patient": ("X X X X", 80), "recording": ("Startdate 01-JAN-2024 X X X", 80),
        "date": ("01.01.24", 8), "time": ("00.00.00", 8), "size": (256 * (signals + 1), 8), "reserved": ("", 44),
        "records": (-1, 8), "duration": (1, 8), "count": (signals, 4),
    }  # fmt: skip
    assert changes.keys() <= main.keys() | WIDTHS.keys()
    raw = b"".join(field(changes.get(name, value), width) for name, (value, width) in main.items())
    return raw + b"".join(field(value, width) for name, width in WIDTHS.items() for value in each[name])


def write(path: Path, raw: list[bytes], signals: int = 2, **changes) -> Path:
    """A file of the records `raw`; the header tells their number unless `changes` does."""
    path.write_bytes(header(signals, **{"records": len(raw), **changes}) + b"".join(raw))
    return path


def digital(records: int = 30, signals: int = 2, samples: int = 125, seed: int = 0) -> np.ndarray:
    """[records, signals, samples] int16 of noise."""
    return np.random.default_rng(seed).integers(-30000, 30000, (records, signals, samples)).astype("<i2")


def tal(onset: float | str, size: int = 30) -> bytes:
    """A record's time as an annotation."""
    text = onset if isinstance(onset, str) else f"{onset:+g}"
    return f"{text}\x14\x14\0".encode().ljust(size, b"\0")


def timed(values: np.ndarray, onsets: list) -> list[bytes]:
    """Records with their times in an annotation signal after the others."""
    return [record.tobytes() + tal(onset) for record, onset in zip(values, onsets, strict=True)]


def with_times(signals: int = 2, **changes) -> dict:
    """The fields of a file of `timed` records: `signals` channels of 125 samples and the annotations."""
    labels = ["PLETH", "II", *(f"c{i}" for i in range(2, signals))]
    return {
        "signals": signals + 1, "reserved": "EDF+D", "labels": [*labels, "EDF Annotations"],
        "samples": [125] * signals + [15], **changes,
    }  # fmt: skip
