"""Reads a page back with the standard library: its texts, tables and pictures, and whether it is well formed."""

from __future__ import annotations

from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path

VOID = {"meta", "link", "img", "rect", "br"}


@dataclass
class Cell:
    """A cell: its text, its classes, and the number by which it is sorted."""

    kind: str
    sort: float | None
    text: str = ""


@dataclass
class Row:
    """A row, and its class."""

    tone: str
    cells: list[Cell] = field(default_factory=list)


@dataclass
class Table:
    """A table, and the heading above it."""

    heading: str
    header: list[str] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    foot: list[Row] = field(default_factory=list)


@dataclass
class Image:
    """A picture."""

    source: str
    alt: str


class Page(HTMLParser):
    """A page that was read.

    Attributes:
        tags: the names of all elements, in order.
        attributes: (element, attribute, value) of all attributes.
        text: everything that a reader sees.
    """

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.tables: list[Table] = []
        self.images: list[Image] = []
        self.headings: list[str] = []
        self.text = ""
        self.open: list[str] = []
        self.inside = ""  # thead, tbody or tfoot

    def table_below(self, heading: str) -> Table:
        """The first table below a heading."""
        return next(table for table in self.tables if table.heading == heading)

    def handle_starttag(self, tag, attrs) -> None:
        given = {name: value or "" for name, value in attrs}
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in given.items()]
        if tag not in VOID:
            self.open.append(tag)
        if tag in ("h1", "h2", "h3", "h4"):
            self.headings.append("")
        elif tag == "img":
            self.images.append(Image(given["src"], given["alt"]))
        elif tag == "table":
            self.tables.append(Table(self.headings[-1]))
        elif tag in ("thead", "tbody", "tfoot"):
            self.inside = tag
        elif tag == "tr" and self.inside != "thead":
            rows = self.tables[-1].rows if self.inside == "tbody" else self.tables[-1].foot
            rows.append(Row(given.get("class", "")))
        elif tag == "th":
            self.tables[-1].header.append("")
        elif tag == "td":
            rows = self.tables[-1].rows if self.inside == "tbody" else self.tables[-1].foot
            sort = float(given["data-sort"]) if "data-sort" in given else None
            rows[-1].cells.append(Cell(given.get("class", ""), sort))

    def handle_startendtag(self, tag, attrs) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag) -> None:
        assert self.open, f"</{tag}> closes nothing"
        opened = self.open.pop()
        assert opened == tag, f"</{tag}> closes <{opened}>"

    def handle_data(self, data) -> None:
        if not self.open or self.open[-1] in ("style", "script"):
            return
        self.text += data
        if "td" in self.open:
            rows = self.tables[-1].rows if self.inside == "tbody" else self.tables[-1].foot
            rows[-1].cells[-1].text += data
        elif "th" in self.open:
            self.tables[-1].header[-1] += data
        elif self.open[-1] in ("h1", "h2", "h3", "h4"):
            self.headings[-1] += data


def read(file: Path) -> Page:
    """Read a page; AssertionError if its elements are not nested rightly."""
    return parse(file.read_text(encoding="utf-8"))


def parse(text: str) -> Page:
    """The same of a text."""
    page = Page()
    page.feed(text)
    page.close()
    assert not page.open, f"not closed: {page.open}"
    return page
