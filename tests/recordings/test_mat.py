"""MATLAB files of both kinds, in every layout."""

from __future__ import annotations

import warnings

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.recordings.mat_files import cell, save_v73
from xmae_fast.data import Reading, RecordingError, read_recording
from xmae_fast.preparation.windows import cut
from xmae_fast.recordings.pieces import Pieces

io = pytest.importorskip("scipy.io")

N = 1500
PPG, ECG = np.random.default_rng(0).standard_normal((2, N)).cumsum(1)


def save(version, path, variables):
    if version == 5:
        io.savemat(path, {name: _v5(value) for name, value in variables.items()}, do_compression=True)
    else:
        save_v73(path, variables)


def _v5(value):
    """Lists of dicts as struct arrays."""
    if isinstance(value, dict):
        return {name: _v5(inner) for name, inner in value.items()}
    if not isinstance(value, list):
        return value
    array = np.empty((1, len(value)), [(name, object) for name in value[0]])
    for i, element in enumerate(value):
        array[0, i] = tuple(_v5(element[name]) for name in value[0])
    return array


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("mat") / "x.mat"


versions = pytest.mark.parametrize("version", [5, 7.3])


@st.composite
def layouts(draw):
    """(variables, the names of the channels that are found), both signals as one piece of `N` samples at 250 Hz."""
    turn = (lambda x: x) if draw(st.booleans()) else np.transpose
    kind = draw(
        st.sampled_from(["vectors", "struct", "nested", "field v", "matrix", "named", "cell", "elements", "deep"])
    )
    fs = draw(
        st.sampled_from([{"fs": 250.0}, {"Fs": 250}, {"sampling_rate": 250}, {"SampleRate": 250.0}, {"dt": 0.004}])
    )
    fs |= draw(st.sampled_from([{}, {"age": 40.0}, {"note": "one"}, {"bp": np.ones((3, 3))}]))
    ppg, ecg, both = turn(PPG[None]), turn(ECG[None]), turn(np.stack([PPG, ECG]))
    labels = cell("PLETH", "II")
    variables, names = {
        "vectors": ({"ppg": ppg, "ecg": ecg, **fs}, ("ppg", "ecg")),
        "struct": ({"data": {"PPG": ppg, "ECG": ecg, **fs}}, ("data/PPG", "data/ECG")),
        "nested": ({"rec": {"raw": {"ecg": ecg, "ppg": ppg}, "info": fs}}, ("rec/raw/ppg", "rec/raw/ecg")),
        "field v": ({"d": {"ppg": {"v": ppg, **fs}, "ekg": {"v": ecg, **fs}}}, ("d/ppg", "d/ekg")),
        "matrix": ({"val": both, **fs}, ("val[0]", "val[1]")),
        "named": ({"val": both, "labels": labels, **fs}, ("PLETH", "II")),
        "cell": ({"val": cell(ppg, ecg), "labels": labels, **fs}, ("PLETH", "II")),
        "elements": ({"s": [{"name": "II", "d": ecg, **fs}, {"name": "BVP", "d": ppg, **fs}]}, ("BVP", "II")),
        "deep": ({"a": cell({"ppg": cell(ppg), "ecg": ecg, **fs})}, ("a/ppg", "a/ecg")),
    }[kind]
    return variables, names


@versions
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(layout=layouts())
def test_the_same_numbers_come_back_from_every_layout(version, path, layout):
    variables, names = layout
    save(version, path, variables)
    found = read_recording(path, Reading(*names))
    np.testing.assert_array_equal(found.ppg.values, PPG[None])
    np.testing.assert_array_equal(found.ecg.values, ECG[None])
    assert (found.ppg.fs, found.ecg.fs, found.ppg.name, found.ecg.name) == (250, 250, *names)
    if not names[0].startswith("val["):  # the names are usual ones
        assert read_recording(path).ppg.name == names[0]


