"""Reads the date and the time at which an EDF file begins, as devices write them."""

from __future__ import annotations

import re
from datetime import datetime

_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")


def start_of(date: str, time: str, recording: str, notes: list[str]) -> str:
    """When a recording begins.

    Args:
        date: dd.mm.yy by the standard; other marks, years of four digits and the year in front are understood.
        time: hh.mm.ss by the standard.
        recording: the field that in EDF+ says the date again, with four digits of the year: "Startdate 02-MAR-2024".
        notes: get a sentence if the date or the time is not known or was read in an unusual way.

    Returns:
        Date and time by ISO 8601; "" if one of them is not known.
    """
    again, day = _date_again(recording), _date(date)
    if again is not None and (day is None or (day[0] % 100, *day[1:]) == (again[0] % 100, *again[1:])):
        if day is None:
            notes.append(f"the date of the start, {date!r}, cannot be read: that of the recording field is taken")
        day = again
    clock = _clock(time)
    if day is None or clock is None:
        what = "date" if day is None else "time"
        notes.append(f"the {what} of the start, {(date if day is None else time)!r}, cannot be read")
        return ""
    return datetime(*day, *clock).isoformat()


def _date(text: str) -> tuple[int, int, int] | None:
    """Year, month and day of dd.mm.yy; years from 85 on are of the 20th century, as the standard says."""
    parts = re.fullmatch(r"(\d{1,4})\D+(\d{1,2}|[A-Za-z]{3})\D+?(\d{1,4})", text) or re.fullmatch(
        r"(\d\d)(\d\d)(\d{2}|\d{4})", text
    )
    if parts is None:
        return None
    first, month, last = parts.groups()
    number = _MONTHS.index(month.lower()) + 1 if month.lower() in _MONTHS else int(month) if month.isdigit() else 0
    day, year = (last, first) if len(first) == 4 else (first, last)
    if len(year) <= 2:
        year = str(int(year) + (1900 if int(year) >= 85 else 2000))
    return _checked(int(year), number, int(day))


def _date_again(recording: str) -> tuple[int, int, int] | None:
    """Year, month and day of the recording field of EDF+."""
    found = re.search(r"Startdate\s+(\d{1,2})-([A-Za-z]{3})-(\d{4})", recording, re.IGNORECASE)
    if found is None or found[2].lower() not in _MONTHS:
        return None
    return _checked(int(found[3]), _MONTHS.index(found[2].lower()) + 1, int(found[1]))


def _checked(year: int, month: int, day: int) -> tuple[int, int, int] | None:
    """The date, if there is such a day."""
    try:
        datetime(year, month, day)
    except ValueError:
        return None
    return year, month, day


def _clock(text: str) -> tuple[int, int, int] | None:
    """Hour, minute and second of hh.mm.ss with any marks."""
    parts = re.fullmatch(r"(\d{1,2})\D+(\d{1,2})\D+(\d{1,2})", text) or re.fullmatch(r"(\d\d)(\d\d)(\d\d)", text)
    if parts is None:
        return None
    hour, minute, second = map(int, parts.groups())
    return (hour, minute, second) if hour < 24 and minute < 60 and second < 60 else None
