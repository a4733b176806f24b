"""Parses texts of times, column by column, into nanoseconds, dates and offsets."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from xmae_fast._optional import need

_DATE = (
    r"(?P<date>\d{4}[-/. ]\d{1,2}[-/. ]\d{1,2}|\d{1,2}[-/. ]\d{1,2}[-/. ]\d{2,4}|\d{8}"
    r"|\d{1,2}[-/. ]*[A-Za-z]{3,9}[-/., ]*\d{2,4}|[A-Za-z]{3,9}\.? \d{1,2},? \d{4}"
    r"|\d{4}[-/. ][A-Za-z]{3,9}[-/. ]\d{1,2})"
)
_CLOCK = (
    r"(?P<sign>[-+]?)(?P<h>\d+):(?P<m>\d{1,2})(?::(?P<s>\d{1,2}))?(?:[.,:](?P<f>\d+))?"
    r" *(?:(?P<ap>[AaPp])\.?[Mm]\.?)? *(?P<z>Z|z|UTC|GMT|[-+]\d{2}(?::?\d{2})?)?(?: *\[?[A-Z][A-Za-z]+/[A-Za-z_/]+\]?)?"
)
_WEEKDAY = r"(?:[A-Za-z]{3,9},? +)?"
_PATTERNS = (
    rf"^{_WEEKDAY}{_DATE}[T ,;_]+{_CLOCK}$",
    rf"^{_CLOCK}[ ,;]+{_DATE}$",
    rf"^(?:(?P<days>-?\d+) days?,? *)?{_CLOCK}$",
    r"^(?P<date>\d{8})[T_ -]?(?P<h>\d{2})(?P<m>\d{2})(?P<s>\d{2})(?:[.,]?(?P<f>\d+))?(?P<z>Z|[-+]\d{2}:?\d{2})?$",
    r"^(?:(?P<days>-?\d+) days?)$",
    rf"^{_DATE}$",
)
_NUMBER = r"^[-+]?(?:\d+[.,]?\d*|[.,]\d+)(?:[eE][-+]?\d+)?$"
_COMPACT = r"^(?:19|20)\d\d(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])(?:[01]\d|2[0-3])[0-5]\d[0-5]\d(?:[.,]?\d{0,6})$"
MISSING = np.iinfo(np.int64).min


class Parsed(NamedTuple):
    """The times of some rows.

    Args:
        nanoseconds: [n] int64 of the day, or of the whole time if there is no date; MISSING where there is none.
        dates: [n] int16 or int32, the number of each date in `TimeText.dates`; -1 is none.
        offsets: likewise in `TimeText.offsets`, in seconds east of UTC; -1 is none.
    """

    nanoseconds: np.ndarray
    dates: np.ndarray
    offsets: np.ndarray


class TimeText:
    """Parses texts of times.

    Attributes:
        dates: the texts of all dates in the order in which they came.
        offsets: all offsets from UTC in seconds, likewise.
        bracketed: whether a text was in brackets, as WFDB writes absolute times, day first.
        failed: how many texts were not understood.
        example: the row, from 1, and the text of the first of them.
    """

    def __init__(self) -> None:
        self.dates: list[str] = []
        self.offsets: list[int] = []
        self.bracketed = False
        self.failed = 0
        self.example = (0, "")
        self._rows = 0
        self._pattern = 0
        self._numbers: bool | None = None
        self._date_codes: dict[str, int] = {}
        self._offset_codes: dict[int, int] = {}

    def text(self, chunk):
        """A chunk of text, or of datetime objects, as an Arrow array without quotes, brackets and outer blanks."""
        arrow, compute = need("pyarrow", "times need", "prepare"), need("pyarrow.compute", "times need", "prepare")
        try:
            array = arrow.array(chunk, from_pandas=True)
        except (arrow.ArrowInvalid, arrow.ArrowTypeError):
            array = arrow.array([None if item is None or item != item else str(item) for item in chunk])
        if isinstance(array, arrow.ChunkedArray):
            array = array.combine_chunks()
        if arrow.types.is_dictionary(array.type):
            array = array.dictionary_decode()
        if not arrow.types.is_string(array.type):
            array = array.cast(arrow.string())
        first = next((item.as_py() for item in array[:100] if item.is_valid), "")
        self.bracketed |= first.strip(" \t\"'").startswith("[")
        return compute.utf8_trim(array, characters=" \t\r\"'[]\u00a0\u200b")

    def joined(self, dates, clocks):
        """Chunks of dates and of times of day as one text."""
        compute = need("pyarrow.compute", "times need", "prepare")
        dates, clocks = self.text(self._plain_dates(dates)), self.text(clocks)
        clocks = compute.replace_substring_regex(clocks, r"^0 days +", "")
        if len(dates) and any(":" in (item.as_py() or "") for item in dates[:3]):
            return dates
        return compute.binary_join_element_wise(dates, clocks, " ")

    @staticmethod
    def _plain_dates(dates):
        kind = getattr(getattr(dates, "dtype", None), "kind", "O")
        if kind == "M":
            pandas = need("pandas", "times need", "prepare")
            days = pandas.Series(dates)
            unique = days.drop_duplicates()
            return days.map(dict(zip(unique, unique.dt.strftime("%Y-%m-%d"), strict=True)))
        if kind == "f":
            return np.asarray(dates).astype(np.int64).astype(str)
        return np.asarray(dates).astype(str) if kind in "iu" else dates

    def parse(self, texts) -> Parsed | np.ndarray:
        """The times of an Arrow array of texts: numbers [n], if they are numbers, or parsed times."""
        arrow, compute = need("pyarrow", "times need", "prepare"), need("pyarrow.compute", "times need", "prepare")
        texts = compute.if_else(compute.equal(texts, ""), arrow.scalar(None, arrow.string()), texts)
        if self._numbers is None:
            some = texts.drop_null()[:1000]
            numbers = len(some) and compute.all(compute.match_substring_regex(some, _NUMBER)).as_py()
            compact = numbers and compute.all(compute.match_substring_regex(some, _COMPACT)).as_py()
            self._numbers = bool(numbers and not compact)
        if self._numbers:
            return self._parse_numbers(texts, arrow, compute)
        count = len(texts)
        result = Parsed(np.full(count, MISSING), np.full(count, -1, np.int16), np.full(count, -1, np.int16))
        left = None  # the rows that are not parsed yet; None is all
        order = [self._pattern, *(k for k in range(len(_PATTERNS)) if k != self._pattern)]
        for number in order:
            part = texts if left is None else texts.take(arrow.array(left))
            found = compute.extract_regex(part, _PATTERNS[number])
            valid = compute.is_valid(found).to_numpy(zero_copy_only=False)
            if valid.any():
                if left is None:
                    self._pattern = number
                rows = np.flatnonzero(valid) if left is None else left[valid]
                self._take(found.drop_null() if not valid.all() else found, rows, result, compute, arrow)
                left = np.flatnonzero(~valid) if left is None else left[~valid]
            elif left is None:
                left = np.arange(count)
            if not len(left):
                break
        wrong = np.flatnonzero(result.nanoseconds == MISSING)  # no pattern, or minutes beyond 59
        if len(wrong):
            self._fail(texts, wrong)
        self._rows += count
        return result

    def _fail(self, texts, rows: np.ndarray) -> None:
        for row in rows.tolist():
            text = texts[row].as_py()
            if text is not None:
                if not self.failed:
                    self.example = (self._rows + row + 1, text)
                self.failed += 1

    def _parse_numbers(self, texts, arrow, compute) -> np.ndarray:
        good = compute.fill_null(compute.match_substring_regex(texts, _NUMBER), False)
        bad = np.flatnonzero(~good.to_numpy(zero_copy_only=False))
        if len(bad):
            self._fail(texts, bad)
            texts = compute.if_else(good, texts, arrow.scalar(None, arrow.string()))
        self._rows += len(texts)
        if not len(bad):
            try:
                return texts.cast(arrow.int64()).to_numpy()
            except arrow.ArrowInvalid:
                pass
        points = compute.replace_substring(texts, ",", ".")
        return points.cast(arrow.float64()).to_numpy(zero_copy_only=False)

    def _take(self, found, rows: np.ndarray, result: Parsed, compute, arrow) -> None:
        """Write the parts of times that a pattern found into `result`."""
        fields = {found.type.field(k).name: found.field(k) for k in range(found.type.num_fields)}

        def whole(name: str, empty: str = "0"):
            array = fields.get(name)
            if array is None:
                return np.zeros(len(rows), np.int64)
            array = compute.if_else(compute.equal(array, ""), empty, array)
            return array.cast(arrow.int64()).to_numpy(zero_copy_only=False)

        hours, minutes, seconds = whole("h"), whole("m"), whole("s")
        fraction = np.zeros(len(rows), np.int64)
        if "f" in fields:
            padded = compute.utf8_slice_codeunits(compute.utf8_rpad(fields["f"], 9, "0"), 0, 9)
            fraction = padded.cast(arrow.int64()).to_numpy(zero_copy_only=False)
        if "ap" in fields and compute.any(compute.not_equal(fields["ap"], "")).as_py():
            letter = compute.utf8_lower(fields["ap"])
            late = compute.equal(letter, "p").to_numpy(zero_copy_only=False)
            early = compute.equal(letter, "a").to_numpy(zero_copy_only=False)
            hours = np.where(late & (hours < 12), hours + 12, np.where(early & (hours == 12), 0, hours))
        elif "s" in fields and "date" not in fields:
            short = compute.equal(fields["s"], "").to_numpy(zero_copy_only=False)  # minutes and seconds
            if short.any():
                hours, minutes, seconds = (
                    np.where(short, 0, hours),
                    np.where(short, hours, minutes),
                    np.where(short, minutes, seconds),
                )
        wrong = (minutes > 59) | (seconds > 60)
        total = ((hours * 60 + minutes) * 60 + seconds) * 10**9 + fraction
        if "sign" in fields and compute.any(compute.equal(fields["sign"], "-")).as_py():
            total = np.where(compute.equal(fields["sign"], "-").to_numpy(zero_copy_only=False), -total, total)
        result.nanoseconds[rows] = np.where(wrong, MISSING, total + whole("days") * (86400 * 10**9))
        if "date" in fields:
            result.dates[rows] = self._coded(fields["date"], self._date_codes, self.dates, str)
        if "z" in fields and compute.any(compute.not_equal(fields["z"], "")).as_py():
            result.offsets[rows] = self._coded(fields["z"], self._offset_codes, self.offsets, _offset)

    @staticmethod
    def _coded(texts, codes: dict, values: list, convert) -> np.ndarray:
        encoded = texts.dictionary_encode()
        table = np.empty(len(encoded.dictionary), np.int64)
        for number, text in enumerate(encoded.dictionary.to_pylist()):
            value = convert(text) if text else None
            if value is None:
                table[number] = -1
                continue
            if value not in codes:
                codes[value] = len(values)
                values.append(value)
            table[number] = codes[value]
        return table[encoded.indices.to_numpy(zero_copy_only=False)]


def _offset(text: str) -> int:
    """Seconds east of UTC."""
    digits = text.strip("+-").replace(":", "")
    if not digits.isdigit():
        return 0
    seconds = int(digits[:2]) * 3600 + int(digits[2:] or 0) * 60
    return -seconds if text.startswith("-") else seconds
