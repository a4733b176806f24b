"""Tells what the cells of a text table are: numbers, times, missing values or words."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Sequence

BLANKS = r"\s+"  # the separator of tables with one or more blanks or tabs between columns
NUMBER, TIME, MISSING, WORD = "number", "time", "missing", "word"

_NUMBERS = {
    ".": re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?"),
    ",": re.compile(r"[+-]?(\d+,?\d*|,\d+)([eE][+-]?\d+)?"),
}
_TIME = re.compile(
    r"\[?\d{1,4}[-/.:]\d{1,2}([-/.:]\d{1,4})?([ T]+\d{1,2}(:\d{1,2}){1,2})?([.,]\d+)?( ?[ap]\.?m\.?)?"
    r"( ?(z|utc|gmt|[+-]\d\d:?\d\d))?( \d{1,4}([-/.]\d{1,4}){2})?\]?",
    re.IGNORECASE,
)
_MISSING = frozenset(
    ("", "nan", "-nan", "na", "n/a", "#n/a", "<na>", "null", "none", "nil", "-", "--", "inf", "-inf", "?")
)


def kind_of(cell: str, decimal: str) -> str:
    """What a cell is: NUMBER, TIME, MISSING or WORD."""
    cell = cell.strip()
    if _NUMBERS[decimal].fullmatch(cell):
        return NUMBER
    if cell.lower() in _MISSING:
        return MISSING
    return TIME if _TIME.fullmatch(cell) else WORD


def split(line: str, separator: str, quote: str) -> list[str]:
    """The cells of a line, without quotes and the blanks around them."""
    if separator == BLANKS:
        line, separator = " ".join(line.split()), " "
    if quote in line:
        return [
            cell.strip()
            for cell in next(csv.reader([line], delimiter=separator, quotechar=quote, skipinitialspace=True))
        ]
    return [cell.strip() for cell in line.split(separator)]


def rows_of(lines: Iterable[str], separator: str, quote: str, decimal: str) -> list[tuple[list[str], list[str]]]:
    """The cells of lines, and what each of them is."""
    found = []
    for line in lines:
        cells = split(line, separator, quote)
        found.append((cells, [kind_of(cell, decimal) for cell in cells]))
    return found


def is_row_of_numbers(kinds: Sequence[str], columns: int) -> bool:
    """Whether cells of these kinds can be a row of a table with so many columns: it has a number, and few words."""
    known = sum(kind != WORD for kind in kinds)
    return len(kinds) == columns and NUMBER in kinds and 2 * known >= columns
