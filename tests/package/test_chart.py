"""The chart of docs/performance.md shows the numbers of the committed results, or is refused where they are missing."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest

from benchmarks import chart


def speeds() -> dict[str, dict[str, float]]:
    return chart.read_speeds(chart.RESULTS.read_text(encoding="utf-8"))


def test_speeds_are_those_of_the_results():
    """The last lines of the results say for each contest how fast ours is."""
    text = " ".join(chart.RESULTS.read_text(encoding="utf-8").split())
    headings = {
        "embedding, B = 64, float32": "embed: B=64, float32",
        "training step, B = 64, float32": "train: B=64, float32",
        "embedding, B = 1, after other work, float32": "embed: B=1, after other work, float32",
    }
    for title, heading in headings.items():
        told = re.search(rf"=> {re.escape(heading)}: xmae_fast .*?, ([\d.]+)x the plain path", text)
        assert told
        assert speeds()[title][chart.OURS] == float(told[1])
    assert all(bars[chart.PUBLISHED] == 1 for bars in speeds().values())
    assert list(speeds()) == list(chart.PANELS)


def test_the_committed_chart_is_of_these_numbers():
    shown = [element.text for element in ElementTree.parse(chart.CHART).iter("{http://www.w3.org/2000/svg}text")]
    wanted = [chart.label(speed) for bars in speeds().values() for speed in bars.values()]
    assert [text for text in shown if re.fullmatch(r"[\d.]+x", text or "")] == wanted
    assert set(chart.PANELS) <= set(shown)


def test_it_is_drawn(tmp_path):
    pytest.importorskip("matplotlib")
    for name in ("first.svg", "second.svg"):
        chart.draw(tmp_path / name, speeds(), "a machine")
    assert (tmp_path / "first.svg").read_bytes() == (tmp_path / "second.svg").read_bytes()
    assert "a machine" in (tmp_path / "first.svg").read_text()


def test_a_missing_contest_is_named():
    text = chart.RESULTS.read_text(encoding="utf-8").replace("train, bfloat16: B=64 (", "another (")
    with pytest.raises(ValueError, match="training step, B = 64, bfloat16"):
        chart.read_speeds(text)
