"""Turns a table's column of times into seconds."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from xmae_fast._optional import need
from xmae_fast.recordings.dates import Dates, moment
from xmae_fast.recordings.numbers import seconds_of_numbers
from xmae_fast.recordings.timetext import MISSING, Parsed, TimeText

_UNITS = {  # how people write units, by the unit
    "s": "s sec secs second seconds",
    "ms": "ms msec msecs millis milli milliseconds millisecond",
    "us": "us µs μs usec usecs micros micro microseconds microsecond",
    "ns": "ns nsec nanos nano nanoseconds nanosecond",
    "min": "min mins minute minutes",
    "h": "h hr hrs hour hours",
}
_UNIT_OF = {word: unit for unit, words in _UNITS.items() for word in words.split()}
# Names of columns of times, best first, without blanks and units. Names of one line are equally good.
_NAMES = (
    "sensortimestamp timestampsensor",
    "timestamp timestamps localtimestamp datetime dateandtime datetimeutc unixtime unixtimestamp unix epoch epochtime "
    "posixtime posix systemtime devicetime utctime utc timestampunix recordedat ts tstamp",
    "time times t timeofday localtime zeit zeitstempel uhrzeit temps hora tiempo tempo clock hhmmss phonetimestamp",
    "elapsedtime elapsed relativetime seconds secs milliseconds millis microseconds reltime",
    "sample samples sampleno samplenumber samplenum sampleindex sampleid samplecount index idx counter unnamed0 "
    "nseq seq seqno sequence sequencenumber frame frameno framenumber frameindex row rowno rownumber",
)
_RANK = {word: rank for rank, line in enumerate(_NAMES) for word in line.split()}
_COUNTER = len(_NAMES) - 1
_DATE = ("date", "day", "datum", "fecha", "localdate")
_FEW = 1e-3  # of the rows may hold a text that is no time


class Times(NamedTuple):
    """The times of the rows of a table.

    Args:
        seconds: [n] float64, from the first row on; NaN where a row has no time.
        start: ISO 8601 date and time of the first row if the column has a date, else "".
        notes: every guess, a sentence each.
    """

    seconds: np.ndarray
    start: str
    notes: list[str]


class TimeColumn:
    """The times in one column of a table, or in a column of dates and one of times of day, chunk by chunk.

    Args:
        names: the names of the columns: one, or a date's and a time's.
        day_first: whether 05/02/2024 is the 5th of February; None finds out from all rows and never guesses.
    """

    def __init__(self, names: Sequence[str], day_first: bool | None = None) -> None:
        if len(names) not in (1, 2):
            raise ValueError(f"time: expected one column, or one of dates and one of times, got {list(names)}")
        self.names = [str(name) for name in names]
        self._day_first = day_first
        self._texts = TimeText()
        self._numbers: list[np.ndarray] = []
        self._parsed: list[Parsed] = []
        self._moments: list[np.ndarray] = []  # int64 ns since 1970, or from 0 on if they are durations
        self._zone = ""
        self._durations = False

    @property
    def label(self) -> str:
        """The names of the columns, for messages."""
        return " and ".join(repr(name) for name in self.names)

    def add(self, *chunks) -> None:
        """Take the next rows.

        Args:
            chunks: of each column, of equal lengths: NumPy or pandas numbers, text, datetimes or durations.
        """
        if len(chunks) != len(self.names):
            raise ValueError(f"time: expected the next rows of {self.label}, got {len(chunks)} columns")
        if not len(chunks[0]):
            return
        if len(chunks) == 2:
            self._keep(self._texts.parse(self._texts.joined(*chunks)))
            return
        [chunk] = chunks
        dtype = getattr(chunk, "dtype", None)
        kind = getattr(dtype, "kind", "O")
        if kind in "Mm":
            self._add_moments(chunk, kind)
        elif kind in "fiu":
            missing = getattr(chunk, "isna", None)
            whole = kind in "iu" and not (missing is not None and missing().any())
            if kind == "f" or not whole:
                plain = chunk.to_numpy(np.float64, na_value=np.nan) if missing is not None else chunk
                self._numbers.append(np.asarray(plain, np.float64))
            else:
                self._numbers.append(np.asarray(chunk).astype(np.int64))
        else:
            parsed = self._texts.parse(self._texts.text(chunk))
            self._keep(parsed)

    def _keep(self, parsed: Parsed | np.ndarray) -> None:
        if isinstance(parsed, Parsed):
            self._parsed.append(parsed)
        else:
            self._numbers.append(parsed)

    def _add_moments(self, chunk, kind: str) -> None:
        pandas = need("pandas", "times need", "prepare")
        series = pandas.Series(chunk)
        zone = getattr(series.dtype, "tz", None)
        if zone is not None:
            if not self._moments:
                self._zone = series.iloc[0].isoformat()[-6:] if not pandas.isna(series.iloc[0]) else "+00:00"
            series = series.dt.tz_convert("UTC").dt.tz_localize(None)
        self._durations = kind == "m"
        form = "timedelta64[ns]" if kind == "m" else "datetime64[ns]"
        self._moments.append(series.astype(form).to_numpy().view(np.int64))

    def finish(self, fs: float | None = None) -> Times:
        """The times of all rows.

        Args:
            fs: the rate in Hz, which a column that counts samples needs.

        Raises:
            ValueError: the times cannot be understood or are ambiguous; the message says which option helps.
        """
        found = [bool(self._numbers), bool(self._parsed), bool(self._moments)]
        if sum(found) == 0:
            raise ValueError(f"time: column {self.label} has no rows")
        if sum(found) > 1:
            raise ValueError(f"time: column {self.label} holds numbers and texts; --time NAME chooses another column")
        notes: list[str] = []
        if self._moments:
            values = np.concatenate(self._moments)
            known = values[values != MISSING][:1].tolist()
            start = moment(known[0], self._zone) if known and not self._durations else ""
            return Times(_relative(values), start, notes)
        if self._numbers:
            values = self._numbers[0] if len(self._numbers) == 1 else np.concatenate(self._numbers)
            self._numbers.clear()
            unit, base = unit_and_name(self.names[0])
            counter = _RANK.get(base) == _COUNTER
            seconds, start = seconds_of_numbers(
                values, self.label, unit, counter, "sensor" not in base, fs, self._day_first, notes
            )
            return Times(seconds, start, notes)
        self._check_texts()
        day_first = True if self._day_first is None and self._texts.bracketed else self._day_first
        dates = Dates(self._texts.dates, day_first)
        values, start = dates.moments(self._parsed, self._texts.offsets, self.label, notes)
        return Times(_relative(values), start, notes)

    def _check_texts(self) -> None:
        total = sum(len(parsed.nanoseconds) for parsed in self._parsed)
        if self._texts.failed > _FEW * total:
            row, text = self._texts.example
            raise ValueError(
                f"time: row {row} of column {self.label} holds {text!r}, which is not understood as a time, and so do "
                f"{self._texts.failed - 1} others; --time NAME chooses another column, --time none takes even samples"
            )


def _relative(values: np.ndarray) -> np.ndarray:
    """Nanoseconds [n] as seconds from the first one on; the least number is a missing time."""
    missing = values == np.iinfo(np.int64).min
    known = values[~missing] if missing.any() else values
    if not len(known):
        raise ValueError("time: no row has a time")
    seconds = np.empty(len(values))
    np.divide(values - known[0], 1e9, out=seconds)
    seconds[missing] = np.nan
    return seconds


def unit_and_name(name: str) -> tuple[str, str]:
    """The unit that a column's name states, "" if none, and its name without it, without blanks, in small letters.

    "Time [s]" and "time_s" give ("s", "time"); "LocalTimestamp" gives ("", "localtimestamp").
    """
    plain = name.strip().strip("\"'").strip()
    plain = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", plain)
    words = [word for word in re.split(r"[^0-9a-zµμ]+", plain.lower()) if word]
    unit = ""
    if words and words[-1] in _UNIT_OF and (len(words) > 1 or len(words[0]) > 2):
        unit = _UNIT_OF[words[-1]]
        if len(words) > 1:
            words = words[:-1]
    if words and words[-1] in ("iso", "utc", "local", "gmt", "hh", "ss") and len(words) > 1:
        words = words[:-1]
    return unit, "".join(words)


def find_time_columns(names: Sequence[str]) -> list[int]:
    """The columns of times among the names of a table's columns.

    Args:
        names: as people write them, with units such as [ms] or _us.

    Returns:
        The number of one column, or of a date's and a time's; empty if no name is one of a time. A whole time is
        preferred to a time of day, that to an elapsed time, and that to a counter of samples.
    """
    bases = [unit_and_name(str(name))[1] for name in names]
    ranked = [(_RANK[base], number) for number, base in enumerate(bases) if base in _RANK]
    dates = [number for number, base in enumerate(bases) if base in _DATE]
    if ranked:
        rank, best = min(ranked)
        if dates and rank == 2:
            return [dates[0], best]
        if not (dates and rank >= 3):
            return [best]
    if dates:
        return [dates[0]]
    return [number for number, base in enumerate(bases) if "timestamp" in base][:1]
