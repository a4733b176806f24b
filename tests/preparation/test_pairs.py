"""Recordings whose PPG and ECG are in two files."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest

from xmae_fast.cli import main
from xmae_fast.data import prepare
from xmae_fast.recordings import Channel, Reading, Recording, RecordingError, Stretches, find_sources
from xmae_fast.recordings.pairs import _joined, pair_sources, read_source


def names(folder) -> list[tuple[str, str, bool]]:
    return [(s.stem, s.ecg.rpartition("/")[2], bool(s.problem)) for s in pair_sources(find_sources(folder)[0])]


def test_which_files_are_pairs(tmp_path):
    (tmp_path / "b").mkdir()
    for name in ("s01_PPG.csv", "s01 ecg.npz", "b/bvp.csv", "b/EKG.csv", "both_ppg_ecg.npz", "x.npz", "3-pleth.csv",
                 "4ppg.csv", "4_ppg.npz", "4_ecg.csv"):  # fmt: skip
        (tmp_path / name).touch()
    assert names(tmp_path) == [
        ("3-pleth", "", True),
        ("4_ecg", "", True),
        ("4_ppg", "", True),
        ("4ppg", "", True),
        ("b/bvp", "EKG.csv", False),
        ("both_ppg_ecg", "", False),
        ("s01", "s01 ecg.npz", False),
        ("x", "", False),
    ]


def two(ppg_start: str, ecg_start: str, ppg_fs=50.0, ecg_fs=250.0, seconds=60) -> tuple[Recording, Recording]:
    """Two recordings whose samples are their times in seconds from the start of the PPG."""
    one = Recording(Channel("ppg", (np.arange(seconds * ppg_fs) / ppg_fs)[None], ppg_fs), start=ppg_start, form="CSV")
    ecg = Channel("ecg", (np.arange(seconds * ecg_fs) / ecg_fs)[None], ecg_fs)
    return one, Recording(None, ecg, start=ecg_start, form="CSV")


@pytest.mark.parametrize("ecg_start", ["2024-02-05T10:00:07.013000", "2024-02-05T09:59:52.995000"])
@pytest.mark.parametrize("rates", [(50.0, 250.0), (250.0, 64.0)])
def test_a_pair_begins_with_the_later_start(ecg_start, rates):
    one, other = two("2024-02-05T10:00:00", ecg_start, *rates)
    offset = 7.013 if "07.0" in ecg_start else -7.005
    both = _joined(one, other, "e.csv")
    begin_ppg, begin_ecg = both.ppg.values[0, 0], both.ecg.values[0, 0] + offset
    assert abs(begin_ppg - begin_ecg) <= 0.5 / max(rates) + 1e-6
    assert max(offset, 0) <= min(begin_ppg, begin_ecg) + 0.5 / max(rates)
    assert begin_ppg < max(offset, 0) + 1 / min(rates) + 0.5 / max(rates)
    assert both.start.startswith("2024-02-05T10:00:0" + ("7" if offset > 0 else "0"))
    assert f"the ECG starts {offset:g} s after the PPG" in both.notes[-1]


def test_gaps_stay_where_they_are():
    one, other = two("2024-02-05T10:00:00", "2024-02-05T10:00:30")
    values = one.ppg.values[0]
    one.ppg.values = Stretches([0, 1000, 2000], [values[:500], values[1000:1600], values[2000:]])
    both = _joined(one, other, "e.csv")
    np.testing.assert_array_equal(both.ppg.values.cut(np.array([0]), 1500)[0, :100], values[1500:1600])
    assert np.isnan(both.ppg.values.cut(np.array([100]), 400)).all()
    assert both.ppg.values.size == 1500


def test_wrong_pairs_are_refused():
    for starts, subjects, message in (
        (("2024-02-05T10:00:00", "2024-02-05T10:05:00"), ([], []), "of the same time, one ends 240 s before"),
        (("", ""), (["a"], ["b"]), "expected one subject in both files of a pair, found a and b"),
    ):  # fmt: skip
        one, other = two(*starts)
        one.subjects, other.subjects = subjects
        with pytest.raises(ValueError, match=message):
            _joined(one, other, "e.csv")
    one, other = two("", "2024-02-05T10:00:00")
    both = _joined(one, other, "e.csv")
    assert both.notes[-1] == "the file of the PPG states no date and time: PPG and ECG are taken to start together"
    one, other = two("2024-02-05T10:00:00", "2024-02-05T10:00:00+01:00")
    assert "one of the files states its time zone" in _joined(one, other, "e.csv").notes[-1]


def test_prepare_takes_pairs_and_says_which_files_have_no_partner(tmp_path, capsys):
    pytest.importorskip("scipy")
    from benchmarks.studies.recording_files import FS, continuous

    ppg, ecg = continuous()
    folder = tmp_path / "in"
    folder.mkdir()
    np.savez(folder / "s1_ppg.npz", ppg=ppg, fs=FS)
    np.savez(folder / "s1_ecg.npz", ecg=ecg, fs=FS)
    np.savez(folder / "s2_ecg.npz", ecg=ecg, fs=FS)
    np.savez(tmp_path / "one.npz", ppg=ppg, ecg=ecg, fs=FS)
    arguments = ["prepare", str(folder), "-o", str(tmp_path / "out"), "--pair", "--processes", "1"]
    assert main(arguments) == 1
    assert "s2_ecg.npz: expected a file of PPG and one of ECG" in capsys.readouterr().out
    with open(tmp_path / "out" / "records.csv", newline="") as file:
        first, second = csv.DictReader(file)
    assert (first["subjects"], first["ppg"], first["ecg"], first["error"]) == ("data_s1", "ppg", "ecg", "")
    assert "found no other" in second["error"]
    assert json.loads((tmp_path / "out" / "prepare.json").read_text())["settings"]["pair"] is True
    whole = prepare(tmp_path / "one.npz", tmp_path / "whole", processes=1)
    assert int(first["segments"]) == whole.segments > 0
    source = pair_sources(find_sources(folder)[0])[0]
    read = read_source(source, Reading())
    np.testing.assert_array_equal(read.ppg.values[0], ppg)
    np.testing.assert_array_equal(read.ecg.values[0], ecg)
    with pytest.raises(RecordingError, match="s2_ecg.npz: expected a file of PPG"):
        read_source(pair_sources(find_sources(folder)[0])[1], Reading())
