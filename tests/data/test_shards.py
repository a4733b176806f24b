import re

import h5py
import numpy as np
import pytest

from xmae_fast.data import parse_key, read_index, write_shard
from xmae_fast.data.formats import shards as shards_module
from xmae_fast.data.formats.shards import SegmentKey, format_key

GOOD_KEY = "0000+++1+++1+++1+++0.950+++0.960"


@pytest.fixture
def signals():
    rng = np.random.default_rng(0)
    return rng.uniform(-1, 1, (5, 50)).astype(np.float32), rng.uniform(-1, 1, (5, 50)).astype(np.float32)


QUALITY = {"ppg_quality": [0.9, 0.95, 1, 0.123456, 0], "ecg_quality": [1, 0.9, 0.8, 0.7, 0.6]}
NAMES = ["a_1", "a_1", "b_x_2", "a_1", "b_x_2"]


def write_raw(path, key=GOOD_KEY, data=None, subject="a_1"):
    data = np.zeros((10, 3), np.float16) if data is None else data
    with h5py.File(path, "w") as file:
        file[f"{subject}/{key}"] = data
    return path


def test_round_trip_in_the_published_layout(tmp_path, signals):
    ppg, ecg = signals
    path = tmp_path / "shard.h5"
    names = write_shard(path, ppg, ecg, NAMES, **QUALITY)
    with h5py.File(path) as file:
        assert sorted(file) == ["a_1", "b_x_2"]
        assert list(file["a_1"]) == [
            "0000+++1+++1+++1+++0.900+++1.000",
            "0001+++1+++2+++2+++0.950+++0.900",
            "0002+++1+++3+++3+++0.123+++0.700",
        ]
        for row, name in enumerate(names):
            record = file[name]
            assert record.shape == (50, 3)
            assert record.dtype == np.float16
            assert record.chunks is None
            assert record.compression is None
            assert record.id.get_offset() is not None
            assert record.id.get_storage_size() == 50 * 3 * 2
            expected = np.stack([np.arange(50) / 100, ppg[row], ecg[row]], 1).astype(np.float16)
            np.testing.assert_array_equal(record[:], expected)
    assert [f"{r.subject}/{r.key}" for r in read_index(path)] == sorted(names)


def test_given_identifiers_are_kept(tmp_path, signals):
    path = tmp_path / "shard.h5"
    ids = {
        "index": [7, 8, 9, 10000, 11],
        "segment_ids": list("vwxyz"),
        "win_ids": range(5),
        "win_seq_ids": range(5, 10),
    }
    write_shard(path, *signals, NAMES, **QUALITY, sampling_freq=125, **ids)
    records = read_index(path)
    assert parse_key(records[0].key) == SegmentKey(7, "v", "0", "5", 0.9, 1.0)
    assert "10000+++y+++3+++8+++0.123+++0.700" in [r.key for r in records]
    with h5py.File(path) as file:
        assert file["a_1"][records[0].key][1, 0] == np.float16(1 / 125)


def test_keys_round_trip():
    key = SegmentKey(3, "p00001_2", "4", "5", 0.987, 0.5)
    assert format_key(key) == "0003+++p00001_2+++4+++5+++0.987+++0.500"
    assert parse_key(format_key(key)) == key


@pytest.mark.parametrize(
    "key",
    ["", "0000", "0+++1+++2+++3+++0.9", GOOD_KEY + "+++1", "x+++1+++1+++1+++0.9+++0.9", "0+++1+++1+++1+++a+++0.9"],
)
def test_bad_key(key):
    with pytest.raises(ValueError, match=r"expected <index>\+\+\+<SegmentID>") as error:
        parse_key(key)
    assert repr(key) in str(error.value)


def test_bad_key_names_shard_and_group(tmp_path):
    path = write_raw(tmp_path / "shard.h5", key="nonsense")
    with pytest.raises(ValueError, match=rf"shard {path}, group 'a_1': key: expected <index>.*got 'nonsense'"):
        read_index(path)


@pytest.mark.parametrize(
    ("data", "expected", "came"),
    [
        (np.zeros((10, 2), np.float16), r"shape \(L, 3\)", r"\(10, 2\)"),
        (np.zeros(10, np.float16), r"shape \(L, 3\)", r"\(10,\)"),
        (np.zeros((0, 3), np.float16), r"shape \(L, 3\)", r"\(0, 3\)"),
        (np.zeros((10, 3), np.float32), "dtype float16", "float32"),
    ],
)
def test_bad_record_is_named(tmp_path, data, expected, came):
    path = write_raw(tmp_path / "shard.h5", data=data)
    with pytest.raises(ValueError, match=f"expected {expected}, got {came}") as error:
        read_index(path)
    assert f"shard {path}, record a_1/{GOOD_KEY}" in str(error.value)


def test_length_is_that_of_the_first_record_or_as_told(tmp_path):
    paths = [write_raw(tmp_path / f"{n}.h5", data=np.zeros((n, 3), np.float16)) for n in (10, 11)]
    with pytest.raises(ValueError, match=rf"shard {paths[1]}.*expected shape \(10, 3\), got \(11, 3\)"):
        read_index(paths)
    with pytest.raises(ValueError, match=rf"shard {paths[0]}.*expected shape \(11, 3\), got \(10, 3\)"):
        read_index(paths, seq_len=11)