@versions
def test_rates_of_their_own_and_numbers_of_channels(version, path):
    save(version, path, {"fs": 125.0, "ppg_fs": 64.0, "ppg": PPG, "x": {"ecg": ECG}, "t": 1.0})
    found = read_recording(path)
    assert (found.ppg.fs, found.ecg.fs) == (64, 125)
    save(version, path, {"fs": np.array([64.0, 250.0]), "a": np.stack([PPG, ECG], 1)})
    found = read_recording(path, Reading("0", "1"))
    assert (found.ppg.fs, found.ecg.fs, found.ecg.name) == (64, 250, "a[1]")
    np.testing.assert_array_equal(found.ecg.values[0], ECG)
    save(version, path, {"ppg": PPG, "ecg": ECG, "time": np.arange(N) / 80 + 5})
    assert read_recording(path).ppg.fs == 80
    save(version, path, {"ppg": PPG, "ecg": ECG, "time": np.delete(np.arange(N + 800), slice(300, 1100)) / 80})
    found, gap = read_recording(path), np.full(800, np.nan)  # a gap of 10 s
    np.testing.assert_array_equal(found.ecg.values[0], np.concatenate([ECG[:300], gap, ECG[300:]]))
    assert found.ppg.fs == 80
    np.testing.assert_array_equal(read_recording(path, Reading(fs=80, time="none")).ecg.values[0], ECG)
    save(version, path, {"ppg": PPG, "ecg": ECG[:900], "ppg_t": np.arange(N) / 100, "ecg_t": 2 + np.arange(900) / 200})
    found = read_recording(path)  # the ECG begins 2 s later
    np.testing.assert_array_equal(found.ppg.values[0], PPG)
    np.testing.assert_array_equal(found.ecg.values[0], np.append(np.full(400, np.nan), ECG[:900]))
    save(version, path, {"ppg": PPG, "ecg": ECG, "t": np.append(np.arange(N - 1), 0)})
    with pytest.raises(RecordingError, match=r"x\.mat: MATLAB: .*; --fs HZ takes the samples as even"):
        read_recording(path)
    assert "the times beside it are not used" in read_recording(path, Reading(fs=80)).notes[0]
    save(version, path, {"ppg": PPG, "ecg": ECG})
    with pytest.raises(RecordingError, match="--fs HZ says it"):
        read_recording(path)
    assert read_recording(path, Reading(fs=64)).ecg.fs == 64


@versions
def test_pieces_of_different_lengths(version, path):
    lengths = (1500, 300, 1249, 1250)
    people = [
        {
            "ppg": {"v": PPG[:n, None], "fs": 125.0},
            "ecg": {"v": ECG[None, :n], "fs": 125.0},
            "fix": {"subj_id": f"p{n}"},
        }
        for n in lengths
    ]
    save(version, path, {"data": people})
    found = read_recording(path)
    assert isinstance(found.ppg.values, Pieces)
    assert (found.ppg.values.shape, found.ppg.values.size, found.ecg.fs) == ((4, 1500), sum(lengths), 125)
    assert list(found.subjects) == ["p1500", "p300", "p1249", "p1250"]
    windows = cut(found, 10, 1)
    assert (windows.subjects, windows.win_ids) == (["p1500"] * 3 + ["p1250"], ["1-1", "1-2", "1-3", "4"])
    ppg, ecg = windows.signals(slice(None))
    np.testing.assert_array_equal(ppg, [PPG[:1250], PPG[125:1375], PPG[250:1500], PPG[:1250]])
    np.testing.assert_array_equal(ecg[1], ECG[125:1375])
    after = found.ppg.cut(np.array([1]), np.array([200]), 150)
    np.testing.assert_array_equal(after[0], np.append(PPG[200:300], np.full(50, np.nan)))


@versions
def test_uci_parts(version, tmp_path):
    pressure = 90 + 10 * np.sin(np.arange(N) / 10)
    parts = [np.stack([PPG, pressure, ECG])[:, :n] for n in (1500, 1300, 80)]
    save(version, tmp_path / "x.mat", {"Part_2": cell(*parts)})
    save(version, tmp_path / "part_7.mat", {"p": cell(*parts)})
    for name in ("x.mat", "part_7.mat"):
        found = read_recording(tmp_path / name)
        assert (found.form, found.ppg.name, found.ecg.name, found.ppg.fs) == ("UCI", "PPG", "ECG", 125)
        assert found.ppg.lengths.tolist() == [1500, 1300, 80]
        np.testing.assert_array_equal(found.ecg.values[1], ECG[:1300])
        assert any("layout of the UCI" in note for note in found.notes)
        assert len(cut(found, 10, 10).starts) == 2
    save(version, tmp_path / "x.mat", {"Part_2": cell(*(np.stack([PPG, ECG, PPG]) for _ in parts))})
    with pytest.raises(RecordingError, match=r"found 'Part_2\[0\]', 'Part_2\[1\]', 'Part_2\[2\]'; --ppg NAME"):
        read_recording(tmp_path / "x.mat")  # no blood pressure


