"""The benchmark command: what it prints and writes, and that wrong numbers are never timed. No timing is asserted."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

pytest.importorskip("rich", reason="the benchmarks need rich (pip install xmae-fast[bench])")

from benchmarks import run
from benchmarks.contest import OURS, PLAIN, Contestant, Group
from xmae_fast.testing import Error


def suite(*contestants: Contestant) -> SimpleNamespace:
    return SimpleNamespace(groups=lambda context: [Group("addition", list(contestants))])


def contestant(name: str, role: str, check) -> Contestant:
    return Contestant(name, lambda: lambda i: i + 1, check, role)


def right(_) -> list[Error]:
    return [Error("output", 0.0, 1e-6)]


def wrong(_) -> list[Error]:
    raise AssertionError("output is off by 1.0e-01, allowed 1.0e-06")


def test_wrong_numbers_are_not_timed_and_fail_the_command(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(run.SUITES, "loader", suite(contestant("plain", PLAIN, right), contestant("ours", OURS, wrong)))
    assert run.main(["--quick", "--suite", "loader", "--json", str(tmp_path / "out.json")]) == 1
    assert "FAILED addition, ours: output is off by 1.0e-01" in capsys.readouterr().out
    written = (tmp_path / "out.json").read_text()
    rows = {row["name"]: row for row in json.loads(written)["suites"]["loader"][0]["rows"]}
    assert rows["ours"]["status"] == "FAILED"
    assert rows["ours"]["seconds"] == []
    assert rows["plain"]["seconds"]


def test_quick_loader_suite(tmp_path, capsys):
    files = tmp_path / "out.json", tmp_path / "out.png"
    assert run.main(["--quick", "--suite", "loader", "--json", str(files[0]), "--plot", str(files[1])]) == 0
    assert "GEMM peak" in capsys.readouterr().out
    assert json.loads(files[0].read_text())["settings"]["signals"].endswith("simulated segments (seed 77)")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.json", "out.png"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "nothing.h5"], "shard nothing.h5: expected an HDF5 file, found nothing"),
        (["--suite", "speed"], "--suite: expected some of ops, model, train, loader, got speed"),
        (["--json", "no/such/out.json"], "--json: expected a file in an existing folder, got no/such/out.json"),
    ],
)
def test_bad_arguments_end_with_one_line_and_exit_code_2(arguments, message, capsys):
    assert run.main(arguments) == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    assert message in said[0]
