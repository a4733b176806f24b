"""What a reader of recordings is asked for."""

from __future__ import annotations

import codecs
import math
from typing import NamedTuple

POLARITIES = ("keep", "auto", "flip")  # what is done with signals that may be upside down


class Reading(NamedTuple):
    """Which channels of a recording are read, and what its file does not say or says wrongly.

    Args:
        ppg: the channel of the PPG: its name, its number from 0, or a pattern such as "*ir*"; None looks for a usual
            name.
        ecg: the channel of the ECG, likewise.
        fs: the sampling frequency in Hz. It goes before what the file says; gaps that the file tells of stay gaps.
        signals: "both", "ppg" or "ecg".
        time: the name or number of a table's column of times; "none" takes rows as even samples.
        day_first: whether dates such as 05/02/2024 have the day first; None asks where a file does not tell.
        skip_rows: lines of a text table before its first line of names or numbers; None finds out.
        encoding: of a text table; None finds out.
        decimal: "." or ",", the decimal mark of a text table; None finds out.
    """

    ppg: str | None = None
    ecg: str | None = None
    fs: float | None = None
    signals: str = "both"
    time: str | None = None
    day_first: bool | None = None
    skip_rows: int | None = None
    encoding: str | None = None
    decimal: str | None = None

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of channels that are read: "PPG", "ECG" or both."""
        return {"both": ("PPG", "ECG"), "ppg": ("PPG",), "ecg": ("ECG",)}[self.signals]

    def wanted(self, kind: str) -> str | None:
        """What was asked for as the channel of a kind, "PPG" or "ECG"."""
        return self.ppg if kind == "PPG" else self.ecg


def check_reading(reading: Reading) -> None:
    """Raise ValueError, which names the field, if a field of `reading` has a wrong value."""
    if reading.signals not in ("both", "ppg", "ecg"):
        raise ValueError(f"signals: expected 'both', 'ppg' or 'ecg', got {reading.signals!r}")
    for name, value in {"ppg": reading.ppg, "ecg": reading.ecg, "time": reading.time}.items():
        if value is not None and not str(value).strip():
            raise ValueError(f"{name}: expected a name, a number or a pattern, got {value!r}")
    fs, decimal, rows = reading.fs, reading.decimal, reading.skip_rows
    if fs is not None and not (math.isfinite(fs) and 0 < fs <= 1e6):
        raise ValueError(f"fs: expected a number of Hz above 0 and at most 1e+06, got {fs!r}")
    if decimal is not None and decimal not in (".", ","):
        raise ValueError(f"decimal: expected '.' or ',', got {decimal!r}")
    if rows is not None and rows < 0:
        raise ValueError(f"skip_rows: expected 0 or more lines, got {rows!r}")
    if reading.encoding is not None:
        try:
            codecs.lookup(reading.encoding)
        except LookupError:
            raise ValueError(f"encoding: expected the name of an encoding, got {reading.encoding!r}") from None
