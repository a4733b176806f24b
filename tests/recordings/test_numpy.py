"""NumPy files: shapes, names, rates, masks, and members that are no signals."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from xmae_fast.data import Reading, RecordingError, read_recording
from xmae_fast.preparation.windows import cut
from xmae_fast.recordings.formats import numpy as format_numpy

N = 1500
PPG, ECG = np.random.default_rng(0).standard_normal((2, N)).cumsum(1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("numpy")


@st.composite
def arrays(draw):
    """(arrays, channels that are asked for, their names in the file, their rates)."""
    dtype = draw(st.sampled_from(["f8", "f4", ">f8", "f2", "i2", "u1"]))
    ppg, ecg = (np.arange(N) % 97).astype(dtype), (np.arange(N) % 89).astype(dtype)
    kind = draw(st.sampled_from(["vector", "column", "row", "columns", "named columns", "named rows"]))
    both, labels = np.stack([ecg, ppg], 1), np.array(["ECG II", "Pleth"])
    signals, asked = {
        "vector": ({"ppg": ppg, "ecg": ecg}, (None, None)),
        "column": ({"PPG": ppg[:, None], "ecg": ecg}, (None, None)),
        "row": ({"bvp": ppg[None], "ii": ecg[None]}, (None, None)),
        "columns": ({"x": both}, ("x[1]", "0")),
        "named columns": ({"x": both, "channels": labels}, (None, None)),
        "named rows": ({"x": both.T, "channels": labels.astype(bytes)}, ("Pleth", "*ii")),
    }[kind]
    rates, fs = draw(
        st.sampled_from(
            [
                ({"fs": 100}, (100, 100)),
                ({"Sampling_Rate": np.array([[100.0]])}, (100, 100)),
                ({"ppg_fs": 50, "ecg_fs": np.float32(200)}, (50, 200)),
                ({"time": np.arange(N) / 40}, (40, 40)),
            ]
        )
    )
    if "columns" in kind or "rows" in kind:
        rates, fs = {"sfreq": 30.5}, (30.5, 30.5)
    rest = draw(
        st.sampled_from([{}, {"meta": np.array({}, object)}, {"labels": np.array(list("ab"))}, {"c": PPG + 1j}])
    )
    items = list({**rest, **signals, **rates}.items())
    return dict(draw(st.permutations(items))), asked, (ppg, ecg), fs


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(case=arrays(), compressed=st.booleans())
def test_the_same_numbers_come_back(folder, case, compressed):
    stored, asked, (ppg, ecg), fs = case
    (np.savez_compressed if compressed else np.savez)(folder / "x.npz", **stored)
    found = read_recording(folder / "x.npz", Reading(*asked))
    np.testing.assert_array_equal(found.ppg.values, ppg[None].astype(float))
    np.testing.assert_array_equal(found.ecg.values, ecg[None].astype(float))
    assert (found.ppg.fs, found.ecg.fs) == fs


def test_masks_are_kept(folder):
    hidden = np.zeros(N, bool)
    hidden[30:40] = True
    np.savez(folder / "x.npz", ppg=PPG[:, None], ecg=ECG, ppg_mask=hidden[:, None], mask=hidden[::-1], fs=100)
    found = read_recording(folder / "x.npz")
    np.testing.assert_array_equal(np.isnan(found.ppg.values[0]), hidden)
    np.testing.assert_array_equal(np.isnan(found.ecg.values[0]), hidden[::-1])
    np.testing.assert_array_equal(found.ppg.values[0, ~hidden], PPG[~hidden])
    assert "ppg: 10 samples are missing by the mask 'ppg_mask'" in found.notes
    masked = np.ma.array(PPG, mask=hidden)
    np.savez(folder / "x.npz", ppg=masked.data, mask=masked.mask, ecg=ECG, fs=100)
    np.testing.assert_array_equal(np.isnan(read_recording(folder / "x.npz").ppg.values[0]), hidden)


def test_pieces_and_subjects(folder):
    pieces = {"ppg": PPG.reshape(3, 500), "ecg": ECG.reshape(3, 500), "fs": 50}
    for subject, expected in (
        ({"subject": "a"}, ["a"] * 3),
        ({"subject_id": [7, 8, 9]}, ["7", "8", "9"]),
        ({"patient": np.array(["J\xe4ger".encode(), b"\xff", b"c"])}, ["J\xe4ger", "\\xff", "c"]),
        ({"subject": np.array([None] * 3)}, []),
    ):
        np.savez(folder / "x.npz", **pieces, **subject)
        found = read_recording(folder / "x.npz")
        assert list(found.subjects) == expected
    np.testing.assert_array_equal(found.ecg.values, ECG.reshape(3, 500))
    assert [ids[1] for ids in found.ids] == ["1", "2", "3"]
    np.savez(folder / "x.npz", **pieces, subject=["a", "b"])
    with pytest.raises(RecordingError, match=r"x\.npz: NumPy: subject: expected one or 3 values, got shape \(2,\)"):
        read_recording(folder / "x.npz")


def test_gaps_between_times_stay_gaps(folder):
    times, gap = np.append(np.arange(N - 100), np.arange(N, N + 100)) / 50, np.full(100, np.nan)
    np.savez(folder / "x.npz", ppg=PPG, ecg=ECG[:, None], time=times)
    np.savez(folder / "y.npz", ppg=PPG, ecg=ECG, Time_ms=np.round(times * 1000).astype(int), fs=50)
    for name, reading in (("x.npz", None), ("x.npz", Reading(fs=50)), ("y.npz", None)):
        found = read_recording(folder / name, reading)
        np.testing.assert_array_equal(found.ecg.values[0], np.concatenate([ECG[:-100], gap, ECG[-100:]]))
        assert (found.ppg.fs, found.ecg.fs) == (50, 50)
    np.testing.assert_array_equal(read_recording(folder / "x.npz", Reading(fs=50, time="none")).ppg.values[0], PPG)
    np.savez(folder / "x.npz", ppg=PPG, ecg=ECG, t=np.arange(N) / 50, fs=100)
    found = read_recording(folder / "x.npz")
    assert (found.ppg.fs, found.ppg.values.shape) == (100, (1, N))
    assert "ppg: the file states 100 Hz, and the times beside it give 50 Hz: the times are not used" in found.notes


@pytest.mark.parametrize("large", [False, True])
def test_npy(folder, large, monkeypatch):
    if large:
        monkeypatch.setattr(format_numpy, "_LARGE", 100)
    path, alone = folder / "x.npy", Reading(fs=50, signals="ppg")
    for array, expected in (
        (PPG, PPG[None]),
        (PPG[:, None], PPG[None]),
        (PPG[None], PPG[None]),
        (PPG.reshape(3, 500).astype(np.float32), PPG.reshape(3, 500).astype(np.float32)),
        (np.array(list(zip(PPG, ECG, strict=True)), [("ppg", "f8"), ("ecg", "f8")]), PPG[None]),
    ):
        np.save(path, array)
        found = read_recording(path, alone)
        np.testing.assert_array_equal(found.ppg.values, expected)
        assert found.ppg.values.dtype == (array.dtype if large and array.dtype.names is None else np.float64)
        assert found.ppg.cut(np.array([0]), np.array([3]), 7).dtype == np.float64
    assert cut(found, 10, 10).starts.tolist() == [0, 10, 20]
    both = read_recording(path, Reading(fs=50))
    np.testing.assert_array_equal(both.ecg.values[0], ECG)
    for array in (np.stack([ECG, PPG]), np.stack([ECG, PPG], 1)):
        np.save(path, array)
        found = read_recording(path, Reading("1", "0", fs=50))
        np.testing.assert_array_equal([found.ppg.values[0], found.ecg.values[0]], [PPG, ECG])
        np.testing.assert_array_equal(read_recording(path, alone._replace(ppg="1")).ppg.values[0], PPG)
    np.save(path, PPG[:, None])
    with pytest.raises(RecordingError, match="expected PPG and ECG, got one signal of 1500 samples; --signals ppg"):
        read_recording(path, Reading(fs=50))


def failure(path):
    """Why a file cannot be read; "" if it can."""
    try:
        return "" if read_recording(path).ppg.values.size else "empty"
    except RecordingError as error:
        return str(error)


def test_damage_is_one_sentence(folder):
    np.savez(folder / "whole.npz", ppg=PPG, ecg=ECG, fs=100, other=np.arange(900))
    whole, messages = (folder / "whole.npz").read_bytes(), []
    for place in (1, 40, 200, 5000, 13000, 26000, len(whole) - 10):
        (folder / "x.npz").write_bytes(whole[:place] + b"\xff" + whole[place + 1 :])
        (folder / "y.npz").write_bytes(whole[:place])
        (folder / "y.npy").write_bytes(whole[:place])
        messages += filter(None, (failure(folder / name) for name in ("x.npz", "y.npz", "y.npy")))
    assert len(messages) >= 16
    for message in messages:
        assert re.search(": NumPy: ((ppg|ecg): )?expected", message)
        assert "\n" not in message
        assert "pickle" not in message


@pytest.mark.parametrize("fs", [None, 125.0])
@pytest.mark.parametrize("name", ["timestamp_ms", "timestamps", "time"])
def test_times_beside_signals_tell_of_gaps(folder, name, fs):
    """Times in ms, and dates and times of NumPy, are times too: --fs does not close their gap."""
    ms = (np.arange(N) * 8 + 10_000 * (np.arange(N) >= 700)).astype(np.int64)
    times = ms if name == "timestamp_ms" else np.datetime64("2024-02-05T10:00:00.000") + ms.astype("m8[ms]")
    np.savez(folder / "gap.npz", ppg=PPG, ecg=ECG, **{name: times})
    found = read_recording(folder / "gap.npz", Reading(fs=fs))
    assert found.ppg.fs == 125
    values = found.ppg.cut(np.array([0]), np.array([0]), N + 1250)[0]
    np.testing.assert_array_equal(np.flatnonzero(np.isnan(values)), 700 + np.arange(1250))
    assert found.start == ("" if name == "timestamp_ms" else "2024-02-05T10:00:00")


def test_the_times_of_a_structured_array_tell_rate_and_gaps(tmp_path):
    seconds = np.delete(np.arange(6000) / 125, slice(2000, 3000))
    fields = [("time", "f8"), ("ppg", "f8"), ("ecg", "f8")]
    array = np.zeros(len(seconds), fields)
    array["time"], array["ppg"], array["ecg"] = seconds, np.sin(seconds), np.cos(seconds)
    np.save(tmp_path / "x.npy", array)
    for reading in (Reading(), Reading(fs=125)):  # a given rate closes no gap
        found = read_recording(tmp_path / "x.npy", reading)
        assert found.ppg.fs == 125
        assert np.flatnonzero(np.isnan(found.ppg.values[0])).tolist() == list(range(2000, 3000))
    even = read_recording(tmp_path / "x.npy", Reading(fs=125, time="none"))
    assert even.ecg.values.shape == (1, 5000)
