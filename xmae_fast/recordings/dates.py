"""Decides which order dates are written in, and puts dates and times of day together."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import date, datetime, timedelta

import numpy as np

from xmae_fast.recordings.timetext import MISSING, Parsed

_DAY = 86400 * 10**9
_MONTHS = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]
_FARTHEST = 20  # days that one order moves on by, at the least, where the other moves on by less than one


def moment(nanoseconds: int, zone: str = "") -> str:
    """ISO 8601 of nanoseconds since 1970 in UTC, at the offset of `zone` from UTC, such as "+01:00"."""
    if nanoseconds == MISSING:
        return ""
    if zone:
        nanoseconds += (1 if zone[0] == "+" else -1) * (int(zone[1:3]) * 3600 + int(zone[4:6]) * 60) * 10**9
    whole, rest = divmod(nanoseconds, 10**9)
    text = (datetime(1970, 1, 1) + timedelta(seconds=whole)).isoformat()
    return text + (f".{rest // 1000:06d}" if rest // 1000 else "") + zone


def moved(start: str, seconds: float) -> str:
    """ISO 8601 of the time that is `seconds` after `start`, to the microsecond; "" if that is not known.

    The first row is not the earliest one of a table whose rows are out of order.
    """
    if not start or not round(seconds * 1e6):
        return start
    return (datetime.fromisoformat(start) + timedelta(microseconds=round(seconds * 1e6))).isoformat()


def _number(year: str, month: str, day: str) -> int | None:
    """Days since 1970; None if there is no such date, or none that has a place in nanoseconds."""
    try:
        value = int(year) + (0 if len(year) > 2 else 2000 if int(year) < 70 else 1900)
        found = date(value, int(month), int(day))
    except ValueError:
        return None
    return found.toordinal() - date(1970, 1, 1).toordinal() if 1700 <= value <= 2260 else None


def readings(text: str) -> dict[str, int | None]:
    """What a date can mean, in days since 1970, by the order: "year", "day" or "month" first; None if it is no date."""
    if word := re.search(r"[A-Za-z]{3,9}", text):
        name = word.group().lower()[:3]
        month = str(_MONTHS.index(name) + 1) if name in _MONTHS else "0"
        numbers = re.findall(r"\d+", text)
        year, day = numbers if len(numbers[0]) == 4 else numbers[::-1]
        return {"year": _number(year, month, day)}
    if text.isdigit():
        return {"year": _number(text[:4], text[4:6], text[6:])}
    first, second, third = re.findall(r"\d+", text)
    if len(first) > 2:
        return {"year": _number(first, second, third)}
    orders = {"day": _number(third, second, first), "month": _number(third, first, second)}
    if len(third) == 2 and "." not in text:
        orders["year"] = _number(first, second, third)
    return orders


class Dates:
    """The dates of a column.

    Args:
        texts: each date once.
        day_first: whether the day goes before the month; None finds out.
    """

    def __init__(self, texts: Sequence[str], day_first: bool | None) -> None:
        self._texts = texts
        self._day_first = day_first

    def moments(
        self, parsed: list[Parsed], offsets: Sequence[int], label: str, notes: list[str]
    ) -> tuple[np.ndarray, str]:
        """The times of all rows in nanoseconds, since 1970 if they have dates.

        Args:
            parsed: the chunks of rows; they are taken out.
            offsets: those that their numbers stand for, in seconds.
            label: the names of the columns, for messages.
            notes: gets every guess.

        Returns:
            [n] int64, and the start by ISO 8601.

        Raises:
            ValueError: the order of day and month is ambiguous, or a date does not exist.
        """
        times = np.concatenate([part.nanoseconds for part in parsed])
        codes = np.concatenate([part.dates for part in parsed])
        zones = np.concatenate([part.offsets for part in parsed])
        parsed.clear()
        known = times != MISSING
        if not known.any():
            raise ValueError(f"time: column {label} holds no time")
        for numbers, what in ((codes, "a date"), (zones, "an offset from UTC")):
            have = numbers[known] >= 0
            if have.any() and not have.all():
                row = int(np.flatnonzero(known & (numbers < 0))[0]) + 1
                raise ValueError(f"time: some rows of column {label} have {what} and others, as row {row}, have none")
        first = int(np.flatnonzero(known)[0])
        if codes[first] < 0:
            return _unwrapped(times, known, label, notes), ""
        shifts = np.array([*offsets, 0]) * 10**9
        zone = ""
        if zones[first] >= 0:
            seconds = abs(offsets[zones[first]])
            zone = f"{'-' if offsets[zones[first]] < 0 else '+'}{seconds // 3600:02d}:{seconds // 60 % 60:02d}"
            np.subtract(times, shifts[zones], out=times, where=known)
        days = self._decide(times, codes, known, label, notes)
        falls = len(days) == 1 and self._falls_by_a_day(times, known)
        if falls:
            notes.append(f"time: the date in {label} stays after midnight; later times are taken as of the next day")
            times = _unwrapped(times, known, label, [])
        np.add(times, (days * _DAY)[codes], out=times, where=known)
        return times, moment(int(times[first]), zone)

    @staticmethod
    def _falls_by_a_day(times: np.ndarray, known: np.ndarray) -> bool:
        return bool((np.diff(times[known]) < -0.9 * _DAY).any())

    def _decide(
        self, times: np.ndarray, codes: np.ndarray, known: np.ndarray, label: str, notes: list[str]
    ) -> np.ndarray:
        """The day [dates] of each date in days since 1970."""
        found = [readings(text) for text in self._texts]
        orders = [order for order in ("year", "day", "month") if all(order in each for each in found)]
        possible = {
            order: np.array([each[order] for each in found])
            for order in orders
            if all(each[order] is not None for each in found)
        }
        asked = None if self._day_first is None else "day" if self._day_first else "month"
        if not orders:
            raise ValueError(f"time: column {label} writes dates in several ways, as {self._some()}")
        if asked in orders:
            if asked not in possible:
                wrong = next(text for text, each in zip(self._texts, found, strict=True) if each[asked] is None)
                raise ValueError(
                    f"time: column {label} holds {wrong!r}, which is no date with the {asked} first; "
                    f"{'--month-first' if asked == 'day' else '--day-first'} may be meant"
                )
            return possible[asked]
        if not possible:
            raise ValueError(f"time: column {label} holds dates that do not exist in any one order, as {self._some()}")
        if len(possible) == 1 or all((days == next(iter(possible.values()))).all() for days in possible.values()):
            return next(iter(possible.values()))
        order = self._moving_on(possible, times, codes, known)
        if order is None:
            read = " or ".join(
                (date(1970, 1, 1) + timedelta(days=int(days[0]))).isoformat() for days in possible.values()
            )
            raise ValueError(
                f"time: {self._texts[0]!r} in column {label} may be {read}; --day-first or --month-first says which"
            )
        notes.append(
            f"time: dates such as {self._texts[0]!r} are taken with the {order} first, because times then go on over "
            f"midnight"
        )
        return possible[order]

    def _some(self) -> str:
        return ", ".join(repr(text) for text in self._texts[:3])

    @staticmethod
    def _moving_on(
        possible: dict[str, np.ndarray], times: np.ndarray, codes: np.ndarray, known: np.ndarray
    ) -> str | None:
        """The only order in which times go on over midnight; None if there is none, or several."""
        if not known.all():
            times, codes = times[known], codes[known]
        at = np.flatnonzero(np.diff(codes))
        if not len(at):
            return None
        within = times[at + 1] - times[at]
        steps = {order: (days[codes[at + 1]] - days[codes[at]]) * _DAY + within for order, days in possible.items()}
        going = [order for order, step in steps.items() if step.min() >= -(10**10) and step.max() < _DAY]
        if len(going) != 1:
            return None
        others = [np.abs(step).max() for order, step in steps.items() if order != going[0]]
        return going[0] if min(others) > _FARTHEST * _DAY else None


def _unwrapped(times: np.ndarray, known: np.ndarray, label: str, notes: list[str]) -> np.ndarray:
    """Times of day [n] that go on after midnight, and minutes that go on after an hour."""
    some = times[known]
    period, what = _DAY, "midnight"
    if some.min() >= 0 and some.max() < 3600 * 10**9:
        period, what = 3600 * 10**9, "a full hour"
    elif some.min() < 0 or some.max() > _DAY:
        return times
    falls = np.diff(some) < -0.9 * period
    if not falls.any():
        return times
    notes.append(f"time: column {label} has no date and passes {what} {int(falls.sum())} times")
    out = times.copy()
    out[known] = some + np.concatenate(([0], np.cumsum(falls))) * period
    return out
