"""Pages without a browser: what is in them, what is escaped, and which files are left alone."""

from __future__ import annotations

import base64
import hashlib
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.reports import hostile
from tests.reports.reading import parse, read
from xmae_fast.reports import (
    Bullets,
    Cell,
    Heading,
    Marked,
    Page,
    Row,
    Table,
    as_html,
    as_markdown,
    check_page,
    code,
    is_page,
    limited,
    plain,
    run_facts,
    running,
    write_page,
)
from xmae_fast.reports.blocks import sorted_by
from xmae_fast.reports.run import shown_command

markdown_it = pytest.importorskip("markdown_it")
SIMPLE = Page("Title", "About.", {"command": "x"}, ["In short."], [], [])


@pytest.fixture(scope="module")
def found():
    return parse(as_html(hostile.page()))


def test_foreign_texts_are_shown_as_they_are_and_are_no_markup(found):
    assert found.text.count(hostile.EVIL) > 60
    assert found.tags.count("script") == 1
    assert found.tags.count("img") == 1
    assert found.tags.count("style") == 1
    assert [attribute for _, attribute, _ in found.attributes if attribute.startswith("on")] == []
    assert "49" not in found.text  # nobody computes {{7*7}}
    assert found.images[0].alt == hostile.EVIL


def test_nothing_is_fetched_and_nothing_else_runs():
    text = as_html(hostile.page())
    found = parse(text)
    links = [value for _, name, value in found.attributes if name in ("src", "href", "action", "srcset", "data")]
    assert links
    assert [link for link in links if not link.startswith(("data:", "#"))] == []
    policy = next(value for tag, name, value in found.attributes if tag == "meta" and "default-src" in value)
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe" not in policy
    for tag in ("style", "script"):
        (inside,) = re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
        assert "http" not in inside
    assert not [value for _, name, value in found.attributes if name == "style"]


def test_order_of_a_page(found):
    assert [h for h in found.headings if h not in (hostile.EVIL,)] == [
        f"Page of {hostile.EVIL}", "In short", f"Section {hostile.EVIL}", "Wide", "Left out, and why",
        "How this was computed",
    ]  # fmt: skip
    assert "Nothing was left out." in parse(as_html(SIMPLE)).text
    assert "nothing" not in [data.strip() for data in found.text.split("\n")]  # a fact without a value


def test_tables_have_numbers_by_which_they_are_sorted(found):
    table = found.table_below(f"Section {hostile.EVIL}")
    assert [row.cells[1].sort for row in table.rows] == [0.9, None, 1204.5, -3.0, 0.1]
    assert [row.cells[0].sort for row in table.rows] == [None] * 5
    assert [row.tone for row in table.rows] == ["", "ours", "", "", ""]
    assert len(table.foot) == 1


@pytest.mark.parametrize(
    ("texts", "numbers"),
    [
        (["1", "20", "3"], [1, 20, 3]),
        (["1,024", "-", "2.5e-3"], [1024, None, 0.0025]),
        (["31.0% [25.0%, 37.0%]", "12 %", ""], [31, 12, None]),
        (["+0.2 [-0.1, 0.5]", "nan"], [0.2, None]),
        (["0.84x", "exact"], [0.84, None]),
        (["3_a", "4_b"], None),
        (["1", "one"], None),
        (["2024-01-05", "2024-02-01"], None),
        (["", ""], None),
        ([], None),
    ],
)
def test_numbers_of_a_column(texts, numbers):
    assert sorted_by([Cell(text) for text in texts]) == numbers
    assert sorted_by([Cell("2.5 MiB", 2.5e6), Cell("900 KiB", 9e5)]) == [2.5e6, 9e5]


def seen(html: str) -> str:
    return " ".join(parse(html).text.split())