def test_group_where_a_record_belongs_and_the_reverse(tmp_path):
    with h5py.File(tmp_path / "deep.h5", "w") as file:
        file.create_group(f"a_1/{GOOD_KEY}")
    with pytest.raises(
        ValueError, match=rf"record a_1/{re.escape(GOOD_KEY)}: expected a readable data set .*not a dataset"
    ):
        read_index(tmp_path / "deep.h5")
    with h5py.File(tmp_path / "flat.h5", "w") as file:
        file["a_1"] = np.zeros(3)
    with pytest.raises(ValueError, match="expected a group per subject"):
        read_index(tmp_path / "flat.h5")


def test_missing_and_broken_files(tmp_path, shards):
    with pytest.raises(FileNotFoundError, match=r"none\.h5: expected an HDF5 file, found nothing"):
        read_index(tmp_path / "none.h5")
    with pytest.raises(FileNotFoundError, match="found a folder"):
        read_index(tmp_path)
    text = tmp_path / "text.h5"
    text.write_text("not HDF5")
    with pytest.raises(ValueError, match=rf"shard {text}: expected a whole HDF5 file"):
        read_index(text)
    whole = shards[0].read_bytes()
    short = tmp_path / "short.h5"
    short.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=rf"shard {short}: expected a whole HDF5 file.*truncated"):
        read_index(short)
    with pytest.raises(ValueError, match="at least one shard"):
        read_index([])


def test_select_runs_before_a_record_is_opened(tmp_path):
    path = write_raw(tmp_path / "shard.h5", data=np.zeros(3))
    assert read_index(path, select=lambda subject, key: key.ppg_quality > 0.99) == []


def test_values_are_checked_on_request(tmp_path):
    flat = np.zeros((10, 3), np.float16)
    path = write_raw(tmp_path / "shard.h5", data=flat)
    assert read_index(path)[0].problem == ""
    assert read_index(path, check_values="float16")[0].problem == "constant"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"subject_names": NAMES[:4]}, "subject_names: expected 5 values, one per segment, got 4"),
        ({"subject_names": ["plain"] * 5}, "subject_names: expected '<dataset>_<subject>'.*'plain'"),
        ({"subject_names": ["a_b/c"] * 5}, "subject_names: expected .* without '/'"),
        ({"ppg_quality": [1.0]}, "ppg_quality: expected 5 values"),
        ({"segment_ids": ["a/b"] * 5}, "segment_ids"),
        ({"segment_ids": ["a+++b"] * 5}, "segment_ids"),
        ({"index": [0] * 5, "subject_names": ["a_1"] * 5, "ppg_quality": [1] * 5, "ecg_quality": [1] * 5,
          "win_ids": [1] * 5, "win_seq_ids": [1] * 5}, "index: expected distinct records"),
        ({"ppg": np.full((5, 50), np.nan)}, "ppg, ecg: expected finite numbers"),
        ({"ecg": np.full((5, 50), 1e5)}, "ppg, ecg: expected finite numbers"),
        ({"ecg": np.zeros((5, 49))}, r"ppg, ecg: expected one shape .* \(5, 50\) and \(5, 49\)"),
    ],
)  # fmt: skip
def test_a_failed_write_leaves_nothing_and_names_the_argument(tmp_path, signals, change, message):
    arguments = {"ppg": signals[0], "ecg": signals[1], "subject_names": NAMES, **QUALITY, **change}
    with pytest.raises(ValueError, match=message):
        write_shard(tmp_path / "shard.h5", **arguments)
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_keeps_the_old_file(tmp_path, signals, monkeypatch):
    path = tmp_path / "shard.h5"
    write_shard(path, *signals, NAMES, **QUALITY)
    before = path.read_bytes()
    calls = []

    def fail_late(key):
        calls.append(key)
        if len(calls) == 3:
            raise OSError("disk full")
        return format_key(key)

    monkeypatch.setattr(shards_module, "format_key", fail_late)
    with pytest.raises(OSError, match="disk full"):
        write_shard(path, *signals, NAMES, **QUALITY)
    assert len(calls) == 3
    assert [p.name for p in tmp_path.iterdir()] == ["shard.h5"]
    assert path.read_bytes() == before


def test_missing_folder_is_named(tmp_path, signals):
    with pytest.raises(FileNotFoundError, match="existing folder"):
        write_shard(tmp_path / "none" / "shard.h5", *signals, NAMES, **QUALITY)


def test_simulation_shards_and_truth(sim, shards):
    assert [p.name for p in shards] == ["sim_0000.h5", "sim_0001.h5"]
    assert len(read_index(shards, seq_len=1000)) == len(sim.subject)
    row = 0
    for path in shards:
        truth = np.load(path.with_suffix(".truth.npz"))
        assert len(read_index(path)) == len(truth["key"])
        with h5py.File(path) as file:
            for i, name in enumerate(truth["key"]):
                np.testing.assert_array_equal(file[name][:, 1], sim.ppg[row].astype(np.float16))
                np.testing.assert_array_equal(file[name][:, 2], sim.ecg[row].astype(np.float16))
                np.testing.assert_array_equal(truth["pat"][i], sim.pat[row])
                key = parse_key(name.split("/")[1])
                assert name.startswith(f"sim_{sim.subject[row]:06d}/")
                assert key.index == row % 8
                assert key.ppg_quality == float(f"{sim.ppg_quality[row]:.3f}")
                row += 1
        np.testing.assert_array_equal(truth["subject_pat"], sim.subject_pat)
    assert row == len(sim.subject)
    folder = shards[0].parent
    assert len([path for path in folder.iterdir() if not path.name.startswith(".")]) == 4  # indexes are hidden
