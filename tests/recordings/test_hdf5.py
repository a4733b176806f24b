"""Recordings in HDF5 files, and shards, which are none."""

from __future__ import annotations

import h5py
import numpy as np
import pytest

from benchmarks.studies.recording_files import FS, continuous
from xmae_fast.cli import main
from xmae_fast.data import Reading, RecordingError, prepare, read_recording
from xmae_fast.recordings.formats.hdf5 import is_recording, looks_raw
from xmae_fast.recordings.sources import find_sources

PPG, ECG = continuous(40)


def write(path, content, attributes=()):
    with h5py.File(path, "w") as file:
        for name, value in content.items():
            file[name] = value
        for place, name, value in attributes:
            file[place].attrs[name] = value


@pytest.mark.parametrize("rate", ["data set", "attribute of the file", "of the signal", "of the group", "times"])
@pytest.mark.parametrize("group", ["", "a/b/"])
@pytest.mark.parametrize("column", [False, True])
def test_recordings(rate, group, column, tmp_path):
    path, shape = tmp_path / "x.h5", (-1, 1) if column else (-1,)
    content = {f"{group}ppg": PPG.reshape(shape), f"{group}ecg": ECG.reshape(shape), "id": "p", "note": b"x"}
    attributes = []
    if rate == "data set":
        content[f"{group}fs"] = FS
    elif rate == "times":
        content[f"{group}time"] = np.arange(len(PPG)) / FS
    else:
        owners = {"attribute of the file": ["/"], "of the group": [group or "/"]}.get(rate, [])
        owners = owners or [f"{group}ppg", f"{group}ecg"]
        attributes = [(owner, "sampling_rate", float(FS)) for owner in owners]
    write(path, content, [*attributes, ("/", "subject", "p7")])
    found = read_recording(path)
    np.testing.assert_array_equal(found.ppg.values, PPG[None])
    np.testing.assert_array_equal(found.ecg.values, ECG[None])
    assert (found.ppg.fs, found.ecg.fs, found.ppg.name) == (FS, FS, f"{group}ppg")
    assert list(found.subjects) == ["p7"]
    assert is_recording(path)


def test_tables_and_other_data_sets(tmp_path):
    table = np.zeros(len(PPG), [("time", "f8"), ("PLETH", "f4"), ("II", "f8"), ("word", "S3")])
    table["time"], table["PLETH"], table["II"] = np.arange(len(PPG)) / FS, PPG, ECG
    write(tmp_path / "x.hdf5", {"t": table, "e": np.zeros((3, 4, 5)), "c": np.zeros(99, complex)})
    found = read_recording(tmp_path / "x.hdf5")
    np.testing.assert_array_equal(found.ecg.values, ECG[None])
    assert (found.ppg.name, found.ppg.fs) == ("t/PLETH", FS)
    write(tmp_path / "x.hdf5", {"e": np.zeros((3, 4, 5))})
    with pytest.raises(RecordingError, match=r"x\.hdf5: HDF5: expected a signal, .* found e: 3x4x5 numbers"):
        read_recording(tmp_path / "x.hdf5")
    (tmp_path / "x.hdf5").write_bytes(b"no")
    with pytest.raises(RecordingError, match=r"HDF5: expected an HDF5 file that is whole \(file signature not found\)"):
        read_recording(tmp_path / "x.hdf5")


def test_windows_that_look_raw(tmp_path):
    path = tmp_path / "x.h5"
    windows = PPG.reshape(4, -1)
    scaled = 2 * (windows - windows.min(1)[:, None]) / np.ptp(windows, axis=1)[:, None] - 1
    for ppg, ecg, sentence in (
        (scaled, scaled, ""),
        (scaled.astype(np.float16), scaled.astype(np.float16), ""),
        (windows + 2000, scaled, "ppg has values from 2000"),
        (scaled, windows * 5, "ecg has values from"),
        (scaled / 2 + 0.5, scaled, "prepared segments reach from -1 to 1 each"),
        (PPG, ECG, "ppg is a recording of 5,000 samples in one piece"),
    ):
        write(path, {"ppg": ppg, "ecg": ecg})
        assert sentence in looks_raw(path)
        assert bool(looks_raw(path)) == bool(sentence) == is_recording(path)
    write(path, {"ppg": windows + 2000, "ecg": windows})
    found = read_recording(path, Reading(fs=FS))
    np.testing.assert_array_equal(found.ppg.values, windows + 2000)
    path.write_bytes(b"")
    assert looks_raw(path) == ""


@pytest.mark.parametrize("layout", ["packed", "published"])
def test_shards_in_a_folder_are_set_aside(layout, tmp_path, capsys):
    folder = tmp_path / "in"
    folder.mkdir()
    write(folder / "rec.h5", {"ppg": PPG, "ecg": ECG, "fs": FS})
    write(folder / "embeddings.h5", {"embedding": np.zeros((99, 70)), "ppg_quality": np.zeros(99)})
    report = prepare(folder, tmp_path / "first", layout=layout, processes=1)
    assert report.segments == 4
    shard = tmp_path / "first" / report.shards[0]
    (folder / "old.h5").write_bytes(shard.read_bytes())
    sources, aside = find_sources(folder)
    assert ([source.name for source in sources], dict(aside)) == (["rec.h5"], {".h5 (shards or others)": 2})
    assert looks_raw(shard) == ""
    assert main(["prepare", str(shard), "-o", str(tmp_path / "second"), "--processes", "1"]) == 1
    assert "expected a recording, found a shard, whose segments are prepared already" in capsys.readouterr().out