@given(st.text(st.sampled_from("ab_*`[]()<>!&;|#-1.\\ ~\n\"'"), max_size=24))
def test_plain_texts_stay_as_they_are_in_markdown(text):
    reader = markdown_it.MarkdownIt("commonmark")
    line = " ".join(text.split())
    assert seen(reader.render(f"x {plain(text)} y")) == " ".join(f"x {line} y".split())
    if line:
        assert seen(reader.render(f"x {code(text)} y")).split(" y")[0].removeprefix("x ").strip() == line.split(" y")[0]
    table = as_markdown(SIMPLE._replace(blocks=[Table(["a", "b"], [[text, "c"], Row([text, "d"], "strong")])]))
    rows = parse(markdown_it.MarkdownIt("commonmark").enable("table").render(table)).tables[0].rows
    assert [cell.text for row in rows for cell in row.cells] == [line, "c", line, "d"]


@pytest.mark.parametrize("text", ["# x", "- x", "1. x", "> x", "+ x", "--- x", "10) x"])
def test_plain_paragraphs_stay_paragraphs_in_markdown(text):
    rendered = markdown_it.MarkdownIt("commonmark").render(as_markdown(SIMPLE._replace(blocks=[text])))
    assert f"<p>{text.replace('>', '&gt;')}</p>" in rendered


def test_a_page_as_markdown():
    page = SIMPLE._replace(
        blocks=[
            Heading(2, "A_b"),
            Marked("**x**"),
            Bullets(["y*"]),
            Table(["h"], [["v|w"]], "Caption", more="And more."),
        ],
        left_out=["All of it."],
    )
    assert as_markdown(page) == (
        "# Title\n\nAbout.\n\n## In short\n\nIn short.\n\n## A_b\n\n**x**\n\n- y\\*\n\nCaption\n\n| h |\n| --- |\n"
        "| v\\|w |\n\nAnd more.\n\n## Left out, and why\n\nAll of it.\n\n## What was run\n\n- command: x\n"
    )


def test_only_pages_are_replaced(tmp_path):
    file = tmp_path / "page.html"
    write_page(file, SIMPLE)
    assert is_page(file)
    write_page(file, SIMPLE._replace(title="Another"))
    assert read(file).headings[0] == "Another"
    file.write_text("<html>mine</html>")
    with pytest.raises(FileExistsError, match=r"html: .*page\.html is there and is not a page of xmae-fast"):
        write_page(file, SIMPLE)
    assert file.read_text() == "<html>mine</html>"
    with pytest.raises(FileExistsError, match="html: expected a file, got the folder"):
        check_page(tmp_path)
    with pytest.raises(FileNotFoundError, match="html: expected a file in an existing folder"):
        check_page(tmp_path / "new" / "page.html")
    check_page(tmp_path / "new" / "page.html", inside=tmp_path / "new")
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]


def test_a_failure_leaves_no_half_page(tmp_path):
    with pytest.raises(FileNotFoundError):
        write_page(
            tmp_path / "page.html", hostile.page()._replace(about=Marked("x"), blocks=[hostile.Picture("no.png", "")])
        )
    assert list(tmp_path.iterdir()) == []


def test_names_that_utf8_cannot_hold_are_written(tmp_path):
    write_page(tmp_path / "page.html", SIMPLE._replace(title="a\udcff.csv"))
    assert r"a\udcff.csv" in read(tmp_path / "page.html").text


def test_the_command_is_shown_without_folders():
    words = [
        "xmae-fast",
        "embed",
        "/home/me/a b.csv",
        "-o",
        "out",
        "--html=/home/me/x.html",
        "--compare",
        "a=/home/b/c",
        "~/d",
    ]
    assert shown_command(words) == "xmae-fast embed 'a b.csv' -o out --html=x.html --compare a=c d"
    with running(words):
        assert run_facts("f(...)")["command"].startswith("xmae-fast embed")
    facts = run_facts("f(...)")
    assert facts["command"] == "f(...) in Python"
    assert set(facts) == {"command", "version", "date", "machine"}
    assert all(facts.values())


def test_long_tables_say_what_they_leave_out():
    assert limited([1, 2, 3], 3, "x.csv") == ([1, 2, 3], "")
    assert limited([1, 2, 3], 2, "x.csv") == ([1, 2], "The first 2 of 3 rows; all are in x.csv.")
