"""Pages as readers see them, in a headless Chromium: every command's page, wide and narrow, and how tables sort."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.reports import hostile
from tests.reports.chromium import NAMES, Chromium, Tab, find
from xmae_fast.reports import write_page

pytestmark = pytest.mark.skipif(find() is None, reason=f"no Chromium here: none of {', '.join(NAMES)}")
ROOT = Path(__file__).parents[2]
EVALUATE, INSPECT, EMBED, PREPARE, BENCHMARKS = "evaluate", "inspect", "embed", "prepare", "benchmarks"


@pytest.fixture(scope="module")
def browser() -> Iterator[Chromium]:
    browser = Chromium()
    yield browser
    browser.close()


@pytest.fixture(scope="module")
def hostile_page(tmp_path_factory) -> Path:
    pytest.importorskip("markdown_it")
    file = tmp_path_factory.mktemp("pages") / "hostile.html"
    write_page(file, hostile.page())
    return file


@pytest.fixture(scope="module")
def recordings(tmp_path_factory) -> Path:
    """Two recordings of PPG and ECG with evil names, and one that cannot be read."""
    folder = tmp_path_factory.mktemp("recordings")
    rng = np.random.default_rng(0)
    time = np.arange(0, 45, 0.01)
    beat = np.exp(-(((time % 0.8 - 0.3) / 0.12) ** 2))
    spike = np.exp(-(((time % 0.8 - 0.1) / 0.015) ** 2))
    for number, name in enumerate(("<img src=x onerror=evil()>.npz", "b&b 'x'.npz")):
        ppg, ecg = (wave + 0.01 * rng.normal(size=len(time)) for wave in (beat, spike))
        ppg[2000 : 2000 + 700 * number] = np.nan
        np.savez(folder / name, PPG=ppg, ECG=ecg, fs=100.0)
    np.savez(folder / "bad.npz", HR=time, fs=100.0)
    return folder


@pytest.fixture(scope="module")
def pages(recordings, tmp_path_factory):
    """pages(name): the file of a command's page, which is made when it is first asked for."""
    made: dict[str, Path] = {}
    folder = tmp_path_factory.mktemp("made")

    def page(name: str) -> Path:
        if name not in made:
            made[name] = _make(name, folder, recordings)
        return made[name]

    return page


def _make(name: str, folder: Path, recordings: Path) -> Path:
    from xmae_fast.cli import main

    file = folder / f"{name}.html"
    if name == EVALUATE:
        pytest.importorskip("markdown_it")
        from xmae_fast.evaluation import write_report

        shutil.copytree(ROOT / "docs" / "example_report", folder / "report")
        write_report(folder / "report")
        return folder / "report" / "report.html"
    if name == BENCHMARKS:
        pytest.importorskip("rich")
        pytest.importorskip("matplotlib")
        from benchmarks.harness import page
        from tests.benchmarks.test_page import payload

        page.write(file, payload())
        return file
    if name == PREPARE:
        pytest.importorskip("scipy")
        assert main(["prepare", str(recordings), "-o", str(folder / "shards"), "--html", str(file)]) == 1
        return file
    pytest.importorskip("matplotlib")
    if name == EMBED:
        assert main(["embed", str(recordings), "-o", str(folder / "embeddings"), "--html", str(file)]) == 1
        return file
    pytest.importorskip("rich")
    from xmae_fast.data import simulate

    shards = simulate(3, 5, seed=1).write_shards(folder / "sim")
    assert main(["inspect", *map(str, shards), "--html", str(file)]) == 0
    return file


@pytest.mark.parametrize("name", [EVALUATE, INSPECT, EMBED, PREPARE, BENCHMARKS])
@pytest.mark.parametrize("width", [1280, 390, 320])
def test_no_errors_no_requests_and_nothing_sticks_out(browser, pages, name, width):
    tab = browser.open(pages(name), width)
    assert tab.complaints() == []
    assert tab.requests() == []
    assert tab.too_wide() == []
    assert tab.evaluate("[...document.images].every(i => i.complete && i.naturalWidth > 0)")
    assert tab.evaluate("document.querySelectorAll('th button').length") > 0
    tab.close()


@pytest.mark.parametrize("width", [1280, 390])
def test_hostile_names_stay_texts(browser, hostile_page, width):
    tab = browser.open(hostile_page, width)
    assert tab.complaints() == []
    assert tab.requests() == []
    assert tab.too_wide() == []
    assert tab.evaluate("typeof window.evil") == "undefined"
    assert tab.evaluate("document.title") == f"Page of {hostile.EVIL}"
    tab.close()


def test_the_policy_lets_no_other_script_run(browser, hostile_page):
    """The same script runs where the policy allows it: in a page without one."""
    add = (
        "(() => { const s = document.createElement('script'); s.textContent = 'window.evil = 3';"
        " document.body.append(s) })()"
    )
    tab = browser.open(hostile_page)
    tab.evaluate(add)
    assert tab.evaluate("typeof window.evil") == "undefined"
    assert any("Content Security Policy" in text for text in tab.complaints())
    tab.close()
    free = hostile_page.with_name("free.html")
    free.write_text("<!doctype html><title>x</title><body>")
    tab = browser.open(free)
    tab.evaluate(add)
    assert tab.evaluate("window.evil") == 3
    tab.close()


