"""Reads tables with a row for each sample: CSV, TSV (also .gz) and Parquet, as BIDMC and VitalDB publish them."""

from __future__ import annotations

import gzip
import re
from collections.abc import Sequence

import numpy as np

from xmae_fast._optional import need
from xmae_fast.recordings.reading import Reading
from xmae_fast.recordings.recording import Channel, Content, Loaded

_TIME = re.compile(r"(time|t|timestamp|datetime|seconds|elapsed)([ _]*[\[(]?(s|sec|seconds|ms)[\])]?)?")
_ROUNDED = 1.5  # a rounded time may be wrong by this many samples
_WIDEST_GAPS = 50  # a grid with more than this many times the samples is taken for a wrong time column


def open_table(path: str, reading: Reading) -> Content:
    """Find out about the columns of a table.

    A column of times (numbers in s or ms, or dates) tells the rate, the start and the gaps.
    """
    pandas = need("pandas", "CSV and Parquet needs", "prepare")
    if path.lower().endswith(".parquet"):
        parquet = need("pyarrow.parquet", "Parquet needs", "prepare")
        names, separator = parquet.ParquetFile(path).schema_arrow.names, ""
    else:
        names, separator = _header(path)
    time = next((name for name in names if _TIME.fullmatch(name.strip().lower())), None)

    def load(numbers: Sequence[int]) -> Loaded:
        chosen = [names[i] for i in numbers]
        wanted = [name for name in dict.fromkeys((time, *chosen)) if name is not None]
        if separator:
            dtypes = dict.fromkeys(chosen, np.float64)
            table = pandas.read_csv(path, sep=separator, usecols=wanted, dtype=dtypes, encoding="utf-8-sig")
        else:
            table = pandas.read_parquet(path, columns=wanted)
        if not len(table):
            raise ValueError("expected rows of samples, found none")
        signals = [table[name].to_numpy(np.float64) for name in chosen]
        start, fs = "", reading.fs
        if time is not None:
            seconds, start = _seconds(pandas, table[time], time)
            try:
                signals, fs = place(seconds, signals)
            except ValueError as error:
                if fs is None:
                    raise ValueError(f"{error}; --fs HZ takes the rows as even samples") from None
        if fs is None:
            raise ValueError(f"expected the sampling rate, found no time column in {names}: --fs HZ says it")
        return Loaded(
            [Channel(name.strip(), x[None], fs) for name, x in zip(chosen, signals, strict=True)], start=start
        )

    return Content(names, load)


def place(seconds: np.ndarray, signals: list[np.ndarray]) -> tuple[list[np.ndarray], float]:
    """Place samples on a grid of even times.

    Times may be rounded to more than the distance of two samples, as those of BIDMC are, unless there are gaps as well.

    Args:
        seconds: [samples], the times of the samples.
        signals: [samples] each.

    Returns:
        The signals on the grid, with NaN in gaps, and the rate of the grid in Hz, which is that of the stretches
        without gaps.

    Raises:
        ValueError: times fall, or they are too uneven for a grid.
    """
    steps = np.diff(seconds)
    if len(steps) < 1 or not (steps >= 0).all() or seconds[-1] == seconds[0]:
        row = int(np.flatnonzero(~(steps >= 0))[0]) + 2 if (~(steps >= 0)).any() else len(seconds)
        raise ValueError(f"time: expected rising numbers, row {row} of {len(seconds)} is not above the one before it")
    span = seconds[-1] - seconds[0]
    line = seconds[0] + np.arange(len(seconds)) * span / len(steps)
    if np.abs(seconds - line).max() * len(steps) < _ROUNDED * span:
        return signals, _rate(len(steps), span)
    even = steps[steps < 1.5 * np.median(steps)]
    fs = _rate(len(even), even.sum())
    at = np.round((seconds - seconds[0]) * fs).astype(np.int64)
    if (np.diff(at) < 1).any() or at[-1] > _WIDEST_GAPS * len(at):
        longest = float(steps.max())
        raise ValueError(f"time: expected evenly spaced samples with few gaps, got {fs:g} Hz, gaps up to {longest:g} s")
    placed = []
    for x in signals:
        grid = np.full(at[-1] + 1, np.nan)
        grid[at] = x
        placed.append(grid)
    return placed, fs


def _rate(samples: int, seconds: float) -> float:
    """The rate in Hz; rounded to a whole number if that moves the last sample by less than one."""
    fs = samples / seconds if seconds else np.nan
    return float(round(fs)) if abs(fs - round(fs)) * seconds < 1 else float(fs)


def _seconds(pandas, column, name: str) -> tuple[np.ndarray, str]:
    """The times in a column in seconds, and the first of them by ISO 8601 if they are dates, else ""."""
    if column.dtype.kind in "fiu":
        return column.to_numpy(np.float64) * (1e-3 if re.search(r"\bms\b|_ms", name.lower()) else 1), ""
    moments = pandas.to_datetime(column)
    return (moments - moments.iloc[0]).dt.total_seconds().to_numpy(), moments.iloc[0].isoformat()


def _header(path: str) -> tuple[list[str], str]:
    """The names of the columns in the file, and the character that separates them."""
    opened = gzip.open if path.lower().endswith(".gz") else open
    with opened(path, "rt", encoding="utf-8-sig") as file:
        line = file.readline().rstrip("\r\n")
    separator = max(",;\t", key=line.count)
    if not line.count(separator):
        raise ValueError(f"expected a first line with names of columns, found {line[:80]!r}")
    return [name.strip('"') for name in line.split(separator)], separator
