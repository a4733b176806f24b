"""Shards of PPG alone, from recordings with and without ECG to embeddings."""

from __future__ import annotations

import csv
import json

import h5py
import numpy as np
import pytest

from benchmarks.studies.recording_files import FS, continuous
from xmae_fast.cli import main
from xmae_fast.data import SegmentLoader, apply_recipe, parse_key, prepare, verify_packed
from xmae_fast.preparation.arguments import check_settings
from xmae_fast.preparation.making import make_part
from xmae_fast.preparation.parts import load_part
from xmae_fast.recordings.reading import Reading
from xmae_fast.recordings.sources import find_sources


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    """A folder with a recording of PPG alone at 64 Hz, and one of PPG and ECG at 125 Hz."""
    ppg, ecg = continuous()
    folder = tmp_path_factory.mktemp("recordings")
    t = np.arange(40 * 64) / 64
    np.savez(folder / "a.npz", ppg=np.interp(t, np.arange(len(ppg)) / FS, ppg), fs=64)
    np.savez(folder / "b.npz", ppg=ppg, ecg=ecg, fs=FS)
    return folder


@pytest.fixture(scope="module")
def made(recordings, tmp_path_factory):
    out = tmp_path_factory.mktemp("made") / "out"
    return out, prepare(recordings, out, signals="ppg", processes=1)


def test_shards_of_ppg_alone(recordings, made):
    out, report = made
    assert report.errors == {}
    assert (report.segments, report.rejected) == (8, {})
    assert 0 < report.usable <= 8
    assert "quality of the PPG at least 0.9" in report.describe()
    shard = out / "data_0000.h5"
    assert {"ppg", "ppg_quality", "key"} <= set(verify_packed(shard))
    with np.load(recordings / "a.npz") as a, np.load(recordings / "b.npz") as b:
        expected = [apply_recipe(x["ppg"].reshape(4, -1), ppg_fs=float(x["fs"])) for x in (a, b)]
        with_ecg = apply_recipe(b["ppg"].reshape(4, -1), b["ecg"].reshape(4, -1), ppg_fs=FS, ecg_fs=FS)
    with h5py.File(shard) as file:
        assert not {name for name in file if "ecg" in name}
        assert (file.attrs["signals"], file.attrs["format_version"]) == ("ppg", 2)
        assert file.attrs["format"] == "xmae_fast packed"
        np.testing.assert_array_equal(file["ppg"], np.concatenate([x.ppg for x in expected]))
        np.testing.assert_array_equal(file["ppg"][4:], with_ecg.ppg)
        np.testing.assert_array_equal(file["ppg_quality"], np.concatenate([x.ppg_quality for x in expected]))
        assert file["sources_ppg_fs"][()].tolist() == [64, 125]
        key = parse_key(file["key"][0].decode().split("/")[1])
    assert key.ppg_quality == expected[0].ppg_quality[0]
    assert np.isnan(key.ecg_quality)
    with open(out / "records.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(row["source"], row["ppg"], row["ecg"], row["ppg_fs"], row["ecg_fs"]) for row in rows] == [
        ("a.npz", "ppg", "", "64.0", ""),
        ("b.npz", "ppg", "", "125.0", ""),
    ]


def test_a_finished_call_is_done(recordings, made):
    out, report = made
    again = prepare(recordings, out, signals="ppg", processes=1)
    assert (again.segments, again.seconds) == (report.segments, 0)
    with pytest.raises(FileExistsError, match="is not what this call makes"):
        prepare(recordings, out, processes=1)


def test_command_line(recordings, made, tmp_path, capsys, in_process):
    out = made[0]
    assert main(["prepare", str(recordings), "-o", str(tmp_path / "out"), "--signals", "ppg", "--processes", "1"]) == 0
    for name in ("data_0000.h5", "records.csv", "rejected.csv"):
        assert (tmp_path / "out" / name).read_bytes() == (out / name).read_bytes()
    with pytest.raises(ValueError, match="layout: expected 'packed' for PPG alone, .* got 'published'"):
        prepare(recordings, tmp_path / "p", signals="ppg", layout="published")
    with pytest.raises(ValueError, match="signals: expected one of 'both', 'ppg', got 'ecg'"):
        prepare(recordings, tmp_path / "p", signals="ecg")
    assert main(["prepare", str(recordings), "-o", str(tmp_path / "both"), "--processes", "1"]) == 1
    assert list(json.loads((tmp_path / "both" / "prepare.json").read_text())["errors"]) == ["a.npz"]


def test_notes_on_rates(recordings, tmp_path, in_process):
    """Rates that differ are noted where the recipe shifts signals; low rates of the ECG are noted."""
    with np.load(recordings / "b.npz") as stored:
        ppg, ecg = stored["ppg"], stored["ecg"]
    np.savez(tmp_path / "half.npz", ppg=ppg[::2], ecg=ecg, ppg_fs=FS / 2, ecg_fs=FS)
    np.savez(tmp_path / "slow.npz", ppg=ppg[::5], ecg=ecg[::5], fs=25)

    def notes(name: str, recipe: str = "batched") -> list[str]:
        settings = check_settings("d", recipe, Reading(), "keep", "name", 10.0, None, 100.0, None, 0.05)
        [source], _ = find_sources([str(tmp_path / name)])
        make_part(source, settings, "x", tmp_path / "part.npz")
        part = load_part(tmp_path / "part.npz", "x")
        assert part is not None
        return part.about["notes"]

    assert notes("half.npz") == []
    pytest.importorskip("neurokit2")
    [note] = notes("half.npz", "neurokit2")
    assert "PPG at 62.5 Hz and ECG at 125 Hz: the recipe neurokit2 shifts them against each other by up to 8 ms" in note
    [note] = notes("slow.npz")
    assert note.startswith("ECG at 25 Hz: below 50 Hz samples miss R peaks")


def test_loader(made):
    loader = SegmentLoader(made[0], 4, signals="ppg", quality=-1, shuffle=False)
    batches = list(loader)
    assert [set(batch) for batch in batches] == [{"ppg", "subject"}] * 2
    assert loader.subjects == ["data_a", "data_b"]
    with h5py.File(made[0] / "data_0000.h5") as file:
        stored = file["ppg"][()].astype(np.float32)
    found = np.concatenate([batch["ppg"].numpy() for batch in batches])
    np.testing.assert_allclose(found, stored, atol=2e-3)
    with pytest.raises(ValueError, match=r'shard .*data_0000.h5: expected PPG and ECG, .*signals="ppg" reads'):
        SegmentLoader(made[0], 4)
