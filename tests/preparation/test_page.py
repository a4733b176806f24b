"""`xmae-fast prepare --html`: the page says what the tables say."""

from __future__ import annotations

import csv

import numpy as np
import pytest

from benchmarks.studies.recording_files import FS, continuous
from tests.reports.reading import read
from xmae_fast.cli import main
from xmae_fast.data import write_preparation_page

pytest.importorskip("scipy")
EVIL = "<script>alert(1)<script>"


@pytest.fixture
def recordings(tmp_path):
    """Two recordings, in one of which the PPG does not change for 25 s, one that cannot be read, and another file."""
    folder = tmp_path / "in"
    folder.mkdir()
    ppg, ecg = continuous()
    np.savez(folder / f"{EVIL}.npz", ppg=ppg, ecg=ecg, fs=FS)
    flat = ppg.copy()
    flat[: round(25 * FS)] = 1.0
    np.savez(folder / "flat.npz", ppg=flat, ecg=ecg, fs=FS)
    np.savez(folder / "bad.npz", hr=np.arange(9.0), fs=FS)
    (folder / "notes.md").write_text("x")
    return folder


def texts(table) -> list[list[str]]:
    return [[cell.text for cell in row.cells] for row in table.rows]


def test_the_command_writes_a_page(recordings, tmp_path, capsys):
    out = tmp_path / "out"
    file = out / "report.html"
    command = ["prepare", str(recordings), "-o", str(out), "--processes", "1", "--html", str(file)]
    assert main(command) == 1  # one recording cannot be read
    assert capsys.readouterr().out.splitlines()[-1] == str(file)
    page = read(file)
    assert page.tags.count("script") == 1
    assert str(tmp_path) not in page.text
    with open(out / "records.csv", newline="") as rows:
        records = [row for row in csv.DictReader(rows) if not row["error"]]
    shown = texts(page.table_below("Recordings"))
    assert [[row[0], row[2], row[3], row[4]] for row in shown] == [
        [row["source"], row["windows"], row["segments"], row["usable"]] for row in records
    ]
    assert EVIL in page.text
    with open(out / "rejected.csv", newline="") as rows:
        rejected = list(csv.DictReader(rows))
    assert rejected
    left_out = [table for table in page.tables if table.heading == "Left out, and why"]
    reasons, each, failed, others = map(texts, left_out)
    assert sum(int(row[1]) for row in reasons) == len(rejected)
    assert [[row[0], row[2], row[5]] for row in each] == [[r["source"], r["start_s"], r["reason"]] for r in rejected]
    assert failed[0][0] == "bad.npz"
    assert others == [[".md", "1"]]
    before = file.read_bytes()
    assert main(command) == 1  # it was finished already, and the page is written again
    assert "this was finished already" in capsys.readouterr().out
    assert read(file).tables
    assert main([*command, "--overwrite"]) == 1
    assert file.exists()
    assert before.startswith(b"<!doctype html>")


def test_pages_that_cannot_be_written_are_refused_before_the_work(recordings, tmp_path, capsys):
    command = ["prepare", str(recordings), "-o", str(tmp_path / "out"), "--html"]
    (tmp_path / "mine.html").write_text("mine")
    assert main([*command, str(tmp_path / "mine.html")]) == 2
    assert "--html: " in capsys.readouterr().err
    assert main([*command, str(tmp_path / "no" / "x.html")]) == 2
    assert not (tmp_path / "out").exists()
    with pytest.raises(FileNotFoundError, match=r"folder: expected a folder of prepare, with prepare\.json"):
        write_preparation_page(recordings, tmp_path / "x.html")
