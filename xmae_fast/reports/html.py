"""A report as one HTML page: style, script and pictures are inside, and nothing is fetched.

The page runs one script, which sorts tables, and its Content-Security-Policy names the hash of that script and of the
style: whatever else came into a page would not run. All texts are escaped by Jinja2, which torch brings along.
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from xmae_fast._files import atomic_path, check_replaceable
from xmae_fast._optional import need
from xmae_fast._version import __version__
from xmae_fast.reports.blocks import (
    Block,
    Bullets,
    Cell,
    Heading,
    Marked,
    Page,
    Picture,
    Table,
    cells_of,
    sorted_by,
    tone_of,
)
from xmae_fast.reports.markdown import FACTS, HOW, LEFT_OUT, NOTHING, SHORT

_LONG = 40  # characters
_GENERATOR = '<meta name="generator" content="xmae_fast '
_KINDS = {".png": "image/png", ".svg": "image/svg+xml"}
_RULES = ("list", "emphasis", "backticks", "escape")  # of markdown-it, for `Marked`


def check_page(file: str | os.PathLike[str], inside: str | os.PathLike[str] | None = None) -> None:
    """Check that a page can be written, before the work that it is about.

    Args:
        file: the page.
        inside: a folder that the work makes, in which the page may lie.

    Raises:
        FileNotFoundError: the folder of the page does not exist, and is not `inside`.
        FileExistsError: something is there that is no page of this library.
    """
    path = Path(file)
    if path.is_dir():
        raise FileExistsError(f"html: expected a file, got the folder {path}")
    check_replaceable(path, is_page, "a page of xmae-fast", "html")
    made = inside is not None and os.path.realpath(path.parent) == os.path.realpath(inside)
    if not made and not path.parent.is_dir():
        raise FileNotFoundError(f"html: expected a file in an existing folder, got {path}")


def is_page(path: str | os.PathLike[str]) -> bool:
    """Whether a file is a page that `write_page` has written."""
    with open(path, "rb") as file:
        return _GENERATOR.encode() in file.read(4096)


def write_page(file: str | os.PathLike[str], page: Page) -> None:
    """Write a page to a file, which appears whole or not at all.

    Raises:
        FileExistsError: something is there that is no page of this library.
    """
    check_page(file)
    text = as_html(page, Path(file).parent)
    with atomic_path(file) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def as_html(page: Page, folder: Path | None = None) -> str:
    """A page as HTML.

    Args:
        page: the report.
        folder: where pictures without content are.

    Raises:
        ImportError: the page has a `Marked`, and markdown-it-py is missing.
    """
    style, script = _text("style.css"), _text("sort.js")
    sections = _sections(page)
    return _template().render(
        page=page, facts_title=FACTS, version=__version__, style=style, script=script,
        sections=[(_anchor(i, title), title, [_block(b, folder) for b in blocks])
                  for i, (title, blocks) in enumerate(sections)],
        about=_block(page.about, folder), facts={name: value for name, value in page.facts.items() if value},
        policy="default-src 'none'; img-src data:; base-uri 'none'; form-action 'none'; "
        f"style-src {_hash(style)}; script-src {_hash(script)}",
    )  # fmt: skip


def _sections(page: Page) -> list[tuple[str, list[Block]]]:
    """All sections by title; blocks before the first heading of level 2 belong to the summary."""
    found: list[tuple[str, list[Block]]] = [(SHORT, list(page.summary))]
    for block in page.blocks:
        if isinstance(block, Heading) and block.level == 2:
            found.append((block.text, []))
        else:
            found[-1][1].append(block)
    found.append((LEFT_OUT, list(page.left_out) or [NOTHING]))
    return found + ([(HOW, list(page.how))] if page.how else [])


def _block(block: Block, folder: Path | None) -> dict[str, Any]:
    """A block as the template takes it."""
    if isinstance(block, Heading):
        return {"kind": "heading", "level": min(max(block.level, 3), 6), "text": block.text}
    if isinstance(block, Table):
        return {"kind": "table", **_table(block)}
    if isinstance(block, Picture):
        return {"kind": "picture", "caption": block.caption, "source": _source(block, folder)}
    if isinstance(block, Bullets):
        return {"kind": "bullets", "items": block.items}
    if isinstance(block, Marked):
        return {"kind": "marked", "html": _marked(block)}
    return {"kind": "text", "text": block}


def _table(table: Table) -> dict[str, Any]:
    rows = [cells_of(row) for row in table.rows]
    columns = [sorted_by([row[c] for row in rows]) for c in range(len(table.header))]

    kinds = ["number" if c is not None else _width(rows, i) for i, c in enumerate(columns)]

    def line(row, keys: Sequence[float | None]) -> dict[str, Any]:
        cells = zip(cells_of(row), keys, kinds, strict=True)
        shown = [{**cell._asdict(), "sort": key, "kind": f"{kind} {cell.tone}".strip()} for cell, key, kind in cells]
        return {"tone": tone_of(row), "cells": shown}

    nothing = [None] * len(table.header)
    keys = [[None if column is None else column[i] for column in columns] for i in range(len(rows))]
    return {
        "header": list(zip(table.header, kinds, strict=True)),
        "rows": [line(row, key) for row, key in zip(table.rows, keys, strict=True)],
        "foot": [line(row, nothing) for row in table.foot],
        "caption": table.caption, "more": table.more,
        "label": table.caption or f"Table: {', '.join(filter(None, table.header))}",
    }  # fmt: skip


def _width(rows: list[list[Cell]], column: int) -> str:
    """ "long" for a column with sentences, which needs more room than one with words; else ""."""
    return "long" if any(len(row[column].text) > _LONG for row in rows) else ""


def _source(picture: Picture, folder: Path | None) -> str:
    """The picture as a data URI."""
    content = picture.content if picture.content is not None else ((folder or Path()) / picture.name).read_bytes()
    return f"data:{_KINDS[Path(picture.name).suffix]};base64,{base64.b64encode(content).decode()}"


def _marked(text: str) -> str:
    """The HTML of a `Marked`; HTML, links and pictures in it are texts."""
    reader = need("markdown_it", "Reports need", "eval").MarkdownIt("zero").enable(_RULES)
    return reader.render(text)


def _anchor(number: int, title: str) -> str:
    return f"s{number}-" + re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


@cache
def _text(name: str) -> str:
    return files("xmae_fast.reports").joinpath(name).read_text(encoding="utf-8").replace("\r\n", "\n")


@cache
def _template():
    jinja2 = need("jinja2", "Reports need", "eval")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string(_text("page.html"))
