"""Finds out how a text table is laid out: separator, decimal mark, names, units, and where its numbers begin."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from xmae_fast.recordings.formats.table_cells import (
    BLANKS,
    MISSING,
    NUMBER,
    TIME,
    WORD,
    is_row_of_numbers,
    kind_of,
    rows_of,
    split,
)

COMMENT = re.compile(r"[ \t]*(#|%|//|[-=+|: \t]{3,}$)")  # the last is a ruler under names
_SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars", BLANKS: "blanks"}
_TOLD = re.compile(r'"?sep=(?P<mark>.|\\t)"?\s*')  # a first line that spreadsheets take for the separator
_UNITS = re.compile(
    r"([munpkµμ]?(v|s|a|g|hz)|sec|secs|seconds?|msecs?|milliseconds?|microseconds?|nanoseconds?|min|[mµμ]?volts?|"
    r"nu|a\.?u\.?|adu|raw|cal|%|bpm|mmhg|beats/min|counts?|lsb|ohms?|k?ω|kohms?|u?siemens|µs|°?c|deg(/s)?|"
    r"m/\(?s\^?2\)?|m/s/s|no ?units|none|unitless|"
    r"dimensionless|[nd]\.?[au]\.?|yyyy.*|dd.*|hh.*|mm:ss.*|)",
    re.IGNORECASE,
)
_BULK = 100  # last lines of the head, which tell the separator and the kinds of columns
_TOP = 40  # first lines, in which rows of numbers usually begin


class TextLayout(NamedTuple):
    """How a text table is laid out.

    Args:
        encoding: of the file.
        separator: between columns; BLANKS stands for any number of blanks and tabs.
        decimal: the decimal mark, "." or ",".
        quote: the character that quotes cells.
        skip: lines before the first row of numbers.
        names: of the columns; their numbers where the file has no names.
        units: of the columns, "" where there is none.
        kinds: what most cells of a column are: NUMBER, TIME, MISSING or WORD.
        named: whether the file has names of columns.
        rows: cells of the first rows of numbers.
        notes: what a user should know of what was found out.
    """

    encoding: str
    separator: str
    decimal: str
    quote: str
    skip: int
    names: list[str]
    units: list[str]
    kinds: list[str]
    named: bool
    rows: list[list[str]]
    notes: list[str]


def layout_of(lines: list[str], encoding: str, decimal: str | None, skip: int | None, plain: str = ",") -> TextLayout:
    """Find out about a table from its first lines.

    Args:
        lines: the first lines, without line ends.
        encoding: of the file.
        decimal: the decimal mark, if it is known.
        skip: lines before the names or numbers, if it is known.
        plain: the separator that the file's suffix tells; another one is told in a note.

    Raises:
        ValueError: these are no lines of a table of numbers.
    """
    first = skip or 0
    told = _TOLD.fullmatch(lines[first].lstrip("\ufeff")) if first < len(lines) else None
    first += told is not None
    numbers = [i for i in range(first, len(lines)) if lines[i].strip() and not COMMENT.match(lines[i])]
    if not numbers:
        raise ValueError("expected a table of numbers, found " + ("no more lines" if skip else "an empty file"))
    quote = _quote([lines[i] for i in numbers[:_BULK]])
    bulk = [lines[i] for i in numbers[-_BULK:]]
    marks = list(_SEPARATORS)
    if told:
        marks = [told["mark"].replace("\\t", "\t")]
    separator, decimal, columns = _separator(bulk, marks, quote, decimal, lines[numbers[0]])
    sample = [kinds for _, kinds in rows_of(bulk, separator, quote, decimal)]
    kinds = _kinds([row for row in sample if is_row_of_numbers(row, columns)], columns)
    for most in (_TOP, len(numbers)):
        rows = rows_of((lines[i] for i in numbers[:most]), separator, quote, decimal)
        begin = _begin([row for _, row in rows], kinds)
        if begin is not None:
            break
    else:
        raise ValueError(f"expected rows of numbers, found {lines[numbers[0]].strip()[:80]!r}")
    if begin == 0 and columns > 1 and _counts_up(rows[0][0]):
        begin = 1  # pandas gives columns without names these numbers
    above = [cells for cells, _ in rows[:begin]]
    names, units, at = _names(above, kinds, separator)
    if names is None:  # NumPy writes names into a comment
        until = numbers[begin]
        comments = [lines[i] for i in range(first, until) if COMMENT.match(lines[i])]
        cells = split(COMMENT.sub("", comments[-1], count=1), separator, quote) if comments else []
        names = cells if len(cells) == columns and columns > 1 else None
        halves = columns > 3 and any(2 * len(cells) == columns for cells in above[-2:])
        if separator == "," and halves and all(cell.isdecimal() for row, _ in rows[begin:] for cell in row[1::2]):
            raise ValueError(
                f"expected as many names as columns, found {columns // 2} names above {columns} columns: commas cannot"
                " be both between columns and decimal marks"
            )
    named = names is not None
    names = [str(i) for i in range(columns)] if names is None else names
    line = numbers[at] + 1 if at is not None else None
    notes = _notes(
        separator if columns > 1 else plain, decimal, plain, line, bool(units), None if named else numbers[begin] + 1
    )
    while len(names) > 1 and kinds[-1] == MISSING and not (named and names[-1]):  # separators at the ends of lines
        names, kinds, units = names[:-1], kinds[:-1], units[: len(names) - 1]
    cells = [split(lines[i], separator, quote) for i in numbers[begin : begin + _TOP]]
    units = units or [""] * len(names)
    return TextLayout(encoding, separator, decimal, quote, numbers[begin], names, units, kinds, named, cells, notes)


def _quote(lines: Sequence[str]) -> str:
    """The character that quotes cells."""
    single = sum(line.lstrip().startswith("'") for line in lines)
    return "'" if single and not any('"' in line for line in lines) else '"'


def _separator(bulk: list[str], marks: list[str], quote: str, decimal: str | None, first: str) -> tuple[str, str, int]:
    """The separator, the decimal mark and the number of columns with which most lines are rows of numbers."""
    best, found = (0.0, 0.0), (marks[0], decimal or ".", 0)
    for separator in marks:
        if not any(re.search(BLANKS, line.strip()) if separator == BLANKS else separator in line for line in bulk):
            continue
        for mark in (decimal,) if decimal else (".", ","):
            if mark == separator and not any(quote in line for line in bulk):
                continue
            score, columns = _score(bulk, separator, mark, quote)
            if score > best:
                best, found = score, (separator, mark, columns)
    separator, mark, columns = found
    pair = separator == "," and columns == 2 and decimal != "."
    if columns < 2 or (pair and _halves_of_numbers(bulk, first)):  # one column
        for alone in (decimal,) if decimal else (".", ","):
            score, columns = _score(bulk, "\x00", alone, quote)
            if score > best or (pair and alone == "," and score >= best):
                best, found = score, (";" if alone == "," else ",", alone, columns)
    if not found[2]:
        raise ValueError(f"expected a table of numbers, found {first.strip()[:80]!r}")
    return found


def _score(lines: list[str], separator: str, decimal: str, quote: str) -> tuple[tuple[float, float], int]:
    """How well lines are rows of numbers with this separator and decimal mark, and how many columns they have."""
    rows = [kinds for _, kinds in rows_of(lines, separator, quote, decimal)]
    good = [kinds for kinds in rows if is_row_of_numbers(kinds, len(kinds))]
    if not good:
        return (0.0, 0.0), 0
    columns = Counter(map(len, good)).most_common(1)[0][0]
    good = [kinds for kinds in good if len(kinds) == columns]
    known = sum(kind != WORD for kinds in good for kind in kinds)
    return (round(len(good) / len(rows), 1), known / (columns * len(good))), columns


def _halves_of_numbers(lines: list[str], first: str) -> bool:
    """Whether pairs of whole numbers with a comma between them are numbers with a decimal comma."""
    pairs = [line.strip().split(",") for line in lines if re.fullmatch(r"\s*[+-]?\d+,\d+\s*", line)]
    named = re.search("[a-z]", first, re.IGNORECASE) is not None
    return bool(pairs) and (any(re.match(r"0\d", right) for _, right in pairs) or (named and "," not in first))


def _kinds(rows: list[list[str]], columns: int) -> list[str]:
    """What most cells of each column are; MISSING if all are missing."""
    counts = [Counter(row[i] for row in rows if row[i] != MISSING) for i in range(columns)]
    return [count.most_common(1)[0][0] if count else MISSING for count in counts]


def _begin(rows: list[list[str]], kinds: list[str]) -> int | None:
    """The first row of numbers: it has no words where most rows have none, and most rows after it have few."""

    def fits(row: list[str]) -> bool:
        pairs = list(zip(row, kinds, strict=False))
        wrong = any(cell == WORD and kind in (NUMBER, TIME) for cell, kind in pairs)
        return len(row) >= len(kinds) and not wrong and any(cell in (NUMBER, TIME) for cell, _ in pairs)

    for i in range(len(rows)):
        after = [row for row in rows[i + 1 : i + 5] if 2 * sum(cell != WORD for cell in row) >= len(kinds)]
        if fits(rows[i]) and 2 * len(after) >= len(rows[i + 1 : i + 5]):
            return i
    return None


def _counts_up(cells: list[str]) -> bool:
    """Whether the cells are 0, 1, 2, and so on, after an empty one or not."""
    cells = cells[1:] if cells and not cells[0] else cells
    return len(cells) > 1 and cells == [str(i) for i in range(len(cells))]


def _names(above: list[list[str]], kinds: list[str], separator: str) -> tuple[list[str] | None, list[str], int | None]:
    """The names and units in the rows above the numbers, and the row of the names; None if there are no names."""
    fitting = {at: _as_many(above[at], kinds, separator) for at in range(len(above))[-2:]}
    last, higher = fitting.get(len(above) - 1), fitting.get(len(above) - 2)
    if last is None or not any(last) or not _may_be_names(last):
        return None, [], None
    if higher is not None and any(higher) and all(map(_UNITS.fullmatch, last)):
        return higher, last, len(above) - 2
    return last, [], len(above) - 1


def _may_be_names(cells: list[str]) -> bool:
    """Whether cells can be names, and are no line such as "Rate: 50 Hz" above a table without names."""
    numbers = [cell for cell in cells if kind_of(cell, ".") == NUMBER]
    counts = [str(int(numbers[0]) + i) for i in range(len(numbers))] if numbers and numbers[0].isdecimal() else []
    return numbers == counts and not cells[0].endswith(":")


def _as_many(cells: list[str], kinds: list[str], separator: str) -> list[str] | None:
    """A row above the numbers with as many cells as there are columns; None if it has others."""
    if separator == BLANKS and len(cells) > len(kinds):  # "time [s]" is one name
        joined: list[str] = []
        for cell in cells:
            if joined and cell.startswith(("[", "(")):
                joined[-1] += f" {cell}"
            else:
                joined.append(cell)
        cells = joined
    while len(cells) > len(kinds) and not cells[-1]:
        cells = cells[:-1]
    if len(cells) == len(kinds) - 1:
        if kinds[-1] == MISSING:
            return [*cells, ""]
        if len(kinds) > 2:  # the numbers of rows have no name, or the name stands over a date and a time
            return ["date" if kinds[0] == TIME else "", *cells]
    return cells if len(cells) == len(kinds) else None


def _notes(separator: str, decimal: str, plain: str, line: int | None, units: bool, unnamed: int | None) -> list[str]:
    """A sentence on what is not plain in a table; `unnamed` is its first line if it has no names."""
    found = []
    if separator != plain:
        found.append(f"{_SEPARATORS.get(separator, repr(separator))} between columns")
    if decimal == ",":
        found.append("a decimal comma")
    if line not in (None, 1):
        found.append(f"names in line {line}")
    if units:
        found.append("units under the names")
    if unnamed:
        found.append(f"no names of columns and numbers from line {unnamed} on")
    return [f"the table is read with {', '.join(found)}"] if found else []
