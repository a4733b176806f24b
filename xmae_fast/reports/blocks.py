"""What a report consists of: headings, texts, tables and pictures."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

TONES = ("", "ours", "strong", "dim", "bad", "behind")  # how rows and cells stand out; style.css has a rule for each
_NUMBER = r"[+-]?(?:\d[\d,]*(?:\.\d+)?|\.\d+)(?:[eE][+-]?\d+)?"
# A number, perhaps with a unit or an interval after it, such as "1,204", "31.0% [25.0%, 37.0%]", "0.84x" or "12 %".
_SORTED_BY = re.compile(rf"({_NUMBER})(?: ?(?:%|x|s|ms|min|h|Hz|MB))?(?: \[[^\]]*\])?(?: \*)?")
_EMPTY = ("", "-", "none", "unknown", "not known", "exact", "FAILED")  # they stand last when a column is sorted


class Marked(str):
    """A text in the Markdown of reports: **bold**, `code`, lists. Foreign names in it go through `plain`."""


class Heading(NamedTuple):
    """A heading of a section (level 2) or of a part of one (3 to 6)."""

    level: int
    text: str


class Cell(NamedTuple):
    """A cell of a table that is more than a text.

    Attributes:
        text: what it shows.
        sort: the number by which its column is sorted; None to take it from the text.
        tone: one of TONES.
        bar: the length of a bar behind the text, from 0 to 1; None for no bar.
    """

    text: str
    sort: float | None = None
    tone: str = ""
    bar: float | None = None


class Row(NamedTuple):
    """A row of a table that stands out by one of TONES."""

    cells: Sequence[str | Cell]
    tone: str = ""


class Table(NamedTuple):
    """A table, which readers can sort.

    Attributes:
        header: [C] names of the columns.
        rows: of [C] cells.
        caption: what the table shows.
        foot: rows that stay below the others.
        more: how many rows were left out because the table would be too long, and where they are; "" for none.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[str | Cell] | Row]
    caption: str = ""
    foot: Sequence[Sequence[str | Cell] | Row] = ()
    more: str = ""


class Bullets(NamedTuple):
    """A list of plain sentences."""

    items: Sequence[str]


class Picture(NamedTuple):
    """A picture, and what it shows.

    Attributes:
        name: of its file in the folder of the report; it ends in .png or .svg.
        caption: what it shows, for those who see it and for those who do not.
        content: of the file; None to read it there.
    """

    name: str
    caption: str
    content: bytes | None = None


Block = Heading | Table | Picture | Bullets | Marked | str  # a str is a paragraph of plain text


class Page(NamedTuple):
    """A report.

    Attributes:
        title: what it is about.
        about: one or two sentences below the title.
        facts: what was run, by name: command, version, data, date, machine.
        summary: what was found, in short.
        blocks: everything else, in sections that begin with a `Heading` of level 2.
        left_out: what was left out, and why; empty if nothing was.
        how: how it was computed.
    """

    title: str
    about: str | Marked
    facts: Mapping[str, str]
    summary: Sequence[Block]
    blocks: Sequence[Block]
    left_out: Sequence[Block]
    how: Sequence[Block] = ()


def cells_of(row: Sequence[str | Cell] | Row) -> list[Cell]:
    """The cells of a row."""
    cells = row.cells if isinstance(row, Row) else row
    return [cell if isinstance(cell, Cell) else Cell(cell) for cell in cells]


def tone_of(row: Sequence[str | Cell] | Row) -> str:
    """The tone of a row."""
    return row.tone if isinstance(row, Row) else ""


def sorted_by(column: Sequence[Cell]) -> list[float | None] | None:
    """The numbers by which a column is sorted.

    Returns:
        For each cell a number, which is the estimate where the cell has an interval too, or None if it has none; None
        for the whole column if it holds texts.
    """
    found: list[float | None] = []
    for cell in column:
        text = cell.text.strip()
        if cell.sort is not None:
            found.append(cell.sort if cell.sort == cell.sort else None)
        elif match := _SORTED_BY.fullmatch(text):
            found.append(float(match[1].replace(",", "")))
        elif text in _EMPTY or text.lower() == "nan":
            found.append(None)
        else:
            return None
    return found if any(number is not None for number in found) else None


def limited(rows: Sequence, most: int, where: str) -> tuple[Sequence, str]:
    """The first rows of a long table, and a sentence about those that it leaves out."""
    if len(rows) <= most:
        return rows, ""
    return rows[:most], f"The first {most:,} of {len(rows):,} rows; all are in {where}."


def first_few(names: Sequence[str], most: int = 3) -> str:
    """The first names of many, and how many more there are."""
    return ", ".join(names[:most]) + (f" and {len(names) - most:,} more" if len(names) > most else "")


def counts_from_0_to_1(columns: Sequence[Sequence[int]]) -> list[Row]:
    """Rows with bars of a table of how many values lie between 0 and 1, the highest values first.

    Args:
        columns: for each quantity its counts in bins of equal width, as many for each.
    """
    bins, longest = len(columns[0]), max(map(max, columns)) or 1
    return [
        Row([
            f"{i / bins:.1f} to {(i + 1) / bins:.1f}",
            *(Cell(f"{counts[i]:,}", bar=counts[i] / longest) for counts in columns),
        ])
        for i in reversed(range(bins))
    ]  # fmt: skip


def table_of_reasons(counts: Mapping[str, int], total: int, what: str, caption: str = "") -> Table:
    """What was left out, by reason.

    Args:
        counts: how many, by reason.
        total: how many there were, those too.
        what: they are.
        caption: of the table.
    """
    rows = [[reason, f"{count:,}", f"{count / total:.1%}"] for reason, count in counts.items()]
    return Table(["reason", what, "share of all"], rows, caption)
