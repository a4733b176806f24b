"""Links of README and of the pages lead somewhere, files that they name exist, and the index lists every page."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    page
    for pattern in ("*.md", "docs/**/*.md", "tests/*.md", "xmae_fast/**/*.md")
    for page in ROOT.glob(pattern)
)  # fmt: skip
CURRENT = [page for page in PAGES if page.name != "CHANGELOG.md"]  # which may name files that are gone
FENCED = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\]\(([^()\s]+)\)")
# Files and folders of the repository that stand between backticks; `<op>` and the like are placeholders.
NAMED = re.compile(r"`((?:benchmarks|csrc|docs|examples|tests|xmae_fast)/[\w./*-]*)(?:::\w+)?`")


def links_of(text: str) -> list[str]:
    """Targets of the links outside of code, those to other sites left out."""
    prose = re.sub(r"`[^`]*`", "", FENCED.sub("", text))
    return [target for target in LINK.findall(prose) if not re.match(r"[a-z]+:", target)]


def anchors_of(text: str) -> set[str]:
    """Anchors of the headings, as GitHub makes them."""
    found: set[str] = set()
    for heading in re.findall(r"^#{1,6} +(.+?)\s*$", FENCED.sub("", text), re.MULTILINE):
        shown = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).lower()
        slug = re.sub(r"[^\w\- ]", "", shown).replace(" ", "-")
        number = 1
        while (anchor := slug if number == 1 else f"{slug}-{number - 1}") in found:
            number += 1
        found.add(anchor)
    return found


def broken_links(page: Path) -> list[str]:
    """Links of the page whose file or anchor is not there."""
    broken = []
    for link in links_of(page.read_text()):
        path, _, anchor = unquote(link).partition("#")
        target = page.parent / path if path else page
        if not target.exists() or (anchor and anchor not in anchors_of(target.read_text())):
            broken.append(link)
    return broken


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
def test_links_lead_somewhere(page):
    assert broken_links(page) == []


@pytest.mark.parametrize("page", CURRENT, ids=[str(page.relative_to(ROOT)) for page in CURRENT])
def test_files_that_are_named_exist(page):
    named = set(NAMED.findall(FENCED.sub("", page.read_text())))
    assert [name for name in sorted(named) if not any(ROOT.glob(name.rstrip("/")))] == []


def test_the_index_lists_every_page():
    index = ROOT / "docs" / "README.md"
    linked = {(index.parent / link.partition("#")[0]).resolve() for link in links_of(index.read_text())}
    pages = {page for page in PAGES if page.is_relative_to(ROOT / "docs") or page.is_relative_to(ROOT / "xmae_fast")}
    assert sorted(pages - linked - {index}) == []


def test_broken_links_are_found(tmp_path):
    page = tmp_path / "page.md"
    (tmp_path / "other.md").write_text("# One\n\n## `f(x)`, 2 of them\n\n## One\n\n```\n# no heading\n```\n")
    page.write_text(
        "# Here\n[a](other.md) [b](other.md#fx-2-of-them) [c](other.md#one-1) [d](#here) [e](https://x.y/z.md)\n"
        "`[f](code.md)`\n```\n[g](code.md)\n```\n"
    )
    assert broken_links(page) == []
    page.write_text("[a](absent.md) [b](other.md#two) [c](#here) [d](other.md#no-heading) ![e](absent.png)\n")
    assert broken_links(page) == ["absent.md", "other.md#two", "#here", "other.md#no-heading", "absent.png"]