def column(tab: Tab, number: int) -> list[str]:
    """The texts of a column of the table whose header is "text, result, n, left"."""
    return tab.evaluate(
        f"[...document.querySelectorAll('main section')[1].querySelectorAll('tbody tr')]"
        f".map(row => row.cells[{number}].textContent.trim())"
    )


def sorts(tab: Tab) -> list[str]:
    return tab.evaluate(
        "[...document.querySelectorAll('main section')[1].querySelectorAll('th')].map(h => h.getAttribute('aria-sort'))"
    )


def test_a_click_sorts_numbers_by_their_estimates_and_again_turns_round(browser, hostile_page):
    tab = browser.open(hostile_page)
    header = "main section:nth-of-type(2) th:nth-of-type({}) button"
    assert sorts(tab) == ["none"] * 4
    assert column(tab, 1) == hostile.NUMBERS
    tab.click(header.format(2))
    up = ["-3 [-9, 9]", "0.1000 [-5.0, 7.0]", "0.90 [0.80, 0.95]", "1,204.5 [1, 2]"]
    assert column(tab, 1) == [*up, ""]
    assert sorts(tab) == ["none", "ascending", "none", "none"]
    tab.click(header.format(2))
    assert column(tab, 1) == [*up[::-1], ""]
    assert sorts(tab) == ["none", "descending", "none", "none"]
    tab.click(header.format(4))
    assert column(tab, 3) == ["6", "7", "8", "9", "10"]
    assert sorts(tab) == ["none", "none", "none", "ascending"]
    tab.click(header.format(1))
    assert column(tab, 0) == [hostile.EVIL, "name 1", "name 2", "name 3", "name 4"]
    foot = "document.querySelectorAll('main section')[1].querySelector('tfoot').textContent.trim()"
    assert tab.evaluate(foot).startswith("sum")
    assert tab.complaints() == []
    tab.close()


@pytest.mark.parametrize("key", ["Enter", " "])
def test_keys_sort(browser, hostile_page, key):
    tab = browser.open(hostile_page)
    tab.evaluate("document.querySelectorAll('main section')[1].querySelector('.box').focus()")
    tab.press("Tab")
    tab.press("Tab")
    assert tab.evaluate("document.activeElement.textContent") == "result"
    tab.press(key)
    assert sorts(tab) == ["none", "ascending", "none", "none"]
    assert column(tab, 1)[0] == "-3 [-9, 9]"
    assert tab.evaluate("document.activeElement.textContent") == "result"  # one key sorts, the next turns it round
    tab.press(key)
    assert sorts(tab)[1] == "descending"
    tab.close()


def test_without_scripts_everything_is_there(browser, hostile_page, pages):
    tab = browser.open(hostile_page, scripts=False)
    assert tab.evaluate("document.querySelectorAll('button').length") == 0
    assert column(tab, 1) == hostile.NUMBERS
    assert tab.evaluate("document.querySelector('main section:nth-of-type(2) th').textContent") == "text"
    assert tab.complaints() == []
    tab.close()


def test_dark_colours_and_print(browser, hostile_page):
    brightness = "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number).reduce((a, b) => a + b)"
    ink = "getComputedStyle(document.body).color.match(/\\d+/g).map(Number).reduce((a, b) => a + b)"
    light, dark = browser.open(hostile_page), browser.open(hostile_page, dark=True)
    printed = browser.open(hostile_page, media="print", dark=True)
    assert light.evaluate(brightness) > 700 > 200 > light.evaluate(ink)
    assert dark.evaluate(brightness) < 200 < 600 < dark.evaluate(ink)
    assert printed.evaluate(brightness) > 700 > 200 > printed.evaluate(ink)
    assert printed.evaluate("getComputedStyle(document.querySelector('nav')).display") == "none"
    for tab in (light, dark, printed):
        tab.close()


def test_what_these_tests_look_for_is_found(browser, tmp_path):
    """In a page that asks for a picture, throws an error and has a table that is too wide."""
    wide = "<table><tr>" + "<td>somewhat</td>" * 60 + "</tr></table>"
    (tmp_path / "bad.html").write_text(
        '<!doctype html><meta name="viewport" content="width=device-width, initial-scale=1"><title>x</title><body>'
        f'<img src="http://127.0.0.1:9/x.png"><script>none()</script>{wide}'
    )
    tab = browser.open(tmp_path / "bad.html", 390)
    assert any("none is not defined" in text for text in tab.complaints())
    assert tab.requests() == ["http://127.0.0.1:9/x.png"]
    assert any(text.startswith("<td>") for text in tab.too_wide())
    tab.close()
