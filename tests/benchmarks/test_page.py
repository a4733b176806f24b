"""The page of a benchmark run: the same numbers as on the console, rows where others win, what was left out."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("rich", reason="the benchmarks need rich (pip install xmae-fast[bench])")
pytest.importorskip("matplotlib", reason="the benchmarks need matplotlib (pip install xmae-fast[bench])")

from benchmarks import run
from benchmarks.harness import page, report
from benchmarks.harness.contest import BASELINE, FAILED, INFO, LEFT_OUT, OURS, PLAIN, Group, Result, Row
from benchmarks.harness.machine import Machine
from tests.reports.reading import read
from xmae_fast.testing import Error

MACHINE = Machine("CPU <b>", 1, 2, 0.0, "2", "", "float32", 80e9, 100e9, "", 40e9, ("avx2",))
ABOUT = {
    "versions": {"xmae_fast": "1"}, "settings": {"device": "cpu", "quick": True, "signals": "3 segments"},
    "auto": {"conv_stem": "cpu"},
    "run": {"command": "python benchmarks/run.py --quick", "date": "2026-01-02 03:04 UTC"},
}  # fmt: skip


def row(name: str, role: str, ms: float, **more) -> Row:
    """A row that took `ms`, in three rounds that differ by 2 %."""
    seconds = [ms * 1e-3 * factor for factor in (0.98, 1.0, 1.02)] if ms else []
    return Row(name, role, errors=[Error("output", 2e-7, 1e-6)], seconds=seconds, **more)


def results() -> dict[str, list[Result]]:
    """A group where ours is ahead, one where it is behind, one that failed, and one in parts."""
    ahead = Result(Group("addition", [], items=64, unit="segments", flops=10**9, bytes_moved=10**6), [
        row("plain", PLAIN, 8), row("other", BASELINE, 4), row("ours", OURS, 2), row("bfloat16", INFO, 1),
        Row("missing", BASELINE, LEFT_OUT, "is not <installed>"),
    ])  # fmt: skip
    behind = Result(
        Group("embed: B=1", []), [row("plain", PLAIN, 6), row("fast", BASELINE, 1), row("ours", OURS, 1.25)]
    )
    failed = Result(Group("product", []), [row("plain", PLAIN, 1), Row("ours", OURS, FAILED, "output is off by 1")])
    parts = Result(Group("stages", []), [
        row(name, role, ms, part=part, flops=10**8)
        for part, both in (("stem", (3, 2)), ("blocks", (5, 4)))
        for name, role, ms in (("plain", PLAIN, both[0]), ("ours", OURS, both[1]))
    ])  # fmt: skip
    return {"ops": [ahead, failed], "model": [behind], "stages": [parts]}


def payload() -> dict:
    return report.payload(MACHINE, ABOUT | {"finished": True}, results())


def test_results_come_back_from_a_file():
    stored = json.loads(json.dumps(payload()))
    assert Machine.from_dict(stored["machine"]) == MACHINE
    for name, groups in results().items():
        assert [Result.from_dict(one).to_dict() for one in stored["suites"][name]] == [one.to_dict() for one in groups]


def test_page_of_a_file_has_the_numbers_of_the_console(tmp_path):
    (tmp_path / "out.json").write_text(json.dumps(payload()))
    assert page.main([str(tmp_path / "out.json"), str(tmp_path / "out.html")]) == 0
    found = read(tmp_path / "out.html")
    assert "CPU <b>" in found.text
    assert "python benchmarks/run.py --quick" in found.text
    for result in (result for groups in results().values() for result in groups if not result.parts()):
        table = found.table_below(report.title_of(result))
        for line, shown in zip((r for r in result.rows if r.seconds or r.status == FAILED), table.rows, strict=True):
            expected = list(report.cells(result, line, MACHINE))
            assert [cell.text for cell in shown.cells][: len(expected)] == expected[: len(table.header)]
    parts = found.table_below("stages")
    assert [cell.text for cell in parts.foot[0].cells][:2] == ["sum of the parts", "8"]
    assert found.images[0].source.startswith("data:image/svg+xml;base64,")


def test_rows_where_others_win_stand_out(tmp_path):
    page.write(tmp_path / "out.html", payload())
    found = read(tmp_path / "out.html")
    summary = found.tables[0]
    told = {line.cells[0].text: (line.tone, line.cells[-1].text, line.cells[3].sort) for line in summary.rows}
    assert told["addition"] == ("", "ours is faster", pytest.approx(2.0))
    assert told["embed: B=1"] == ("behind", "another is faster", pytest.approx(0.8))
    assert "In 1 of 2 groups ours is at least as fast" in found.text
    (ours,) = (line for line in found.table_below("embed: B=1").rows if line.cells[0].text == "ours")
    assert "behind" in next(cell for cell in ours.cells if cell.text == "0.80").kind


def test_what_was_left_out_or_failed_is_listed_with_its_reason(tmp_path):
    page.write(tmp_path / "out.html", payload())
    table = read(tmp_path / "out.html").table_below("Left out, and why")
    listed = [[cell.text for cell in line.cells] for line in table.rows]
    assert ["ops", "addition", "missing", "left out", "is not <installed>"] in listed
    assert ["ops", "product", "ours", "FAILED", "output is off by 1"] in listed


def test_the_command_writes_the_page(monkeypatch, tmp_path, capsys):
    from tests.benchmarks.test_benchmarks import contestant, right, suite

    monkeypatch.setitem(run.SUITES, "loader", suite(contestant("plain", PLAIN, right), contestant("ours", OURS, right)))
    monkeypatch.setattr(run, "measure_machine", lambda device: MACHINE)
    file = tmp_path / "out.html"
    assert run.main(["--quick", "--suite", "loader", "--html", str(file)]) == 0
    found = read(file)
    assert "python benchmarks/run.py --quick --suite loader --html out.html" in found.text
    assert str(tmp_path) not in found.text
    assert [line.cells[0].text.removesuffix(" *") for line in found.table_below("addition").rows] == ["plain", "ours"]
    file.write_text("mine")
    capsys.readouterr()
    assert run.main(["--quick", "--suite", "loader", "--html", str(file)]) == 2
    assert capsys.readouterr().err.startswith(f"error: --html: {file} is there and is not a page of xmae-fast")
    assert file.read_text() == "mine"


@pytest.mark.parametrize("content", ["", "[]", '{"suites": {}}'])
def test_a_file_that_is_no_result_is_one_line(tmp_path, capsys, content):
    (tmp_path / "out.json").write_text(content)
    assert page.main([str(tmp_path / "out.json"), str(tmp_path / "out.html")]) == 2
    assert capsys.readouterr().err.startswith("error: ")
    assert not (tmp_path / "out.html").exists()
