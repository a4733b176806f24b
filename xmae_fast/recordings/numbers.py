"""Finds out what numbers of a column of times mean: seconds or another unit, Unix time, dates or counted samples."""

from __future__ import annotations

import numpy as np

from xmae_fast.recordings.dates import moment
from xmae_fast.recordings.timetext import MISSING

UNITS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9, "min": 60.0, "h": 3600.0}  # in seconds
_NANOSECONDS = {"s": 10**9, "ms": 10**6, "us": 1000, "ns": 1}
_SOME = 1 << 20  # rows that the kind of a column shows in
_GUESSED = ("s", "ms", "us", "ns", "min")
_FAST = 1020.0  # Hz; faster ones may be slow ones in minutes
_PLAUSIBLE = (16.0, 5000.0)  # Hz
_EPOCH = (631_152_000.0, 4_102_444_800.0)  # seconds of Unix time: from 1990 to 2100


def seconds_of_numbers(
    values: np.ndarray,
    label: str,
    unit: str,
    counter: bool,
    dated: bool,
    fs: float | None,
    day_first: bool | None,
    notes: list[str],
) -> tuple[np.ndarray, str]:
    """Numbers as seconds.

    Args:
        values: [n], int64 or float64.
        label: the name of the column, for messages.
        unit: what the name states, "" if nothing.
        counter: whether the name is one of counted samples.
        dated: whether large numbers may be Unix time.
        fs: the rate in Hz, which counted samples need.
        notes: gets every guess.

    Returns:
        Seconds [n] from the first number on, and the start by ISO 8601, "" if it is not known.

    Raises:
        ValueError: no unit gives a plausible rate, or samples are counted and their rate is not known.
    """
    known = values if values.dtype.kind == "i" else values[~np.isnan(values)]
    if not len(known):
        raise ValueError(f"time: column {label} holds no number")
    compact = _compact(values, known) if not unit else None
    if compact is not None:
        notes.append(f"time: numbers in {label} are taken as dates and times such as {int(known[0])}")
        missing = compact == MISSING
        seconds = (compact - compact[~missing][0]) / 1e9
        seconds[missing] = np.nan
        return seconds, moment(int(compact[~missing][0]))
    relative = (values - known[0]).astype(np.float64)
    if not unit and (counter or _counts(known)):
        return _counted(relative, label, fs, notes), ""
    middle = float(np.median(known[:: max(1, len(known) // 10_000)]))
    epoch = next((u for u in _NANOSECONDS if _EPOCH[0] <= middle * UNITS[u] < _EPOCH[1]), None)
    rate = _rate(relative[~np.isnan(relative)])  # samples per unit
    if epoch is not None and dated and unit in ("", epoch) and (unit or _plausible(rate / UNITS[epoch])):
        if epoch != "s" or not unit:
            notes.append(f"time: numbers in {label} are taken as Unix time in {epoch}")
        first = known[0]
        exact = (
            int(first) * _NANOSECONDS[epoch] if known.dtype.kind == "i" else round(first * 1e6 * UNITS[epoch]) * 1000
        )
        return relative * UNITS[epoch], moment(exact, "+00:00")
    if unit:
        hertz = rate / UNITS[unit]
        if not _plausible(hertz):
            notes.append(f"time: column {label} names {unit}, which gives {hertz:g} samples per second")
        return relative * UNITS[unit], ""
    fitting = [u for u in _GUESSED if _plausible(rate / UNITS[u])]
    if "s" in fitting or not np.isfinite(rate):
        if rate > _FAST:
            notes.append(f"time: numbers in {label} are taken as s, which gives {rate:.4g} samples per second")
        return relative, ""
    if not fitting:
        rates = ", ".join(f"{rate / UNITS[u]:g} Hz in {u}" for u in _GUESSED)
        raise ValueError(
            f"time: no unit of the numbers in column {label} gives a rate of {_PLAUSIBLE[0]:g} to {_PLAUSIBLE[1]:g} Hz "
            f"({rates}); --time NAME chooses another column, --time none takes the rows as even samples"
        )
    unit = fitting[0]
    notes.append(f"time: numbers in {label} are taken as {unit}, which gives about {rate / UNITS[unit]:.4g} Hz")
    return relative * UNITS[unit], ""


def _plausible(rate: float) -> bool:
    return bool(_PLAUSIBLE[0] * 0.99 <= rate <= _PLAUSIBLE[1] * 1.01)


def _rate(relative: np.ndarray) -> float:
    """Rows for each unit of the column, robust to jitter, gaps and rows that share a time; NaN if it is not known."""
    rows = len(relative)
    new = np.flatnonzero(np.diff(relative[:_SOME]))
    if not len(new):
        return np.nan
    size = int(min(max(64 * np.median(np.diff(new)) if len(new) > 1 else 1, 64), max(1, rows // 4)))
    every = max(1, rows // _SOME)
    spans = relative[size:][::every] - relative[:-size][::every]
    spans = spans[spans > 0]
    return float(size / np.median(spans)) if len(spans) else np.nan


def _counts(known: np.ndarray) -> bool:
    """Whether numbers are whole and most of them are one more than the one before."""
    known = known[:_SOME]
    if len(known) < 3 or (known.dtype.kind == "f" and not (known == np.floor(known)).all()):
        return False
    return float(np.mean(np.diff(known) == 1)) > 0.5


def _counted(relative: np.ndarray, label: str, fs: float | None, notes: list[str]) -> np.ndarray:
    if fs is None:
        raise ValueError(f"time: column {label} counts samples and does not tell their rate; --fs HZ says it")
    steps = np.diff(relative)
    low = np.flatnonzero(steps < 0)
    if len(low):
        period = float(relative[low].max() - relative[low + 1].min()) + 1
        tall = steps[low] < -0.5 * period
        if tall.all() and period in {2.0**k for k in range(3, 33)} | {10.0**k for k in range(2, 9)}:
            relative = relative + np.concatenate(([0], np.cumsum(steps < 0))) * period
            notes.append(f"time: the counter in {label} starts again {len(low)} times after {period:g} samples")
    notes.append(f"time: column {label} counts samples; their rate is {fs:g} Hz")
    return relative / fs


def _compact(values: np.ndarray, known: np.ndarray) -> np.ndarray | None:
    """Numbers such as 20240205101112123 as nanoseconds since 1970, or None if they are no dates."""
    first = float(known[0])
    digits = len(str(int(first))) if np.isfinite(first) and first > 0 else 0
    if digits < 14:
        return None
    if digits > 14 and known.dtype.kind != "i":
        return None
    scale = 10 ** (digits - 14)
    if known.dtype.kind == "i":
        whole, rest = np.divmod(values, scale)
        nanoseconds = rest * 10**9 // scale
        missing = np.zeros(len(values), bool)
    else:
        missing = np.isnan(values)
        whole = np.floor(np.where(missing, known[0], values)).astype(np.int64)
        nanoseconds = np.round((np.where(missing, known[0], values) - whole) * 1e3).astype(np.int64) * 10**6
    days, clock = np.divmod(whole, 10**6)
    table, codes = np.unique(days, return_inverse=True)
    hours, minutes, seconds = clock // 10_000, clock // 100 % 100, clock % 100
    if len(table) > 100_000 or hours.max() > 23 or minutes.max() > 59 or seconds.max() > 60:
        return None
    numbers = []
    for day in table.tolist():
        year, month, number = day // 10_000, day // 100 % 100, day % 100
        try:
            moment_ = np.datetime64(f"{year:04d}-{month:02d}-{number:02d}", "D")
        except ValueError:
            return None
        if not 1900 <= year <= 2200:
            return None
        numbers.append(int(moment_.astype(np.int64)))
    total = (np.array(numbers)[codes] * 86400 + (hours * 60 + minutes) * 60 + seconds) * 10**9 + nanoseconds
    total[missing] = MISSING
    return total
