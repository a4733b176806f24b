"""`embed_files` and `xmae-fast embed` with recordings of any format: mixed, with gaps, and with files that fail."""

from __future__ import annotations

import csv
import os

import numpy as np
import pytest

from tests.data.layouts import write_packed
from tests.embedding.conftest import pulses
from xmae_fast import embed_files, read_embeddings
from xmae_fast.cli import main
from xmae_fast.data import prepare
from xmae_fast.embedding import recording_source
from xmae_fast.recordings import RecordingError

FS = 64.0
OPTIONS = {"batch_size": 4, "part_rows": 4, "device": "cpu"}


def table(folder) -> dict[str, dict[str, str]]:
    with open(folder / "recordings.csv", newline="", encoding="utf-8") as file:
        return {row["recording"]: row for row in csv.DictReader(file)}


def write_csv(path, ppg, keep=slice(None), fs=FS):
    """A table of times and PPG, without the rows that `keep` leaves out."""
    rows = np.stack([np.arange(len(ppg)) / fs, ppg], 1)[keep]
    np.savetxt(path, rows, delimiter=",", header="time,ppg", comments="", fmt="%.9g")


@pytest.fixture
def mixed(tmp_path):
    """One PPG of 33 s at 64 Hz in every format, and a file that is no recording."""
    for package in ("pandas", "pyarrow", "wfdb", "pyedflib"):
        pytest.importorskip(package)
    import pandas
    import pyedflib
    import wfdb

    folder, ppg = tmp_path / "in", pulses(33, FS, seed=1)
    (folder / "p1").mkdir(parents=True)
    np.save(folder / "a.npy", ppg)
    np.savez(folder / "b.npz", PLETH=ppg, fs=FS)
    write_csv(folder / "p1" / "c.csv", ppg)
    pandas.DataFrame({"time": np.arange(len(ppg)) / FS, "ppg": ppg}).to_parquet(folder / "d.parquet")
    low, high = ppg.min(), ppg.max()
    wfdb.wrsamp("e", fs=FS, units=["NU"], sig_name=["PLETH"], p_signal=ppg[:, None], fmt=["24"], write_dir=str(folder))
    with pyedflib.EdfWriter(str(folder / "f.edf"), 1) as file:
        file.setSignalHeader(0, {
            "label": "Pleth", "dimension": "NU", "sample_frequency": FS, "physical_min": float(np.floor(low)),
            "physical_max": float(np.ceil(high)), "digital_min": -32768, "digital_max": 32767,
        })  # fmt: skip
        file.writeSamples([ppg])
    (folder / "notes.md").write_text("x")
    return folder


def test_every_format_gives_the_same_embeddings(model, mixed, tmp_path):
    report = embed_files(mixed, tmp_path / "out", model, fs=FS, **OPTIONS)
    assert (report.recordings, report.errors, report.complete) == (6, {}, True)
    found = read_embeddings(tmp_path / "out")
    assert found.subject.tolist() == [name for name in ("a", "b", "d", "e", "f", "p1/c") for _ in range(6)]
    assert len(set(found.key)) == 36
    by_file = found.embeddings.reshape(6, 6, -1)
    np.testing.assert_allclose(by_file[:, :5], by_file[:1, :5].repeat(6, 0), atol=2e-3)
    rows = table(tmp_path / "out")
    assert [rows[name]["channel"] for name in ("a.npy", "b.npz", "d.parquet", "e.hea", "f.edf", "p1/c.csv")] == [
        "", "PLETH", "ppg", "PLETH", "Pleth", "ppg",
    ]  # fmt: skip
    assert {row["windows"] for row in rows.values()} == {"6"}
    listed = [mixed / "p1", str(mixed / "?.np*")]
    report = embed_files(listed, tmp_path / "some", model, fs=FS, subject="folder", **OPTIONS)
    assert read_embeddings(tmp_path / "some").subject.tolist() == ["p1"] * 6 + ["in"] * 12


