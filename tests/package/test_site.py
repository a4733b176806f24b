"""The site builds strictly, has every public name, looks as the pages do on GitHub, and fetches nothing when read."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests.package import test_public_names

for package in ("mkdocs", "material", "mkdocstrings", "griffe", "nbconvert", "nbclient"):
    pytest.importorskip(package, reason=f'the site needs {package} (pip install -e ".[docs]")')

import griffe  # noqa: E402
from mkdocs.exceptions import PluginError  # noqa: E402

from docs.site import pages, reference  # noqa: E402

ROOT = Path(__file__).parents[2]
SHAPES = {"table", "tr", "pre", "li", "h1", "h2", "h3", "h4", "img", "strong"}  # that Markdown makes
# What a page of the site fetches by itself, and where it may not come from.
FETCHED = {("script", "src"), ("link", "href"), ("img", "src"), ("iframe", "src"), ("source", "src"), ("use", "href")}
ELSEWHERE = re.compile(r"^(?:[a-z]+:)?//")


class Page(HTMLParser):
    """What a page has: ids, what it fetches, and elements within its article."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.fetched: list[str] = []
        self.shapes: Counter[str] = Counter()
        self._in_article = "<article" not in text
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if values.get("id"):
            self.ids.add(str(values["id"]))
        self.fetched += [str(values[name]) for element, name in FETCHED if element == tag and values.get(name)]
        self._in_article |= tag == "article"
        if self._in_article and tag in SHAPES:
            self.shapes[tag] += 1

    def handle_endtag(self, tag: str) -> None:
        self._in_article &= tag != "article"


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The built site; notebooks are shown as they are, `test_notebooks.py` runs them."""
    folder = tmp_path_factory.mktemp("site")
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    environment = {**os.environ, "RUN_NOTEBOOKS": "false", "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(build, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="module")
def built(site) -> dict[str, Page]:
    return {str(path.relative_to(site)): Page(path.read_text(encoding="utf-8")) for path in site.rglob("*.html")}


def test_make_builds_strictly():
    if shutil.which("make") is None:
        pytest.skip("no make here")
    told = subprocess.run(["make", "-n", "site"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "mkdocs build --strict" in told
    assert "quiet" not in told  # it would hide warnings from --strict too


def test_every_public_name_has_an_anchor(built):
    anchors = set().union(*(page.ids for page in built.values()))
    wanted = {f"{package}.{name}" for package, names in test_public_names.NAMES.items() for name in names.split()}
    wanted |= {f"{package}.{name}" for package, names in reference.public_names().items() for name in names}
    assert sorted(wanted - anchors) == []


def test_every_name_in_the_tables_is_a_link(site):
    text = (site / "api.html").read_text(encoding="utf-8")
    for names in reference.public_names().values():
        for name in names:
            assert re.search(rf'<a [^>]*href="reference/[\w.]+html[^>]*><code>{re.escape(name)}</code></a>', text), name
    assert "][" not in re.sub(r"<(script|style)\b.*?</\1>", "", text, flags=re.DOTALL)


def test_nothing_is_fetched_from_elsewhere(site, built):
    assert [(name, url) for name, page in built.items() for url in page.fetched if ELSEWHERE.match(url)] == []
    for path in site.rglob("*.css"):
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"(?:url\(|@import)\s*[\"']?(?:https?:)?//", text), path
    assert (site / "site" / "iframe-worker.js").is_file()


def test_search_knows_the_pages_without_a_server(site):
    index = (site / "search" / "search_index.js").read_text(encoding="utf-8")
    assert index.startswith("var __index = ")
    for location in ("embedding.html", "reference/xmae_fast.html#xmae_fast.Embedder", "xmae_fast/data/index.html"):
        assert f'"{location}"' in index


SHOWN = sorted([*ROOT.glob("docs/*.md"), *ROOT.glob("xmae_fast/**/*.md"), *ROOT.glob("*.md"), ROOT / "tests/README.md"])


@pytest.mark.parametrize("path", SHOWN, ids=[str(path.relative_to(ROOT)) for path in SHOWN])
def test_pages_have_the_shape_that_github_shows(path, built):
    """Tables, lists and blocks are counted in both: Python-Markdown and GitHub differ in when they begin."""
    renderer = pytest.importorskip("markdown_it").MarkdownIt("commonmark").enable("table")
    text = re.sub(r"\A---\n.*?\n---\n", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    name = pages.site_path(str(path.relative_to(ROOT))).removesuffix(".md")
    name = f"{name.removesuffix('README')}index.html" if name.endswith("README") else f"{name}.html"
    assert built[name].shapes == Page(renderer.render(text)).shapes


def test_pages_outside_of_docs_come_along(built):
    for name in ("readme.html", "CHANGELOG.html", "CONTRIBUTING.html", "xmae_fast/data/index.html",
                 "examples/finetune.py.html", "benchmarks/results/cpu.txt.html"):  # fmt: skip
        assert name in built


def test_links_that_lead_nowhere_are_refused():
    with pytest.raises(PluginError, match=r"docs/page.md: the link \.\./absent.py leads to no file"):
        pages.resolve("docs/page.md", "../absent.py")
    assert pages.resolve("docs/page.md", "../examples/finetune.py") == "examples/finetune.py"
    text = "[a](b.md#c) `[d](e.md)`\n```\n[f](g.md)\n```\n[h](https://i.j) [k](#l)\n"
    assert pages.targets_of(text) == ["b.md"]


def test_lists_begin_as_on_github():
    turned = pages.CODE_OR_LIST.sub(lambda match: f"{match[0]}\n" if match["before"] else match[0], "a\n- b\n- c\n")
    assert turned == "a\n\n- b\n- c\n"


def test_missing_docstrings_are_found(monkeypatch):
    assert reference.missing_docstrings() == []
    code = 'def a():\n    """Told."""\n\n\ndef b(): ...\n\n\nclass C:\n    """Told."""\n\n    def d(self): ...\n'
    with griffe.temporary_visited_module(code, module_name="xmae_fast") as package:
        monkeypatch.setattr(reference, "package_tree", lambda: package)
        monkeypatch.setattr(reference, "public_names", lambda: {"xmae_fast": ["a", "b", "C"]})
        assert reference.missing_docstrings() == ["xmae_fast.C.d", "xmae_fast.b"]
