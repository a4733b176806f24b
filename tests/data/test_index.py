"""The index agrees with h5py: what can be mapped, what is malformed, and what files must have."""

from pathlib import Path

import h5py
import numpy as np
import pytest

from tests.data.layouts import KEY, write_packed, write_published
from xmae_fast.data import Layout, open_index, problems, read_index


@pytest.fixture
def signals():
    return np.random.default_rng(0).normal(size=(2, 10, 60))


def test_agrees_with_the_plain_index(shards):
    index, plain = open_index(shards), read_index(shards)
    assert len(index) == len(plain) == 480
    assert [index.name(i) for i in (0, 243, 244, 479)] == [
        f"shard {plain[i].path}, record {plain[i].subject}/{plain[i].key}" for i in (0, 243, 244, 479)
    ]
    assert [index.subjects[s] for s in index.subject] == [record.subject for record in plain]
    np.testing.assert_array_equal(index.quality, [(r.ppg_quality, r.ecg_quality) for r in plain])
    assert not index.problem.any()
    with h5py.File(shards[0]) as file:
        record = file[plain[7].subject][plain[7].key]
        assert index.ppg_offset[7] == record.id.get_offset() + 2
        assert index.ecg_offset[7] == record.id.get_offset() + 4
    assert index.nbytes / len(index) < 64


@pytest.mark.parametrize("dtype", ["<f2", ">f2", "<f4", ">f8"])
@pytest.mark.parametrize(
    ("storage", "why_not"),
    [({}, ""), ("rows", ""), ({"compression": "gzip"}, "filters: deflate"), ({"shuffle": True}, "filters: shuffle")],
)
@pytest.mark.parametrize("form", ["published", "packed"])
def test_what_can_be_mapped_is(tmp_path, signals, form, dtype, storage, why_not):
    path = tmp_path / "x.h5"
    if storage == "rows":
        storage = {"chunks": (60, 3) if form == "published" else (4, 60)}
    (write_published if form == "published" else write_packed)(path, signals, dtype=dtype, **storage)
    index = open_index(path)
    header = index.shards[0].header
    assert (header.form, header.mapped, np.dtype(header.dtype)) == (form, not why_not, np.dtype(dtype))
    assert header.why_not.startswith(why_not)
    assert (" layout, mapped; index" in index.shards[0].describe()) == (not why_not)
    size = np.dtype(dtype).itemsize
    for row in range(10) if header.mapped else ():
        stored = np.fromfile(path, np.uint8)
        for offset, values in ((index.ppg_offset, signals[0]), (index.ecg_offset, signals[1])):
            got = np.ndarray((60,), dtype, stored, offset[row], (header.stride,))
            np.testing.assert_array_equal(got, values[row].astype(dtype))
        assert header.stride == size * (3 if form == "published" else 1)


@pytest.mark.parametrize(
    "storage",
    [{"chunks": (4, 32)}, {"chunks": (4, 64), "maxshape": (None, None)}, {"fillvalue": 0.5}, {"userblock": 512}],
)
def test_awkward_storage(tmp_path, signals, storage):
    """Chunks narrower and wider than a row, and a file that does not begin at byte 0."""
    path = tmp_path / "x.h5"
    userblock = {"userblock_size": storage.pop("userblock")} if "userblock" in storage else {}
    with h5py.File(path, "w", **userblock) as file:
        for name, values in zip(("ppg", "ecg"), signals, strict=True):
            file.create_dataset(name, data=values.astype(np.float32), **storage)
    index = open_index(path)
    header = index.shards[0].header
    assert header.mapped == (storage.get("chunks") != (4, 32))
    if not header.mapped:
        assert header.why_not == "chunks of 4 x 32, less than a row"
    stored = np.fromfile(path, np.uint8)
    for row in range(10) if header.mapped else ():
        got = np.ndarray((60,), np.float32, stored, index.ppg_offset[row], (4,))
        np.testing.assert_array_equal(got, signals[0, row].astype(np.float32))


