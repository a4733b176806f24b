"""What `prepare` tells of recordings, and the recordings that it tries again."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path

import h5py
import numpy as np
import pytest

from benchmarks.studies.recording_files import FS, continuous, windows
from tests.data.test_repack_resume import die, killed
from xmae_fast.cli import main
from xmae_fast.data import RecordingError, prepare
from xmae_fast.preparation import making, replacing
from xmae_fast.preparation.telling import grouped
from xmae_fast.recordings import names


@pytest.fixture(scope="module")
def signal():
    return continuous()


def save(path, ppg, ecg, **more) -> None:
    with open(path, "wb") as file:
        np.savez(file, **{"ppg": ppg, "ecg": ecg, "fs": FS} | more)


def rows(out: Path) -> dict[str, dict[str, str]]:
    with open(out / "records.csv", newline="", encoding="utf-8") as file:
        return {row["source"]: row for row in csv.DictReader(file)}


def segments(out: Path) -> np.ndarray:
    with h5py.File(out / "data_0000.h5") as file:
        return np.stack([file["ppg"][()], file["ecg"][()]])


@pytest.fixture
def folder(tmp_path, signal):
    """A good recording and one whose PPG is upside down."""
    folder = tmp_path / "in"
    folder.mkdir()
    save(folder / "good.npz", *signal)
    save(folder / "down.npz", -signal[0], signal[1])
    return folder


def test_records_and_report_tell_the_same(folder, tmp_path, in_process):
    report = prepare(folder, tmp_path / "out", processes=1)
    note = "the PPG looks upside down, it falls faster than it rises: --polarity auto,keep turns it round"
    assert report.notes == {"down.npz": [note]}
    found = rows(tmp_path / "out")
    assert found["good.npz"] | {"polarity": "kept", "usable": "4", "notes": "", "error": ""} == found["good.npz"]
    assert 0.9 < float(found["good.npz"]["median_ppg_quality"]) <= 1
    assert 0.9 < float(found["good.npz"]["median_ecg_quality"]) <= 1
    assert found["down.npz"]["notes"] == note
    assert f"note: down.npz: {note}" in report.describe()
    assert json.loads((tmp_path / "out" / "prepare.json").read_text())["notes"] == report.notes


def test_exchanged_channels_are_said_though_windows_are_rejected(signal, tmp_path, in_process):
    save(tmp_path / "a.npz", signal[1], signal[0])
    report = prepare(tmp_path / "a.npz", tmp_path / "out", processes=1)
    assert sum(report.rejected.values()) >= 3
    assert report.notes["a.npz"][-1] == "PPG and ECG look exchanged: --ppg NAME and --ecg NAME say which is which"


def test_polarity(folder, tmp_path, in_process):
    kept, turned, flipped = (tmp_path / name for name in ("kept", "turned", "flipped"))
    prepare(folder / "good.npz", kept, processes=1)
    report = prepare(folder / "down.npz", turned, polarity=("auto", "keep"), processes=1)
    np.testing.assert_array_equal(segments(kept), segments(turned))
    assert report.notes == {"down.npz": ["the PPG was turned round, it was upside down"]}
    assert rows(turned)["down.npz"]["polarity"] == "PPG turned round"
    again = prepare(folder / "down.npz", turned, polarity=("auto", "keep"), processes=1)
    assert again.settings["polarity"] == report.settings["polarity"] == ["auto", "keep"]
    report = prepare(folder / "good.npz", flipped, polarity="flip", processes=1)
    assert rows(flipped)["good.npz"]["polarity"] == "PPG and ECG turned round"
    np.testing.assert_allclose(segments(flipped).astype(float), -segments(kept).astype(float), rtol=0, atol=1e-3)
    report = prepare(folder / "good.npz", tmp_path / "auto", polarity="auto", processes=1)
    np.testing.assert_array_equal(segments(kept), segments(tmp_path / "auto"))
    assert report.notes == {}
    with pytest.raises(ValueError, match="polarity: expected keep, auto, flip, or a pair of these"):
        prepare(folder, tmp_path / "x", polarity="up")
    command = ["prepare", str(folder / "down.npz"), "--processes", "1", "--polarity", "auto,keep", "-o"]
    assert main([*command, str(tmp_path / "cli")]) == 0
    np.testing.assert_array_equal(segments(kept), segments(tmp_path / "cli"))


def test_equal_sentences_become_one():
    sentences = [(f"{i}.csv", f"/a/{i}.csv: CSV: expected 2 of 'x', got {i}") for i in range(500)]
    assert grouped(sentences) == [
        "500 recordings: CSV: expected 2 of 'x', got 0: 0.csv, 1.csv and 498 more (records.csv)"
    ]
    assert grouped(sentences[:1]) == [sentences[0][1]]
    assert grouped([("a.csv", "the PPG is b"), ("c.csv", "the PPG is d")]) == [
        "a.csv: the PPG is b", "c.csv: the PPG is d"
    ]  # fmt: skip
    twice = grouped([("a.csv", "72% of it"), ("b.csv", "8.5% of it")])
    assert twice == ["2 recordings: 72% of it: a.csv, b.csv"]


def test_doubles_and_rejected_recordings_are_said(folder, signal, tmp_path, in_process):
    pytest.importorskip("pandas")
    np.savetxt(folder / "good.csv", np.stack([np.arange(5000) / FS, *signal], 1), delimiter=",", header="time,ppg,ecg",
               comments="")  # fmt: skip
    (folder / "copy.npz").write_bytes((folder / "down.npz").read_bytes())
    save(folder / "flat.npz", signal[0], np.zeros(5000))
    report = prepare(folder, tmp_path / "out", processes=1)
    same = "so that one recording may be there twice"
    assert report.notes["good.csv"] == report.notes["good.npz"]
    assert report.notes["good.csv"] == [f"another file has the same name in another format, {same}"]
    assert report.notes["copy.npz"][-1] == f"another file has the same content, {same}"
    assert report.notes["flat.npz"] == ["all 4 windows were rejected: 4 constant ecg"]
    assert f"note: 2 recordings: another file has the same content, {same}: copy.npz, down.npz" in report.describe()


def test_no_segment_is_no_success_and_blocks_nothing(signal, tmp_path, in_process, capsys):
    save(tmp_path / "a.npz", signal[0], np.zeros(5000))
    out = tmp_path / "out"
    command = ["prepare", str(tmp_path / "a.npz"), "-o", str(out), "--processes", "1"]
    assert main(command) == 1
    assert "no segment was made: records.csv and rejected.csv say why" in capsys.readouterr().out
    assert main([*command, "--ecg", "ppg"]) == 0
    assert rows(out)["a.npz"]["ecg"] == "ppg"
    assert main([*command, "--hop", "5"]) == 2  # this one has segments


def test_names_that_are_no_utf8(signal, tmp_path, capsys):
    folder = os.fsencode(tmp_path / "in")
    os.mkdir(folder)
    try:
        save(os.path.join(folder, b"M\xfcller.npz"), *signal)
    except OSError:
        pytest.skip("this file system takes names in UTF-8 alone")
    with open(os.path.join(folder, b"\xff.npz"), "wb") as file:
        file.write(b"no")
    save(tmp_path / "in" / "good.npz", *signal)
    for layout in ("packed", "published"):
        out = tmp_path / layout
        command = ["prepare", str(tmp_path / "in"), "-o", str(out), "--layout", layout, "--processes", "1"]
        assert main(command) == 1
        assert r"\xff.npz: NumPy: " in capsys.readouterr().out
        found = rows(out)
        assert {name: row["segments"] for name, row in found.items()} == {
            r"M\xfcller.npz": "4", "good.npz": "4", r"\xff.npz": ""
        }  # fmt: skip
        assert found[r"M\xfcller.npz"]["subjects"] == r"data_M\xfcller"
        assert main(command) == 1
        capsys.readouterr()
    with h5py.File(tmp_path / "packed" / "data_0000.h5") as file:
        assert file["sources"].asstr()[()].tolist() == [r"M\xfcller.npz", "good.npz"]


def failing(monkeypatch, error: Exception | None) -> list[str]:
    """Reading down.npz fails with `error`; returns the list that gets the names of the recordings that are read."""
    read, seen = making.read_source, []

    def stand_in(source, reading):
        path = source.path
        seen.append(os.path.basename(path))
        if error is None or not path.endswith("down.npz"):
            return read(source, reading)
        if isinstance(error, MemoryError):
            raise error
        raise RecordingError(f"{path}: NumPy: expected a readable file") from error

    monkeypatch.setattr(making, "read_source", stand_in)
    return seen


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (MemoryError("8 GB"), "NumPy: expected enough memory to prepare it (8 GB); the same command tries it again"),
        (BlockingIOError(11, "unable to lock file"), "another process has locked it; the same command tries it again"),
        (PermissionError(13, "x"), "NumPy: expected a readable file; the same command tries it again"),
        (ValueError("x"), None),
    ],
)
def test_what_may_pass_is_tried_again(folder, tmp_path, in_process, monkeypatch, error, text):
    out, whole = tmp_path / "out", tmp_path / "whole"
    prepare(folder, whole, processes=1)
    with monkeypatch.context() as patch:
        failing(patch, error)
        report = prepare(folder, out, processes=1)
    assert report.segments == 4
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    if text is None:
        assert not (tmp_path / ".out.partial").exists()
        assert prepare(folder, out, processes=1).errors == report.errors
        return
    assert report.errors == {"down.npz": f"{folder / 'down.npz'}: {text}"}
    with monkeypatch.context() as patch:  # it fails again: nothing changes
        assert failing(patch, error) == []
        assert prepare(folder, out, processes=1).errors == report.errors
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    with monkeypatch.context() as patch:
        seen = failing(patch, None)
        killed(lambda: prepare(folder, out, processes=1, progress=lambda s, *_: s == "shards" and die()))
        assert {path.name: path.read_bytes() for path in out.iterdir()} == before
        os.utime(folder / "down.npz", ns=(1, 1))  # it may have been repaired meanwhile
        report = prepare(folder, out, processes=1)
        assert seen == ["down.npz"]
    assert (report.errors, report.segments, report.resumed) == ({}, 8, 1)
    assert not (tmp_path / ".out.partial").exists()
    np.testing.assert_array_equal(segments(out), segments(whole))
    assert prepare(folder, out, processes=1).segments == 8


def test_the_work_is_kept_until_the_new_folder_is_there(folder, tmp_path, in_process, monkeypatch):
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        failing(patch, MemoryError())
        prepare(folder, out, processes=1)
    with monkeypatch.context() as patch:
        patch.setattr(replacing, "clear", lambda _: die())
        killed(lambda: prepare(folder, out, processes=1))
    assert prepare(folder, out, processes=1).segments == 8
    assert sorted(os.listdir(tmp_path)) == ["in", "out"]


def test_names_that_were_added_reach_the_processes(tmp_path, monkeypatch):
    ppg, ecg = windows(1, 3)
    save(tmp_path / "a.npz", ppg, ecg, optode=ppg[:, ::-1])
    monkeypatch.setitem(names.ADDED, "PPG", [])
    prepare(tmp_path / "a.npz", tmp_path / "before", processes=1)
    names.add_name("PPG", "opt*")
    report = prepare(tmp_path / "a.npz", tmp_path / "after", processes=1)
    assert (rows(tmp_path / "before")["a.npz"]["ppg"], rows(tmp_path / "after")["a.npz"]["ppg"]) == ("ppg", "optode")
    assert report.settings["names"] == {"PPG": ["opt*"], "ECG": []}