def test_little_memory_gives_the_same(model, tmp_path, monkeypatch):
    for number in range(4):
        np.savez(tmp_path / f"{number}.npz", ppg=pulses(16, FS, seed=number), fs=FS)
    embed_files(str(tmp_path / "*.npz"), tmp_path / "out", model, **OPTIONS)
    opened = []
    load = recording_source.open_signal
    monkeypatch.setattr(recording_source, "open_signal", lambda *x: (opened.append(x[0].name), load(*x))[1])
    monkeypatch.setattr(recording_source, "_BUDGET", 1 << 20)
    embed_files(str(tmp_path / "*.npz"), tmp_path / "small", model, **OPTIONS)
    assert opened == ["0.npz", "1.npz", "2.npz", "3.npz", "1.npz", "2.npz", "3.npz"]
    for name in ("part-00000.h5", "part-00002.h5", "recordings.csv", "embeddings.json"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "small" / name).read_bytes()


def test_gaps_are_left_out_and_keep_their_time(model, tmp_path):
    pytest.importorskip("pandas")
    ppg = pulses(60, FS, seed=3)
    there = np.ones(len(ppg), bool)
    there[round(12 * FS) : round(41 * FS)] = False
    write_csv(tmp_path / "gap.csv", ppg, there)
    report = embed_files(tmp_path / "gap.csv", tmp_path / "out", model, **OPTIONS)
    times = read_embeddings(tmp_path / "out").columns["time"]
    np.testing.assert_allclose(times, [0, 5, 40, 45, 50, 55])
    assert report.rejected == {
        "window without any sample": 5, "window that misses more than half of its samples": 1,
    }  # fmt: skip
    assert "1 of 6 windows are with missing samples" in report.describe()


def test_a_recording_that_failed_is_tried_again(model, tmp_path, capsys):
    pytest.importorskip("pandas")
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    model.save_pretrained(tmp_path / "model")
    for name in "abcd":
        write_csv(folder / f"{name}.csv", pulses(16, FS, seed=ord(name)))
    good = {name: (folder / f"{name}.csv").read_bytes() for name in "bc"}
    (folder / "b.csv").write_text("time,hr\n0,60\n1,60\n")
    (folder / "c.csv").write_text("time,hr\n0,60\n1,61\n")
    command = ["embed", str(folder), "-o", str(out), "-m", str(tmp_path / "model"), "--part-rows", "4"]
    assert main(command) == 1
    said = capsys.readouterr().out
    assert "failed: b.csv, c.csv: CSV: expected a channel with a name of PPG, found 'time', 'hr'" in said
    assert "2 of 4 recording(s) could not be embedded; the same command tries them again" in said
    assert "expected a channel" in table(out)["c.csv"]["error"]
    first = (out / "part-00000.h5").read_bytes()
    assert main(command) == 1
    assert "6 were there already" in capsys.readouterr().out
    before = read_embeddings(out)

    (folder / "c.csv").write_bytes(good["c"])
    options = {"part_rows": 4, "device": "cpu"}
    with pytest.raises(ValueError, match="recordings can be read now and could not before: the same command with one"):
        embed_files(folder, out, tmp_path / "model", rank=0, world_size=2, **options)
    assert main(command) == 1
    assert "5 embedded" in capsys.readouterr().out  # three of c, and two again in the part that was not full
    after = read_embeddings(out)
    assert after.subject.tolist() == ["a"] * 3 + ["d"] * 3 + ["c"] * 3
    np.testing.assert_array_equal(after.embeddings[:6], before.embeddings)
    assert (out / "part-00000.h5").read_bytes() == first

    (folder / "b.csv").write_bytes(good["b"])
    assert main(command) == 0
    assert read_embeddings(out).subject.tolist() == [name for name in "adcb" for _ in range(3)]
    assert main(command) == 0
    assert "12 were there already" in capsys.readouterr().out

    (folder / "a.csv").write_text("gone")
    assert main(command) == 1
    assert "(it could be read when these embeddings were begun)" in capsys.readouterr().err
    (folder / "e.csv").write_bytes(good["b"])
    (folder / "a.csv").write_bytes((folder / "d.csv").read_bytes())
    assert main(command) == 2
    assert "holds other embeddings (" in capsys.readouterr().err


