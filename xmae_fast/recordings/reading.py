"""What a reader of recordings is asked for."""

from __future__ import annotations

from typing import NamedTuple


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
