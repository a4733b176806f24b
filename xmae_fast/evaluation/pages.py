"""The files of a report: report.md, and report.html, which holds its pictures."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from xmae_fast._files import atomic_path, check_replaceable, is_json_of
from xmae_fast._optional import need
from xmae_fast.reports import Page, Table, as_html, as_markdown, table_of_reasons

RESULTS, MARKDOWN, HTML = "results.json", "report.md", "report.html"


def need_packages() -> None:
    """Raise ImportError unless what reports need is installed; called before the work whose report it is."""
    for module in ("matplotlib", "markdown_it", "jinja2"):
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


def write_pages(folder: Path, page: Page) -> None:
    """Write report.md and report.html.

    Args:
        folder: where they go, and where the pictures are.
        page: the report.

    Raises:
        ImportError: markdown-it-py or Jinja2 is missing.
    """
    for name, text in ((MARKDOWN, as_markdown(page)), (HTML, as_html(page, folder))):
        with atomic_path(folder / name) as temporary:
            temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def interval_text(value: Sequence[float], digits: int = 4) -> str:
    """A value and its interval: "0.6100 [0.5200, 0.6800]"."""
    return "{0:.{3}f} [{1:.{3}f}, {2:.{3}f}]".format(*value, digits)


def table_of_left_out(counts: Mapping[str, int], total: int, what: str = "segments") -> list[Table]:
    """What was left out, by reason; an empty list if nothing was.

    Args:
        counts: how many, by reason.
        total: how many there were, those too.
        what: they are.
    """
    found = {reason: count for reason, count in counts.items() if count}
    return [table_of_reasons(found, total, what)] if found else []