def test_nothing_is_made_where_all_fail(model, tmp_path, capsys):
    model.save_pretrained(tmp_path / "model")
    for name in "abcde":
        np.save(tmp_path / f"{name}.npy", pulses(16, FS))
    command = ["embed", str(tmp_path), "-o", str(tmp_path / "out"), "-m", str(tmp_path / "model")]
    assert main(command) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert "none of 5 recordings could be embedded: a.npy, b.npy, c.npy and 2 more: " in said.err
    assert "--fs HZ says it" in said.err
    assert not (tmp_path / "out").exists()
    assert main([*command, "--fs", "64"]) == 0  # nothing that failed is in the way
    np.save(tmp_path / "matrix.npy", np.zeros((1000, 3)))
    with pytest.raises(RecordingError, match=r"matrix.npy: expected a recording in each row, .*--ppg NUMBER takes one"):
        embed_files(tmp_path / "matrix.npy", tmp_path / "no", model, fs=FS, **OPTIONS)


def test_upside_down_is_said_and_turned_round(model, tmp_path):
    ppg = pulses(16, FS, seed=4)
    for name, signal in (("up", ppg), ("down", -ppg), ("again", -ppg)):
        np.savez(tmp_path / f"{name}.npz", ppg=signal, fs=FS)
    paths = [tmp_path / f"{name}.npz" for name in ("up", "down", "again")]
    kept = embed_files(paths, tmp_path / "keep", model, **OPTIONS)
    assert sorted(kept.findings) == ["again.npz", "down.npz"]
    (line,) = (line for line in kept.describe().splitlines() if "falls faster" in line)
    assert line.startswith("note: down.npz, again.npz: signal: it falls faster than it rises")
    assert line.endswith("--polarity flip turns it round")
    with pytest.raises(ValueError, match="polarity: expected keep, auto, flip, got 'x'"):
        embed_files(paths, tmp_path / "x", model, polarity="x", **OPTIONS)
    embed_files(paths, tmp_path / "auto", model, polarity="auto", **OPTIONS)
    auto, keep = read_embeddings(tmp_path / "auto").embeddings, read_embeddings(tmp_path / "keep").embeddings
    np.testing.assert_allclose(auto[3:6], keep[:3], atol=1e-5)
    np.testing.assert_array_equal(auto[:3], keep[:3])
    assert [row["polarity"] for row in table(tmp_path / "auto").values()] == ["kept", "turned round", "turned round"]
    embed_files(paths, tmp_path / "flip", model, polarity="flip", **OPTIONS)
    np.testing.assert_allclose(read_embeddings(tmp_path / "flip").embeddings[3:6], keep[:3], atol=1e-5)


def test_names_stay_apart(model, tmp_path):
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
        np.save(tmp_path / folder / "a.npy", pulses(6, FS))
    np.savez(tmp_path / "x" / "a.npz", ppg=pulses(6, FS), fs=FS, subject="seven")
    report = embed_files([tmp_path / "x", tmp_path / "y"], tmp_path / "out", model, fs=FS, **OPTIONS)
    found = read_embeddings(tmp_path / "out")
    assert found.key.tolist() == ["x/a.npy+++0.000", "x/a.npz+++0.000", "y/a+++0.000"]
    assert found.subject.tolist() == ["x/a", "seven", "y/a"]
    assert "note: x/a.npy, x/a.npz: another file has the same name with another suffix" in report.describe()
    by_rule = embed_files([tmp_path / "x", tmp_path / "y"], tmp_path / "rule", model, fs=FS, subject="^.", **OPTIONS)
    assert by_rule.rows == 3
    assert read_embeddings(tmp_path / "rule").subject.tolist() == ["x", "x", "y"]


def test_names_that_are_no_utf_8(model, tmp_path, capsys):
    model.save_pretrained(tmp_path / "model")
    (tmp_path / "in").mkdir()
    try:
        for name in (b"M\xfcller.npz", b"good.npz"):
            np.savez(os.fsdecode(os.fsencode(tmp_path / "in") + b"/" + name), ppg=pulses(6, FS), fs=FS)
        with open(os.fsencode(tmp_path / "in") + b"/B\xe4r.npz", "wb") as file:
            file.write(b"x")
    except OSError:
        pytest.skip("this file system takes UTF-8 alone")
    arguments = ["embed", str(tmp_path / "in"), "-o", str(tmp_path / "out"), "-m", str(tmp_path / "model")]
    assert main(arguments) == 1
    assert "failed: B\\xe4r.npz: " in capsys.readouterr().out
    assert read_embeddings(tmp_path / "out").subject.tolist() == ["M\\xfcller", "good"]
    assert sorted(table(tmp_path / "out")) == ["B\\xe4r.npz", "M\\xfcller.npz", "good.npz"]
    assert main(arguments) == 1
    assert "2 were there already" in capsys.readouterr().out


