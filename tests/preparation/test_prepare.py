"""Shards and tables of recordings of every format."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path

import h5py
import numpy as np
import pytest

from benchmarks.studies.recording_files import FS, continuous, windows, write_csv, write_edf, write_mat, write_wfdb
from xmae_fast.cli import main
from xmae_fast.data import SegmentLoader, apply_recipe, prepare, read_index, repack, verify_packed


@pytest.fixture(scope="module")
def optional():
    for package in ("pandas", "pyarrow", "wfdb", "pyedflib"):
        pytest.importorskip(package)


@pytest.fixture(scope="module")
def signal():
    return continuous()


def rows(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def of_source(out: Path, name: str) -> tuple[np.ndarray, np.ndarray]:
    """The segments of one recording in a packed shard."""
    with h5py.File(out / "data_0000.h5") as file:
        mine = file["source"][()] == file["sources"].asstr()[()].tolist().index(name)
        return file["ppg"][mine], file["ecg"][mine]


def test_every_format_gives_the_same_segments(optional, signal, tmp_path):
    import pandas

    ppg, ecg = signal
    folder = tmp_path / "in"
    (folder / "p1").mkdir(parents=True)
    write_csv(folder / "a.csv", ppg, ecg)
    write_csv(folder / "p1" / "b.csv.gz", ppg, ecg)
    write_csv(folder / "gap.csv", ppg, ecg, drop=slice(1300, 1700))
    write_wfdb(folder, "c", ppg[::2], ecg)
    write_edf(folder / "d.edf", ppg, ecg, FS, FS)
    np.savez(folder / "e.npz", ppg=ppg, ecg=ecg, fs=FS, subject="seven")
    np.savez(folder / "f.npz", PLETH=ppg.reshape(4, -1), ecg=ecg.reshape(4, -1), ppg_fs=FS, ecg_fs=FS)
    np.save(folder / "g.npy", np.rec.fromarrays([ppg, ecg], names=["ppg", "ecg"]))
    pandas.DataFrame({"SNUADC/PLETH": ppg, "SNUADC/ECG_II": ecg, "Solar8000/PLETH_HR": 1.0}).to_parquet(
        folder / "h.parquet"
    )
    (folder / "notes.txt").write_text("x")
    heard = []
    report = prepare(folder, tmp_path / "out", fs=FS, processes=2, progress=lambda *told: heard.append(told))
    assert report.errors == {}
    assert report.ignored == {".txt": 1}
    assert (report.recordings, report.segments, report.subjects) == (9, 4 * 9 - 1, 9)
    assert report.rejected == {"missing ppg": 1}
    assert ("recordings", 9, 9) in heard
    cut = [x.reshape(4, -1) for x in signal]
    expected = apply_recipe(*cut, ppg_fs=FS, ecg_fs=FS)
    for name in ("a.csv", "p1/b.csv.gz", "d.edf", "e.npz", "f.npz", "g.npy", "h.parquet"):
        tolerance = 2e-3 if name == "d.edf" else 5e-4  # of EDF's 16 bits
        for found, wanted in zip(of_source(tmp_path / "out", name), (expected.ppg, expected.ecg), strict=True):
            np.testing.assert_allclose(found.astype(float), wanted.astype(float), rtol=0, atol=tolerance)
    gap = of_source(tmp_path / "out", "gap.csv")[0]
    np.testing.assert_allclose(gap.astype(float), expected.ppg[[0, 2, 3]].astype(float), rtol=0, atol=5e-4)
    half = apply_recipe(cut[0][:, ::2], cut[1], ppg_fs=FS / 2, ecg_fs=FS)
    for found, wanted in zip(of_source(tmp_path / "out", "c.hea"), (half.ppg, half.ecg), strict=True):
        np.testing.assert_allclose(found.astype(float), wanted.astype(float), rtol=0, atol=2e-3)
    by_name = {row["source"]: row for row in rows(tmp_path / "out" / "records.csv")}
    assert by_name["c.hea"] | {"ppg": "Pleth", "ecg": "II", "ppg_fs": "62.5", "ecg_fs": "125.0"} == by_name["c.hea"]
    assert by_name["e.npz"]["subjects"] == "data_seven"
    assert by_name["p1/b.csv.gz"]["subjects"] == "data_p1-b"
    [rejected] = rows(tmp_path / "out" / "rejected.csv")
    assert rejected | {"source": "gap.csv", "start_s": "10.0", "reason": "missing ppg", "win_id": "2"} == rejected


@pytest.fixture
def pulsedb(tmp_path):
    """Two .mat files of 5 windows, one of them constant, of subjects p000160 and p000188."""
    ppg, ecg = windows(2, 5)
    ecg[3] = 0.25
    folder = tmp_path / "PulseDB"
    folder.mkdir()
    for i, subject in enumerate(("p000160", "p000188")):
        write_mat(folder / f"{subject}.mat", ppg[5 * i : 5 * i + 5], ecg[5 * i : 5 * i + 5], subject)
    return folder, ppg, ecg


def test_pulsedb_in_both_layouts(pulsedb, tmp_path, in_process):
    folder, ppg, ecg = pulsedb
    report = prepare(folder, tmp_path / "packed", dataset="mimic", segments_per_shard=6, processes=1)
    assert report.shards == ["mimic_0000.h5", "mimic_0001.h5"]
    assert (report.segments, report.rejected, report.subjects) == (9, {"constant ecg": 1}, 2)
    assert len(verify_packed(tmp_path / "packed" / "mimic_0000.h5")) > 2
    expected = apply_recipe(ppg, ecg, ppg_fs=FS, ecg_fs=FS)
    good = expected.reason == ""
    with h5py.File(tmp_path / "packed" / "mimic_0000.h5") as file:
        np.testing.assert_array_equal(file["ppg"], expected.ppg[good][:6])
        np.testing.assert_array_equal(file["ecg_quality"], expected.ecg_quality[good][:6])
        np.testing.assert_array_equal(file["start_s"], [0, 10, 20, 40, 0, 10])
        key = file["key"][3].decode()
        assert key.startswith("mimic_p000160/0003+++3+++5+++11+++")
        assert json.loads(file.attrs["versions"])["equivalent"] == "neurokit2 0.2.13"
        assert json.loads(file.attrs["recipe"])["recipe"] == "batched"
        assert file["sources"].asstr()[()].tolist() == ["p000160.mat", "p000188.mat"]
        assert file["sources_ecg_fs"][()].tolist() == [125, 125]
    prepare(folder, tmp_path / "published", dataset="mimic", layout="published", processes=1)
    shard = tmp_path / "published" / "mimic_0000.h5"
    records = read_index(shard)
    assert records[3].key == key.split("/")[1]
    with np.load(shard.with_suffix(".provenance.npz")) as provenance:
        assert provenance["key"][3] == key
        assert provenance["start_s"][3] == 40
    options = {"quality": 0, "shuffle": False}
    shards = [tmp_path / "packed" / name for name in report.shards]
    one, other = (next(iter(SegmentLoader(paths, 9, **options))) for paths in (shards, shard))
    assert one["ppg"].equal(other["ppg"])
    repack(shards, tmp_path / "all.h5")
    with h5py.File(tmp_path / "all.h5") as file:
        assert key in file["key"].asstr()[()].tolist()


def test_quality_threshold_and_subject_rules(pulsedb, tmp_path, in_process):
    folder, ppg, ecg = pulsedb
    expected = apply_recipe(ppg, ecg, ppg_fs=FS, ecg_fs=FS)
    files = [folder / "p000160.mat", folder / "p000188.mat"]
    report = prepare(files, tmp_path / "out", quality=(-1, 0.95), subject=r"p0+(\d+)", processes=1)
    below = (expected.ecg_quality < 0.95) & (expected.reason == "")
    assert 0 < below.sum() < 9
    assert report.rejected == {"constant ecg": 1, "ecg quality": int(below.sum())}
    with h5py.File(tmp_path / "out" / "data_0000.h5") as file:
        assert file["subjects"].asstr()[()].tolist() == ["data_160", "data_188"]
        assert (file["ecg_quality"][()] >= 0.95).all()
    rejected = [row for row in rows(tmp_path / "out" / "rejected.csv") if row["reason"] == "ecg quality"]
    np.testing.assert_allclose([float(row["ecg_quality"]) for row in rejected], expected.ecg_quality[below])


def test_malformed_files_are_named_and_stop_nothing(optional, signal, pulsedb, tmp_path, capfd):
    ppg, ecg = signal
    mat = (pulsedb[0] / "p000160.mat").read_bytes()
    folder = tmp_path / "in"
    folder.mkdir()
    write_csv(folder / "good.csv", ppg, ecg)
    write_csv(folder / "whole.csv.gz", ppg, ecg)
    write_wfdb(folder, "cut", ppg[::2], ecg)
    write_edf(folder / "cut.edf", ppg, ecg, FS, FS)
    for name, content in {
        "cut.mat": mat[: len(mat) // 3],
        "no_hdf5.mat": b"MATLAB 5.0 MAT-file",
        "cut.csv.gz": (folder / "whole.csv.gz").read_bytes()[:5000],
        "words.csv": b"time,ppg,ecg\n0,1,2\n0.01,x,3\n",
        "ragged.csv": b"t,ppg,ecg\n0,1,2\n1,2,3,4,5\n",
        "empty.csv": b"",
        "names.csv": b"a,b\n1,2\n",
        "back.csv": b"time_s,ppg,ecg\n0,1,2\n9,1,2\n0.5,1,2\n",
        "short.csv": b"t,ppg,ecg\n0,1,2\n0.01,1,2\n0.02,1,2\n",
        "no.npz": b"PK\x03\x04 no",
        "no.npy": b"\x93NUMPY no",
        "no.parquet": b"PAR1",
        "no.hea": b"\x00\x01 what\n",
        "empty.hea": b"",
        "no.edf": b"0" * 300,
    }.items():
        (folder / name).write_bytes(content)
    os.truncate(next(folder.glob("cut*.dat")), 100)
    os.truncate(folder / "cut.edf", 700)
    with h5py.File(folder / "fields.mat", "w") as file:
        file["Subj_Wins/PPG_Raw"] = np.zeros((1250, 2))
    np.savez(folder / "pickled.npz", ppg=np.array([{}]), ecg=np.zeros(10))
    np.savez(folder / "no_rate.npz", ppg=ppg, ecg=ecg)
    np.savez(folder / "slow.npz", ppg=ppg, ecg=ecg, fs=15)
    assert main(["prepare", str(folder), "-o", str(tmp_path / "out"), "--processes", "1"]) == 1
    report = json.loads((tmp_path / "out" / "prepare.json").read_text())
    good = {"good.csv", "whole.csv.gz", *(path.name for path in folder.glob("cut*.dat"))}
    bad = {path.name for path in folder.iterdir()} - good
    assert set(report["errors"]) == bad
    assert report["segments"] == 8
    for name, text in {
        "no_hdf5.mat": "MATLAB: expected a MATLAB file of version 4, 5 or 7.3",
        "fields.mat": "MATLAB: expected a channel with a name of ECG, found 'PPG_Raw'",
        "words.csv": "CSV: ",
        "names.csv": "CSV: expected a channel with a name of PPG, found 'a', 'b'; --ppg NAME or NUMBER",
        "back.csv": "time: expected rising numbers, but row 3 of 3 goes back by 8.5 s",
        "short.csv": "expected at least one window of 10 s, the signals last 0.03 s",
        "cut.csv.gz": "CSV: expected a readable file (EOFError",
        "no_rate.npz": "NumPy: expected the sampling rate",
        "slow.npz": "ppg_fs: expected more than 16 Hz, twice the upper end of the band-pass, got 15 Hz",
    }.items():
        assert report["errors"][name].startswith(f"{folder / name}: ")
        assert text in report["errors"][name]
    printed = capfd.readouterr().out
    groups = [line for line in printed.splitlines() if line.startswith("failed: ") and " recordings: " in line]
    [group] = [line for line in groups if "at least one window" in line]
    assert "failed: 3 recordings: CSV: expected at least one window of 10 s, the signals last " in group
    assert group.endswith(" s: ragged.csv, short.csv and 1 more (records.csv)")
    grouped = {"words.csv"} | {name for line in groups for name in bad if name in line}
    alone = [error for name, error in report["errors"].items() if name not in grouped]
    assert all(f"failed: {error}" in printed for error in alone)
    told = {row["source"]: row["error"] for row in rows(tmp_path / "out" / "records.csv")}
    assert {name for name, error in told.items() if error} == bad


def test_bad_arguments(pulsedb, tmp_path, monkeypatch):
    folder, out = pulsedb[0], tmp_path / "out"
    for options, text in (
        ({"recipe": "x"}, "recipe: expected one of"),
        ({"dataset": "a_b"}, "dataset: expected a name without"),
        ({"subject": "("}, "subject: expected 'name', 'folder' or a regular expression"),
        ({"window_s": 1}, "window_s: expected a number from 4"),
        ({"quality": "x"}, "quality: expected a number or a pair"),
        ({"layout": "x"}, "layout: expected one of"),
        ({"segments_per_shard": 0}, "segments_per_shard: expected at least 1"),
        ({"processes": 0}, "processes: expected at least 1"),
    ):
        with pytest.raises(ValueError, match=text):
            prepare(folder, out, **options)
    with pytest.raises(FileNotFoundError, match="found nothing at"):
        prepare(tmp_path / "none", out)
    (tmp_path / "x.txt").write_text("x")
    with pytest.raises(ValueError, match=r"inputs: expected a recording \(.mat"):
        prepare(tmp_path / "x.txt", out)
    out.mkdir()
    (out / "mine").write_text("x")
    with pytest.raises(FileExistsError, match="is not what this call makes"):
        prepare(folder, out)
    monkeypatch.setitem(__import__("sys").modules, "neurokit2", None)
    with pytest.raises(ImportError, match=r'recipe="neurokit2" needs neurokit2: pip install "xmae_fast\[neurokit2\]"'):
        prepare(folder, tmp_path / "new", recipe="neurokit2")
    assert not list(tmp_path.glob(".*.partial"))


@pytest.mark.skipif("XMAE_FAST_REAL_RAW" not in os.environ, reason="XMAE_FAST_REAL_RAW names no folder of recordings")
def test_real_recordings(optional, tmp_path, capsys):
    """A CSV file of BIDMC and a WFDB record with several rates; the CSV is compared with another shard."""
    raw = Path(os.environ["XMAE_FAST_REAL_RAW"])
    bidmc, wave = str(raw / "bidmc_01_Signals.csv.gz"), str(raw / "mixedsignals.hea")
    out = tmp_path / "bidmc"
    assert main(["prepare", bidmc, "-o", str(out), "--dataset", "bidmc", "--subject", r"bidmc_(\d+)"]) == 0
    assert main(["prepare", wave, "-o", str(tmp_path / "wave"), "--dataset", "wave"]) == 0
    assert "1 missing ppg" in capsys.readouterr().out
    [record] = rows(tmp_path / "wave" / "records.csv")
    assert (record["ppg_fs"], record["ecg_fs"], record["segments"]) == ("124.945", "249.89", "22")
    if "XMAE_FAST_REAL_DATA" not in os.environ:
        pytest.skip("prepared; XMAE_FAST_REAL_DATA names no shard to compare with")
    with h5py.File(out / "bidmc_0000.h5") as found, h5py.File(os.environ["XMAE_FAST_REAL_DATA"]) as expected:
        keys = found["key"].asstr()[()].tolist()
        assert keys == [f"bidmc_01/{key}" for key in expected["bidmc_01"]]
        for i, key in enumerate(keys):
            for column, name in ((1, "ppg"), (2, "ecg")):
                wanted = expected[key][:, column].astype(float)
                np.testing.assert_allclose(found[name][i].astype(float), wanted, rtol=0, atol=1e-3)