@versions
def test_pulsedb_of_one_window_and_of_several(version, path):
    one = {"PPG_Raw": PPG[:1250, None], "ECG_Raw": ECG[:1250, None], "SubjectID": "p000001", "Age": 60.0}
    save(version, path, {"Subj_Wins": one | {"T": 30 + np.arange(1250)[:, None] / 125}})
    found = read_recording(path)
    assert (found.form, found.ppg.fs, list(found.subjects)) == ("PulseDB", 125, ["p000001"])
    np.testing.assert_array_equal(found.ppg.values, PPG[None, :1250])
    save(version, path, {"Subj_Wins": {k: v.T if isinstance(v, np.ndarray) else v for k, v in one.items()}})
    found = read_recording(path)
    np.testing.assert_array_equal(found.ecg.values, ECG[None, :1250])
    assert any("125 Hz is taken as in PulseDB" in note for note in found.notes)
    several = [one | {"T": np.arange(1250)[:, None] / 125 + 10 * i, "WinID": float(i + 4)} for i in range(3)]
    save(version, path, {"Subj_Wins": several})
    found = read_recording(path)
    assert (list(found.starts), [ids[1] for ids in found.ids]) == ([0, 10, 20], ["4", "5", "6"])
    assert (found.ppg.values.shape, list(found.subjects)) == ((3, 1250), ["p000001"] * 3)


@versions
def test_matrices_of_windows(version, path):
    windows = np.sin(np.arange(40)[:, None] + np.arange(1000) / 8)
    for turned in (windows, windows.T):
        save(version, path, {"ppg": turned, "ecg": turned, "fs": 100.0, "subject": cell(*(f"s{i}" for i in range(40)))})
        found = read_recording(path)
        np.testing.assert_array_equal(found.ppg.values, windows)
        assert list(found.subjects) == [f"s{i}" for i in range(40)]
        assert "ppg: the matrix is taken as 40 windows of 1000 samples" in found.notes


@versions
def test_what_is_no_signal_is_said(version, path):
    save(version, path, {"a": np.eye(3), "b": {"c": "word"}, "d": cell(), "e": np.ones(20)})
    with pytest.raises(
        RecordingError, match=r"at least 64 samples, found a: 3x3 numbers, b/c: text.*e: (1x20|20x1) num"
    ):
        read_recording(path)


def test_objects_of_v73_are_passed_over(path):
    save_v73(path, {"ppg": PPG, "fs": 64.0})
    with h5py.File(path, "r+") as file:
        file["when"] = np.arange(2000, dtype=np.uint32)[None]
        file["when"].attrs["MATLAB_object_decode"] = 3
        file["when"].attrs["MATLAB_class"] = np.bytes_("datetime")
        file["#subsystem#/MCOS"] = np.arange(2000.0)
        file["#refs#/ppg"] = np.arange(2000.0)
        file["s/data"] = np.arange(100.0)
        file["s"].attrs["MATLAB_sparse"] = 10
        file["round"] = h5py.SoftLink("/")
    found = read_recording(path, Reading(signals="ppg"))
    np.testing.assert_array_equal(found.ppg.values, PPG[None])
    with pytest.raises(RecordingError, match="expected a channel 'ecg' for the ECG, found 'ppg'"):
        read_recording(path, Reading(ecg="ecg"))


@versions
def test_damage_is_one_sentence(version, path):
    save(version, path, {"ppg": PPG, "ecg": ECG, "s": {"c": cell("a", np.ones(99))}, "fs": 125.0})
    whole = path.read_bytes()
    rng = np.random.default_rng(1)
    contents = [whole[:n] for n in (0, 3, 128, 200, 600, 5000, len(whole) - 700)]
    for _ in range(40):
        changed = bytearray(whole)
        for place in rng.integers(100, len(whole), 20):
            changed[place] = rng.integers(256)
        contents.append(bytes(changed))
    messages = []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for content in contents:
            path.write_bytes(content)
            try:
                assert read_recording(path).ppg.values.size
            except RecordingError as error:
                messages.append(str(error))
    assert len(messages) >= 7
    for message in messages:
        assert message.startswith(f"{path}: MATLAB: expected")
        assert "\n" not in message