def test_malformed_records_are_kept_and_marked(tmp_path, signals):
    path = tmp_path / "x.h5"
    names = write_published(path, signals)
    with h5py.File(path, "r+") as file:
        file["m_0/nonsense"] = np.zeros((60, 3), np.float16)
        file[f"m_0/{KEY.format(7, 7, 7, 1, 1)}"] = np.zeros((59, 3), np.float16)
        file[f"m_1/{KEY.format(8, 8, 8, 1, 1)}"] = np.zeros((60, 3), np.float32)
        file.create_group(f"m_1/{KEY.format(9, 9, 9, 1, 1)}")
        file["loose"] = np.zeros(3)
        file[names[0]][:, 1] = 0.5
        file[names[9]][5, 2] = np.inf
    index = open_index(path)
    found = {index.name(i).rpartition("record ")[2]: int(p) for i, p in enumerate(index.problem) if p}
    assert found == {
        "loose": problems.BAD_KEY,
        "m_0/nonsense": problems.BAD_KEY,
        f"m_0/{KEY.format(7, 7, 7, 1, 1)}": problems.WRONG_SHAPE,
        f"m_1/{KEY.format(8, 8, 8, 1, 1)}": problems.WRONG_SHAPE,
        f"m_1/{KEY.format(9, 9, 9, 1, 1)}": problems.UNREADABLE,
        names[0]: problems.CONSTANT | problems.CONSTANT_HALF,
        names[9]: problems.NON_FINITE | problems.NON_FINITE_HALF,
    }
    assert len(index) == 15


def test_unreadable_shards(tmp_path, signals):
    good, bad, empty = (tmp_path / f"{name}.h5" for name in ("good", "bad", "empty"))
    write_published(good, signals)
    bad.write_bytes(good.read_bytes()[:2000])
    h5py.File(empty, "w").close()
    for path in (bad, empty):
        with pytest.raises(ValueError, match=f"shard {path}: expected"):
            open_index([good, path])
    with pytest.warns(UserWarning, match="2 of 3 shards are left out"):
        index = open_index([good, bad, empty], on_bad="skip")
    assert set(index.broken) == {str(bad), str(empty)}
    assert len(index) == 10
    with pytest.raises(FileNotFoundError, match="none"):
        open_index([good, tmp_path / "none.h5"], on_bad="skip")
    with pytest.raises(ValueError, match=r"no readable shard in .*bad\.h5 \(shard .*expected a whole HDF5 file"):
        open_index([bad], on_bad="skip")


def test_what_packed_files_must_have(tmp_path, signals):
    path = tmp_path / "x.h5"
    for change, message in (
        ({"ecg": signals[1, :, :50]}, r"ecg: expected \(n, L\) as ppg has"),
        ({"ppg_quality": np.ones(9)}, "ppg_quality: expected 10 numbers"),
        ({"subject": np.ones(9)}, r"subject: expected shape \(10,\)"),
        (dict.fromkeys(("ppg", "ecg"), np.ones((10, 60), int)), "expected float16, float32 or float64, got int64"),
        ({"subject": np.arange(10), "subjects": ["a", "b"]}, "expected indices into 'subjects' of 2"),
    ):
        with h5py.File(path, "w") as file:
            for name, values in ({"ppg": signals[0], "ecg": signals[1]} | change).items():
                file[name] = values
        with pytest.raises(ValueError, match=message):
            open_index(path)
    with pytest.raises(ValueError, match='columns: expected "ppg" and "ecg" once each'):
        Layout(columns=("time", "ppg"))


def test_packed_names_qualities_and_rate(tmp_path, signals):
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        file["signals/pleth"], file["signals/ii"] = signals.astype(np.float32)
        file["who"] = [b"b", b"a"] * 5
        file["ppg_quality"] = np.linspace(0, 1, 10)
        file.attrs["sampling_freq"] = 125
    index = open_index(path, layout=Layout(ppg="signals/pleth", ecg="signals/ii", subject="who"))
    assert index.subjects == ["a", "b"]
    assert index.subject.tolist() == [1, 0] * 5
    assert index.quality[:, 0].tolist() == np.linspace(0, 1, 10).tolist()
    assert (index.quality[:, 1] == 1).all()
    assert index.shards[0].header.sampling_freq == 125
    with pytest.raises(ValueError, match="subject: expected a data set 'nobody'"):
        open_index(path, layout=Layout(ppg="signals/pleth", ecg="signals/ii", subject="nobody"))


def test_rate_of_published_records(tmp_path, signals):
    write_published(tmp_path / "x.h5", signals)
    assert open_index(tmp_path / "x.h5").shards[0].header.sampling_freq == 100


def test_folders_and_globs(shards):
    folder = Path(shards[0]).parent
    assert len(open_index(folder)) == len(open_index(str(folder / "*.h5"))) == 480


@pytest.mark.parametrize("form", ["published", "packed"])
def test_subjects_whose_names_are_no_utf_8_stay_apart(tmp_path, signals, form):
    path, names = tmp_path / "x.h5", [b"m_\xfc", b"m_\xfd"]
    if form == "published":
        write_published(path, signals)
        with h5py.File(path, "r+") as file:
            for number, name in enumerate(names):
                file.move(f"m_{number}", name)
    else:
        with h5py.File(write_packed(path, signals), "r+") as file:
            del file["patient_id"]
            file["subject"] = np.array(names * 5, "S3")
    assert {r"m_\xfc", r"m_\xfd"} <= set(open_index(path).subjects)
