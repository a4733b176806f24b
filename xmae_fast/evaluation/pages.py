"""The pages of a report: blocks of text, tables and pictures, as Markdown and as one HTML file."""

from __future__ import annotations

import base64
import html
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from xmae_fast._files import atomic_path, check_replaceable, is_json_of
from xmae_fast._optional import need

RESULTS, MARKDOWN, HTML = "results.json", "report.md", "report.html"
# The Markdown that reports use. Links, HTML and entities are not read, so that names of files stay as they are.
_RULES = ("heading", "list", "table", "image", "emphasis", "backticks", "escape")
_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:64em;margin:2em auto;padding:0 1em;color:#222}"
    "img{max-width:100%}table{border-collapse:collapse;font-size:85%;display:block;overflow-x:auto}"
    "td,th{border-bottom:1px solid #ddd;padding:.3em .7em .3em 0;text-align:left;vertical-align:top}"
)


class Heading(NamedTuple):
    """A heading of level 1 to 6."""

    level: int
    text: str


class Table(NamedTuple):
    """A table of Markdown texts: header [C], rows of [C]."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]


class Picture(NamedTuple):
    """A PNG file in the folder of the report, and what it shows."""

    name: str
    caption: str


Block = Heading | Table | Picture | str  # a text is a paragraph or a list in Markdown


def need_packages() -> None:
    """Raise ImportError unless what reports need is installed; called before the work whose report it is."""
    for module in ("matplotlib", "markdown_it"):
        need(module, "Reports need", "eval")


def check_report_folder(output: str | os.PathLike, pictures: Iterable[str]) -> Path:
    """The folder of a report that is to be written.

    Args:
        output: the folder, which need not exist.
        pictures: names of the pictures that the report will have.

    Raises:
        ValueError: `output` is a file.
        FileExistsError: a file there has the name of one of a report's, and no report wrote it.
    """
    folder = Path(output)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"output: expected a folder, got the file {folder}")
    results = folder / RESULTS
    check_replaceable(results, lambda file: is_json_of(file, "about", "probes"), "the results of a report")
    for name in (MARKDOWN, HTML, *pictures):
        check_replaceable(folder / name, lambda _: results.is_file(), f"of a report (there is no {RESULTS} beside it)")
    return folder


def write_pages(folder: Path, blocks: Sequence[Block]) -> None:
    """Write report.md and report.html.

    Args:
        folder: where they go, and where the pictures are.
        blocks: the report, a heading first.

    Raises:
        ImportError: markdown-it-py is missing.
    """
    markdown = as_markdown(blocks)
    for name, text in ((MARKDOWN, markdown), (HTML, as_html(markdown, folder))):
        with atomic_path(folder / name) as temporary:
            temporary.write_text(text, encoding="utf-8")


def as_markdown(blocks: Sequence[Block]) -> str:
    """Headings, pictures, tables and paragraphs as Markdown."""
    parts = []
    for block in blocks:
        if isinstance(block, Heading):
            parts.append(f"{'#' * block.level} {block.text}")
        elif isinstance(block, Picture):
            parts.append(f"![{block.caption}]({block.name})")
        elif isinstance(block, Table):
            lines = [block.header, ["---"] * len(block.header), *block.rows]
            parts.append("\n".join("| " + " | ".join(c.replace("|", "\\|") for c in line) + " |" for line in lines))
        else:
            parts.append(block)
    return "\n\n".join(parts) + "\n"


def as_html(markdown: str, folder: Path) -> str:
    """One HTML page that needs no other file.

    Args:
        markdown: the report as `as_markdown` returns it, a heading first, which becomes the title.
        folder: where the pictures are.

    Raises:
        ImportError: markdown-it-py is missing.
    """
    reader = need("markdown_it", "Reports need", "eval").MarkdownIt("zero").enable(_RULES)
    tokens = reader.parse(markdown)
    for token in tokens:
        for child in token.children or ():
            if child.type == "image":
                content = base64.b64encode((folder / str(child.attrs["src"])).read_bytes()).decode()
                child.attrSet("src", f"data:image/png;base64,{content}")
    body = reader.renderer.render(tokens, reader.options, {})
    title = html.escape(next(token.content for token in tokens if token.type == "inline"))
    head = f'<meta charset="utf-8"><title>{title}</title><style>{_STYLE}</style>'
    return f"<!doctype html><html lang='en'><head>{head}</head><body>{body}</body></html>\n"


def interval_text(value: Sequence[float], digits: int = 4) -> str:
    """A value and its interval: "0.6100 [0.5200, 0.6800]"."""
    return "{0:.{3}f} [{1:.{3}f}, {2:.{3}f}]".format(*value, digits)
