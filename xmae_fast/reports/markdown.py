"""A report as Markdown."""

from __future__ import annotations

import re

from xmae_fast.reports.blocks import Block, Bullets, Cell, Heading, Marked, Page, Picture, Row, Table, cells_of, tone_of

LEFT_OUT, SHORT, HOW, FACTS = "Left out, and why", "In short", "How this was computed", "What was run"
NOTHING = "Nothing was left out."
# What has a meaning in a line: not `_` within a word, and brackets only where they begin a link.
_MARKUP = re.compile(r"([\\`*<]|\](?=[(\[:])|(?<![^\W_])_|_(?![^\W_])|&(?=#?\w+;))")
_BLOCK = re.compile(r"^(\d*)([#>+.)-])")  # what makes a paragraph something else, at its beginning


def plain(text: object) -> str:
    """A text of others within a `Marked`: what would be markup in it is shown as it is, and line breaks are blanks."""
    return _MARKUP.sub(r"\\\1", " ".join(str(text).split()))


def code(text: object) -> str:
    """A text of others within a `Marked` as code, which is shown as it is."""
    line = " ".join(str(text).split())
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", line)), default=0))
    blank = " " if not line or "`" in (line[0], line[-1]) else ""
    return f"{fence}{blank}{line}{blank}{fence}"


def as_markdown(page: Page) -> str:
    """A page as Markdown, whose pictures are files beside it."""
    blocks: list[Block] = [
        page.about, Heading(2, SHORT), *page.summary, *page.blocks,
        Heading(2, LEFT_OUT), *(page.left_out or [NOTHING]),
        *([Heading(2, HOW), *page.how] if page.how else []),
    ]  # fmt: skip
    if page.facts:
        blocks += [Heading(2, FACTS), Marked("\n".join(f"- {k}: {plain(v)}" for k, v in page.facts.items() if v))]
    return "\n\n".join([f"# {plain(page.title)}", *map(block_as_markdown, blocks)]) + "\n"


def block_as_markdown(block: Block) -> str:
    """One block as Markdown."""
    if isinstance(block, Heading):
        return f"{'#' * block.level} {plain(block.text)}"
    if isinstance(block, Picture):
        return f"![{plain(block.caption)}]({block.name})"
    if isinstance(block, Table):
        return _table(block)
    if isinstance(block, Bullets):
        return "\n".join(f"- {plain(item)}" for item in block.items)
    return str(block) if isinstance(block, Marked) else _BLOCK.sub(r"\1\\\2", plain(block))


def _table(table: Table) -> str:
    lines = [_line(table.header), _line(["---"] * len(table.header))]
    lines += [_line(row) for row in (*table.rows, *table.foot)]
    before = [plain(table.caption)] if table.caption else []
    return "\n\n".join([*before, "\n".join(lines), *([plain(table.more)] if table.more else [])])


def _line(row) -> str:
    bold = tone_of(row) in ("ours", "strong", "bad") if isinstance(row, Row) else False
    return "| " + " | ".join(_cell(cell, bold) for cell in cells_of(row)) + " |"


def _cell(cell: Cell, bold: bool) -> str:
    text = plain(cell.text).replace("|", "\\|")
    return f"**{text}**" if text and (bold or cell.tone in ("ours", "strong", "bad")) else text
