"""Reports that people look at: one HTML page that needs no other file, and the same as Markdown.

A report is a `Page` of blocks. Texts are plain, whoever has written them: names of recordings, subjects, labels and
files are shown as they are, and nothing in them is markup. `Marked` is for sentences that this library writes itself.
"""

from xmae_fast.reports.blocks import (
    Block,
    Bullets,
    Cell,
    Heading,
    Marked,
    Page,
    Picture,
    Row,
    Table,
    counts_from_0_to_1,
    first_few,
    limited,
    table_of_reasons,
)
from xmae_fast.reports.html import as_html, check_page, is_page, write_page
from xmae_fast.reports.markdown import as_markdown, code, plain
from xmae_fast.reports.pictures import figure_picture
from xmae_fast.reports.run import run_facts, running

__all__ = [
    "Block", "Bullets", "Cell", "Heading", "Marked", "Page", "Picture", "Row", "Table", "as_html",
    "as_markdown", "check_page", "code", "counts_from_0_to_1", "figure_picture", "first_few", "is_page", "limited",
    "plain", "run_facts", "running", "table_of_reasons", "write_page",
]  # fmt: skip