def test_shards_and_recordings_are_told_apart(model, packed, tmp_path):
    import h5py

    np.save(tmp_path / "a.npy", pulses(6, FS))
    write_packed(tmp_path / "raw.h5", np.random.default_rng(0).normal(2000, 30, (2, 4, 500)))
    with pytest.raises(ValueError, match=r"got both: .*raw.h5 is a shard, and .*a.npy is a recording"):
        embed_files(tmp_path, tmp_path / "out", model, **OPTIONS)
    report = embed_files(tmp_path / "raw.h5", tmp_path / "rated", model, fs=100, **OPTIONS)  # raw, and at this rate
    assert report.rows == 4
    assert "raw.h5" in report.describe()
    with pytest.warns(UserWarning, match=r"segments: expected values scaled to \[-1, 1\] per segment"):
        report = embed_files(tmp_path / "raw.h5", tmp_path / "raw", model, **OPTIONS)
    assert "note: raw.h5: segments: expected values scaled to [-1, 1]" in report.describe()
    for option in ({"ppg": "x"}, {"polarity": "auto"}, {"time": "none"}):
        (name,) = option
        with pytest.raises(ValueError, match=rf"{name}: expected \w+ with shards"):
            embed_files(packed, tmp_path / "no", model, **option, **OPTIONS)
    (tmp_path / "empty").mkdir()
    with pytest.raises(
        ValueError, match=r"paths: expected shards or recordings \(.h5, .hdf5, .*in .*empty, found none"
    ):
        embed_files(tmp_path / "empty", tmp_path / "no", model, **OPTIONS)
    with h5py.File(tmp_path / "long.h5", "w") as file:
        file["ppg"] = pulses(60, FS)
    with pytest.raises(ValueError, match="long.h5"):
        embed_files(tmp_path / "long.h5", tmp_path / "no", model, **OPTIONS)


def test_what_earlier_commands_wrote_is_no_recording(model, tmp_path):
    ppg = pulses(33, FS, seed=1)
    (tmp_path / "in").mkdir()
    write_csv(tmp_path / "in" / "a.csv", ppg)
    assert prepare(tmp_path / "in", tmp_path / "shards", signals="ppg", window_s=5, processes=1).segments == 6
    for number, paths in enumerate((tmp_path / "shards", tmp_path / "shards" / "*")):
        assert embed_files(paths, tmp_path / f"out{number}", model, **OPTIONS).rows == 6
    for _ in range(2):
        report = embed_files(tmp_path / "in", tmp_path / "in" / "out", model, file_format="npy", **OPTIONS)
        assert (report.recordings, len(report.errors)) == (1, 0)
    assert prepare(tmp_path / "in", tmp_path / "again", signals="ppg", processes=1).recordings == 1


def test_times_and_masks_beside_an_array_count(model, tmp_path):
    """A gap that the times of an .npz tell, and masked samples, are missing here as they are for prepare."""
    signal = pulses(40, FS)
    seconds = np.arange(len(signal)) / FS
    gap = (seconds >= 10) & (seconds < 20)
    np.savez(tmp_path / "gap.npz", ppg=signal[~gap], time=seconds[~gap], fs=FS)
    np.savez(tmp_path / "mask.npz", ppg=signal, mask=gap, fs=FS)
    for name in ("gap", "mask"):
        embed_files(tmp_path / f"{name}.npz", tmp_path / name, model, **OPTIONS)
        found = read_embeddings(tmp_path / name)
        assert found.columns["time"].tolist() == [5.0 * k for k in range(8)]
        assert np.isnan(found.embeddings).any(1).tolist() == [k in (2, 3) for k in range(8)]
