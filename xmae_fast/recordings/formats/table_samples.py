"""Makes recordings of the columns of tables: which columns are times and signals, and samples at their times."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np

from xmae_fast.recordings.channels import candidates
from xmae_fast.recordings.dates import moved
from xmae_fast.recordings.formats.devices import CAMERA, Known, may_be_values
from xmae_fast.recordings.grid import place
from xmae_fast.recordings.reading import Reading
from xmae_fast.recordings.recording import Channel, Loaded
from xmae_fast.recordings.stretches import Stretches
from xmae_fast.recordings.times import TimeColumn, find_time_columns

_GROWTH = 1 << 20  # samples that are added to a large array at once


class Columns(Protocol):
    """Columns of a table, block by block: signals, [rows] float64 each, and columns of times, [rows] each."""

    notes: list[str]

    def __iter__(self) -> Iterator[tuple[list[np.ndarray], list]]: ...


def times_among(
    names: Sequence[str], reading: Reading, known: Known | None, dated: Sequence[int], rising: int | None
) -> tuple[list[int], list[str]]:
    """Find the columns that tell the times of samples.

    Args:
        names: of all columns, with their units.
        reading: what was asked for.
        known: what is known of the device.
        dated: the numbers of columns that hold dates or times of day.
        rising: the number of a column without a name whose numbers rise.

    Returns:
        The numbers of the columns, none if there are no times, and notes on what was guessed.

    Raises:
        ValueError: there is no column of the name that was asked for.
    """
    wanted = reading.time
    if wanted is not None:
        return ([] if wanted.strip().lower() == "none" else [_column(names, wanted.strip())]), []
    if known is not None and known.times is not None:
        return [known.times], []
    if found := list(find_time_columns(names)):
        return found, []
    found = list(dated[:2]) or ([] if rising is None else [rising])
    listed = " and ".join(repr(names[i]) if names[i] else f"number {i}" for i in found)
    why = "it holds times" if dated else "its numbers rise"
    return found, [f"column {listed} tells the times, as {why}; --time says another one, or none"] if found else []


def signals_of(
    names: Sequence[str], reading: Reading, known: Known | None, data: Sequence[int], named: bool
) -> tuple[dict[str, list[int]], list[str]]:
    """Find the columns that hold the signals though their names do not say so.

    Args:
        names: of all columns.
        reading: what is asked for.
        known: what is known of the device.
        data: the numbers of the columns of numbers that are not times.
        named: whether the file has names of columns.

    Returns:
        The numbers of columns that can be the "PPG" and the "ECG", and notes on what was guessed.
    """
    if known is not None and not (known.maker == CAMERA and _has_usual_name(names, "PPG")):
        found = {kind: numbers for kind, numbers in (("PPG", known.ppg), ("ECG", known.ecg)) if numbers}
        return found, [f"the columns are taken for those of {known.maker}"]
    if len(reading.kinds) == 1 and len(data) == 1 and reading.wanted(reading.kinds[0]) is None:
        [kind], [number] = reading.kinds, data
        if not named or (may_be_values(names[number]) and not _has_usual_name(names, kind)):
            return {kind: [number]}, [f"column {names[number]!r} is taken for the {kind}, as it is the only one"]
    return {}, []


def load_samples(
    names: Sequence[str],
    reading: Reading,
    signals: Sequence[str],
    columns: Columns,
    times: Sequence[int],
    clock: int | None = None,
    even: bool = False,
) -> Loaded:
    """Read signals and place their samples at their times.

    Args:
        names: of all columns, with their units.
        reading: what is asked for.
        signals: the names of the signals.
        columns: the signals, the columns of times, and the column of the clock if there is one.
        times: the numbers of the columns of times.
        clock: the number of a column of dates that tells the start where the times do not, and the times where theirs
            cannot be used.
        even: whether samples are even if the times, which number the rows, cannot be used.

    Raises:
        ValueError: the rate is not known, or the times cannot be understood.
    """
    parts = [_Growing() for _ in signals]
    moments = TimeColumn([names[i] for i in times], reading.day_first) if times else None
    dates = TimeColumn([names[clock]], reading.day_first) if clock is not None else None
    for values, stamps in columns:
        for part, x in zip(parts, values, strict=True):
            part.add(x)
        if moments is not None:
            moments.add(*stamps[: len(times)])
        if dates is not None:
            dates.add(stamps[-1])
    arrays = [part.whole() for part in parts]
    if moments is None:
        if reading.fs is None:
            listed = ", ".join(map(repr, names))
            raise ValueError(
                f"expected the sampling rate, found no time column in {listed}: --fs HZ says it, or --time COLUMN"
            )
        return _even(signals, arrays, columns.notes)
    told = None if dates is None else dates.finish()
    try:
        found = moments.finish(reading.fs)
        seconds, arrays, left_out = _without_strays(found.seconds, arrays)
        placed = place(seconds, arrays, reading.fs, reuse=told is None and not even)
    except ValueError as error:
        if told is None and even:
            return _even(signals, arrays, [*columns.notes, f"samples are taken as even ({error})"])
        if told is None:
            raise
        found, left_out = told, []
        placed = place(told.seconds, arrays, reading.fs)
    channels = [
        Channel(name, x if isinstance(x, Stretches) else x[None], placed.fs)
        for name, x in zip(signals, placed.values, strict=True)
    ]
    start = moved(found.start if told is None else told.start, placed.first)
    return Loaded(channels, start=start, notes=[*columns.notes, *found.notes, *left_out, *placed.notes])


def _even(signals: Sequence[str], arrays: Sequence[np.ndarray], notes: Sequence[str]) -> Loaded:
    """Signals without times, whose rate the file does not state."""
    channels = [Channel(name, x[None], np.nan) for name, x in zip(signals, arrays, strict=True)]
    return Loaded(channels, notes=list(notes))


def _without_strays(seconds: np.ndarray, signals: list[np.ndarray]) -> tuple[np.ndarray, list[np.ndarray], list[str]]:
    """Times and signals, and a note, without rows that have no values and times out of order, such as remarks.

    One in the place of a sample gets the time between its neighbours.
    """
    steps = np.diff(seconds)
    if not (steps < 0).any():
        return seconds, signals, []
    empty = np.logical_and.reduce([np.isnan(x) for x in signals])
    rows, full = np.flatnonzero(empty), np.flatnonzero(~empty)
    after = np.searchsorted(full, rows)
    inside = (after > 0) & (after < len(full))
    rows, after = rows[inside], after[inside]
    before, later = full[after - 1], full[np.minimum(after, len(full) - 1)]
    stray = (seconds[rows] < seconds[before]) | (seconds[rows] > seconds[later])
    rows, before, later = rows[stray], before[stray], later[stray]
    if not len(rows):
        return seconds, signals, []
    share = (rows - before) / (later - before)
    wait = seconds[later] - seconds[before]
    replaces = wait > (later - before - 0.5) * np.median(steps)
    seconds = seconds.copy()
    seconds[rows] = seconds[before] + share * wait
    note = f"{len(rows)} rows without values have times out of order: they are taken for missing samples or left out"
    rows = rows[~replaces]
    return np.delete(seconds, rows), [np.delete(x, rows) for x in signals], [note]


class _Growing:
    """An array that grows at its end. Large ones grow in place, so that a long signal is in memory once."""

    def __init__(self) -> None:
        self._values, self._used = np.empty(0), 0

    def add(self, x: np.ndarray) -> None:
        if not self._used:
            self._values, self._used = np.array(x), len(x)
            return
        stop = self._used + len(x)
        if stop > len(self._values):
            self._values.resize(max(stop, self._used + min(self._used // 2, _GROWTH)), refcheck=False)
        self._values[self._used : stop] = x
        self._used = stop

    def whole(self) -> np.ndarray:
        """The array, [n] float64; it can grow no more."""
        self._values.resize(self._used, refcheck=False)
        return self._values


def _column(names: Sequence[str], wanted: str) -> int:
    """The number of the column of this name or number."""
    for found in (
        [i for i, name in enumerate(names) if name == wanted],
        [
            i
            for i, name in enumerate(names)
            if name.lower() == wanted.lower() or name.lower().startswith(f"{wanted.lower()} [")
        ],
        [int(wanted)] if wanted.isdecimal() and int(wanted) < len(names) else [],
    ):
        if found:
            return found[0]
    listed = ", ".join(map(repr, names))
    raise ValueError(f"expected a column {wanted!r} for the times, found {listed}")


def _has_usual_name(names: Sequence[str], kind: str) -> bool:
    try:
        return bool(candidates(names, kind))
    except ValueError:
        return False
