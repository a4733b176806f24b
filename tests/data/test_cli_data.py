"""`xmae-fast repack` and `xmae-fast inspect`, end to end."""

import io
import json
import os
import sys

import h5py
import numpy as np
import pytest

from tests.data.packing import flip, values, write_published
from tests.reports.reading import read
from xmae_fast.cli import main
from xmae_fast.data import SegmentLoader


@pytest.fixture
def shard(tmp_path):
    """A published shard of 60 segments of 40 samples, float16."""
    write_published(tmp_path / "shard.h5", values(60, 40))
    return tmp_path / "shard.h5"


def test_repack(shard, tmp_path, capsys):
    out, chosen = str(tmp_path / "out.h5"), tmp_path / "subjects.txt"
    chosen.write_text("d_0\n\nd_2\n")
    arguments = ["repack", str(shard), "-o", out, "--cache-dir", str(tmp_path / "cache"), "--threads", "2"]
    assert main([*arguments, "--subjects", str(chosen), "--quality", "0.6", "--dtype", "float32"]) == 0
    assert "float32, of 2 subjects from 1 shard(s)" in capsys.readouterr().out
    loader = SegmentLoader(out, quality=0)
    assert loader.subjects == ["d_0", "d_2"]
    assert loader.segments.index.shards[0].format.dtype == "f4"
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("xmae-fast: --output: ")
    assert error.count("\n") == 1
    assert main([*arguments, "--overwrite", "--subjects", "d_1,d_2", "--columns", "time,ecg,ppg"]) == 0
    with h5py.File(out) as file, h5py.File(shard) as source:
        np.testing.assert_array_equal(file["ecg"][0], source[file["key"][0].decode()][:, 1])
    capsys.readouterr()
    assert main(["repack", "--verify", out]) == 0
    assert "ppg: sha256:" in capsys.readouterr().out
    with h5py.File(out) as file:
        place = file["ppg"].id.get_offset()
    flip(out, place)
    assert main(["repack", "--verify", out]) == 2
    assert "its values are not those that were written" in capsys.readouterr().err
    for wrong in ([], ["--verify", out, str(shard)], [str(shard)]):
        assert main(["repack", *wrong]) == 2
        assert "expected" in capsys.readouterr().err


def test_inspect(shard, tmp_path, capsys):
    pytest.importorskip("rich")
    pytest.importorskip("matplotlib")
    out = tmp_path / "out"
    out.mkdir()
    files = ["--json", str(out / "report.json"), "--picture", str(out / "examples.png")]
    where = [str(shard), "--cache-dir", str(tmp_path / "cache")]
    assert main(["inspect", *where, "--quality", "0.8", *files]) == 0
    text = capsys.readouterr().out
    assert "What a loader with quality 0.8 takes" in text
    report = json.loads((out / "report.json").read_text())
    assert report["segments"] == 60
    assert report["used"] == len(SegmentLoader(shard, quality=0.8).segments)
    assert sorted(os.listdir(out)) == ["examples.png", "report.json"]
    assert (out / "examples.png").read_bytes().startswith(b"\x89PNG")
    assert main(["inspect", *where, "--columns", "a,ecg"]) == 2
    assert capsys.readouterr().err.startswith("xmae-fast: --columns: expected")
    assert main(["inspect", str(tmp_path / "none.h5")]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_missing_library_is_one_line(shard, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "rich", None)  # as if it were not installed
    assert main(["inspect", str(shard)]) == 2
    assert capsys.readouterr().err == 'xmae-fast: Reports on shards need rich: pip install "xmae_fast[eval]"\n'
    assert main(["repack", str(shard), "-o", str(shard.with_name("out.h5"))]) == 0


@pytest.mark.parametrize("terminal", [False, True])
def test_progress_goes_to_a_terminal_only(shard, tmp_path, monkeypatch, capsys, terminal):
    pytest.importorskip("rich")
    stream = io.StringIO()
    monkeypatch.setattr(stream, "isatty", lambda: terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", stream)
    assert main(["repack", str(shard), "-o", str(tmp_path / "out.h5")]) == 0
    assert ("verify" in stream.getvalue()) == terminal
    assert "sha256" in capsys.readouterr().out


def test_inspect_writes_a_page(shard, tmp_path, capsys):
    pytest.importorskip("rich")
    pytest.importorskip("matplotlib")
    file = tmp_path / "page.html"
    broken = tmp_path / "<b>broken.h5"
    broken.write_bytes(b"no shard")
    where = [str(shard), str(broken), "--cache-dir", str(tmp_path / "cache"), "--quality", "0.8"]
    assert main(["inspect", *where, "--html", str(file)]) == 0
    page, used = read(file), len(SegmentLoader(shard, quality=0.8).segments)
    assert f"takes {used} of 60 segments" in page.text
    histogram = [[int(cell.text) for cell in row.cells[1:]] for row in page.table_below("Quality").rows]
    assert [sum(column) for column in zip(*histogram, strict=True)] == [60, 60]
    assert [cell.text for cell in page.table_below("Shards").rows[0].cells][:4] == [
        "shard.h5", "published", "PPG, ECG", "60",
    ]  # fmt: skip
    left_out = [table for table in page.tables if table.heading == "Left out, and why"]
    assert sum(int(row.cells[1].text) for row in left_out[0].rows) == 60 - used
    assert left_out[1].rows[0].cells[0].text == "<b>broken.h5"
    assert page.images[0].source.startswith("data:image/png;base64,")
    assert str(tmp_path) not in page.text
    file.write_text("mine")
    capsys.readouterr()
    assert main(["inspect", *where, "--html", str(file)]) == 2
    assert "--html: " in capsys.readouterr().err
    assert file.read_text() == "mine"
