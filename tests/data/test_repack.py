"""repack: what it writes, refuses, and says."""

import hashlib
import json
import os
import re
import shutil
from collections import namedtuple

import h5py
import numpy as np
import pytest

import xmae_fast
from tests.data.packing import SIGNALS, batches, content, flip, same_batches, values, write_published
from xmae_fast.data import Layout, ShardChangedError, open_index, repack, verify_packed
from xmae_fast.data.formats import packed
from xmae_fast.data.repacking import copy as repack_copy


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch):
    monkeypatch.setattr(repack_copy, "_BLOCK_ROWS", 16)


@pytest.fixture
def shard(tmp_path):
    """A published shard of 60 segments of 40 samples, float16."""
    write_published(tmp_path / "shard.h5", values(60, 40))
    return tmp_path / "shard.h5"


@pytest.mark.parametrize("dtype", ["<f2", "<f4", "<f8", ">f2", ">f4", ">f8"])
def test_values_are_copied_bit_for_bit(tmp_path, dtype):
    storages = {"contiguous": {}, "chunks": {"chunks": (8, 3)}, "gzip": {"compression": "gzip", "shuffle": True}}
    signals = values(75, 40, dtype)
    names = []
    for i, (name, storage) in enumerate(storages.items()):
        names += write_published(tmp_path / f"{name}.h5", signals[:, 25 * i : 25 * (i + 1)], **storage)
    paths = [tmp_path / f"{name}.h5" for name in storages]
    report = repack(paths, tmp_path / "out.h5")
    assert [shard.mapped for shard in open_index(paths).shards][::2] == [True, False]
    native = signals.astype(signals.dtype.newbyteorder("="))
    with h5py.File(tmp_path / "out.h5") as file:
        for k, name in enumerate(SIGNALS):
            assert file[name].dtype.str == native.dtype.str
            assert file[name][:].tobytes() == native[k].tobytes()
        assert [key.decode() for key in file["key"]] == names
        assert file["source"][:].tolist() == [0] * 25 + [1] * 25 + [2] * 25
    assert report.dtype == native.dtype.name


@pytest.mark.parametrize("columns", [("ecg", "ppg"), ("time", "ecg", "other", "ppg")])
def test_columns_in_another_order(tmp_path, columns):
    signals = values(20, 40)
    write_published(tmp_path / "shard.h5", signals, columns=columns)
    repack(tmp_path / "shard.h5", tmp_path / "out.h5", layout=Layout(columns=columns))
    with h5py.File(tmp_path / "out.h5") as file:
        assert file["ppg"][:].tobytes() == signals[0].tobytes()
        assert file["ecg"][:].tobytes() == signals[1].tobytes()


def test_stock_h5py_reads_the_file(shard, tmp_path):
    report = repack([str(shard)], tmp_path / "out.h5", quality=(0.6, 0.0), exclude_subjects=["d_0"])
    status = shard.stat()
    with h5py.File(tmp_path / "out.h5") as file, h5py.File(shard) as source:
        n = len(file["key"])
        assert set(file) == {*SIGNALS, "subject", "subjects", "ppg_quality", "ecg_quality", "key", "source", "sources"}
        for name in SIGNALS:
            assert file[name].shape == (n, 40)
            assert file[name].chunks is None
            assert file[name].id.get_offset() % 4096 == 0
            digest = hashlib.sha256(file[name][:].tobytes()).hexdigest()
            assert file[name].attrs["checksum"] == f"sha256:{digest}".encode()
            assert report.checksums[name] == f"sha256:{digest}"
        assert (file["subject"].dtype, file["ppg_quality"].dtype, file["source"].dtype) == ("i4", "f8", "i4")
        for i, name in enumerate(key.decode() for key in file["key"]):
            assert name.split("/")[0] == file["subjects"].asstr()[file["subject"][i]] != "d_0"
            assert file["ppg_quality"][i] == float(name.split("+++")[4]) >= 0.6
            assert file["ecg_quality"][i] == 0.95
            np.testing.assert_array_equal(source[name][:, 1], file["ppg"][i])
        assert file["source"][:].tolist() == [0] * n
        path, size, mtime, probe = file["sources"][0]
        assert (path.decode(), size, mtime) == (str(shard), status.st_size, status.st_mtime_ns)
        assert len(bytes.fromhex(probe.decode())) == 16
        attributes = dict(file.attrs)
    assert attributes["format"] == "xmae_fast packed"
    assert attributes["xmae_fast_version"] == xmae_fast.__version__
    assert attributes["sampling_freq"] == 100
    assert attributes["created"].endswith("+00:00")
    selection = json.loads(attributes["selection"])
    assert selection["quality"] == [0.6, 0.0]
    assert selection["exclude_subjects"] == ["d_0"]
    rejected = json.loads(attributes["rejected"])
    assert rejected == report.rejected
    assert set(rejected) == {"subject not selected", "low ppg quality"}
    assert sum(rejected.values()) + n == 60
    assert report.segments == n
    assert report.size == os.path.getsize(tmp_path / "out.h5")


@pytest.mark.parametrize("options", [{}, {"quality": 0.0, "normalize_dtype": "float32"}])
def test_a_loader_gives_the_same_batches(shards, tmp_path, options):
    repack(shards, tmp_path / "out.h5")
    (opened,) = open_index(tmp_path / "out.h5").shards
    assert opened.mapped
    assert opened.header.form == "packed"
    assert opened.header.sampling_freq == 100
    expected = batches(shards, **options)
    assert len(expected) > 5
    assert same_batches(batches(tmp_path / "out.h5", **options), expected)
    with h5py.File(tmp_path / "out.h5") as file:
        assert file["source"][:].tolist() == [0] * 244 + [1] * 236


def test_a_packed_file_can_be_packed_again(shard, tmp_path):
    repack(shard, tmp_path / "first.h5")
    repack(tmp_path / "first.h5", tmp_path / "again.h5")
    first, again = content(tmp_path / "first.h5"), content(tmp_path / "again.h5")
    for name in (*SIGNALS, "subject", "subjects", "ppg_quality", "ecg_quality", "key"):
        assert again[name][3:] == first[name][3:]
    repack(tmp_path / "first.h5", tmp_path / "part.h5", subjects=["d_1"])
    with h5py.File(tmp_path / "part.h5") as part, h5py.File(shard) as source:
        assert part["subjects"].asstr()[:].tolist() == ["d_1"]
        assert [key.decode() for key in part["key"]] == [f"d_1/{name}" for name in source["d_1"]]


def test_shards_of_a_packed_layout_without_keys(tmp_path):
    signals = values(40, 30, "<f4")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["PLETH"], file["II"], file["patient"] = signals[0], signals[1], np.arange(40) // 10
    repack(tmp_path / "other.h5", tmp_path / "out.h5", layout=Layout(ppg="PLETH", ecg="II", sampling_freq=125))
    with h5py.File(tmp_path / "out.h5") as file:
        assert file["ppg"][:].tobytes() == signals[0].tobytes()
        assert file["key"][:].tolist() == [str(i).encode() for i in range(40)]
        assert file["subjects"].asstr()[file["subject"][35]] == "3"
        assert file.attrs["sampling_freq"] == 125


def test_bad_records_are_counted_or_refused(shard, tmp_path):
    with h5py.File(shard, "r+") as file:
        names = [f"d_1/{key}" for key in file["d_1"]]
        file[names[0]][3, 1], file[names[1]][:, 2] = np.nan, 0.5
        file["d_1/oops"] = np.zeros((40, 3), "f2")
    report = repack(shard, tmp_path / "out.h5")
    assert report.segments == 58
    assert report.rejected == {"malformed key": 1, "constant": 1, "non-finite": 1}
    with pytest.raises(ValueError, match=r"record d_1/.*: segment is"):
        repack(shard, tmp_path / "other.h5", on_bad="raise")
    (tmp_path / "broken.h5").write_bytes(b"no HDF5")
    with pytest.warns(UserWarning, match="1 of 2 shards are left out"):
        report = repack([shard, tmp_path / "broken.h5"], tmp_path / "third.h5")
    assert list(report.broken) == [str(tmp_path / "broken.h5")]
    assert "broken.h5" in report.describe()


def test_different_types_need_one_to_convert_to(tmp_path):
    half, double = values(20, 40, "<f2"), values(20, 40, "<f8", seed=1)
    paths = [tmp_path / "half.h5", tmp_path / "double.h5"]
    write_published(paths[0], half)
    write_published(paths[1], double)
    with pytest.raises(ValueError, match=r"dtype: .* several: float16 in .*half\.h5, float64 in .*double\.h5"):
        repack(paths, tmp_path / "out.h5")
    for dtype in ("float16", "float32", "float64"):
        out = tmp_path / f"{dtype}.h5"
        repack(paths, out, dtype=dtype)
        with h5py.File(out) as file:
            assert file["ecg"][:].tobytes() == np.concatenate([half[1], double[1]]).astype(dtype).tobytes()
        assert same_batches(batches(out, quality=0), batches(paths, quality=0))
    with pytest.raises(ValueError, match="dtype: expected 'float16'.*got 'int8'"):
        repack(paths, tmp_path / "out.h5", dtype="int8")


@pytest.mark.parametrize(("value", "reason"), [(70_000.0, "non-finite"), (None, "constant")])
def test_values_that_the_type_cannot_hold_are_refused(tmp_path, value, reason):
    signals = values(20, 40, "<f4")
    signals[0, 7] = 1000 + signals[0, 7] / 100
    if value:
        signals[0, 7, 5] = value
    names = write_published(tmp_path / "shard.h5", signals)
    wide = {"normalize_dtype": "float32"}
    with pytest.raises(ValueError, match=re.escape(f"record {names[7]} is {reason} in it")):
        repack(tmp_path / "shard.h5", tmp_path / "out.h5", dtype="float16", **wide)
    assert sorted(os.listdir(tmp_path)) == [".shard.h5.index.npz", "shard.h5"]
    assert repack(tmp_path / "shard.h5", tmp_path / "out.h5", **wide).segments == 20


def test_memory_is_a_block(shards, tmp_path, monkeypatch):
    sizes, write = [], packed.write_at
    monkeypatch.setattr(packed, "write_at", lambda fd, data, place: (sizes.append(len(data)), write(fd, data, place)))
    repack(shards, tmp_path / "out.h5")
    assert len(sizes) == 2 * 480 / 16
    assert set(sizes) == {16}
    monkeypatch.setattr(repack_copy, "_BLOCK_BYTES", 3 * 2000)
    sizes.clear()
    repack(shards, tmp_path / "out.h5", overwrite=True)
    assert set(sizes) == {3}


def test_existing_files_are_safe(shard, tmp_path):
    out = tmp_path / "out.h5"
    out.write_bytes(b"precious")
    with pytest.raises(FileExistsError, match=r"output: .*out\.h5 exists already"):
        repack(shard, out)
    with pytest.raises(ValueError, match="no segment remains"):
        repack(shard, tmp_path / "none.h5", quality=2.0, overwrite=True)
    with pytest.raises(FileExistsError, match=r"out\.h5 is there and is not a packed file of xmae-fast"):
        repack(shard, out, overwrite=True)
    assert out.read_bytes() == b"precious"
    out.unlink()
    for _ in range(2):
        repack(shard, out, overwrite=True)
    assert verify_packed(out)
    with pytest.raises(ValueError, match="output: expected another file than the input"):
        repack(tmp_path, out, overwrite=True)
    with pytest.raises(FileNotFoundError, match="output: expected a file in an existing folder"):
        repack(shard, tmp_path / "no" / "out.h5")
    with pytest.raises(IsADirectoryError, match="output"):
        repack(shard, tmp_path, overwrite=True)
    assert sorted(os.listdir(tmp_path)) == [".out.h5.index.npz", ".shard.h5.index.npz", "out.h5", "shard.h5"]


def test_too_little_space_is_said_before_anything_is_written(shard, tmp_path, monkeypatch):
    usage = namedtuple("usage", "free")(1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(OSError, match="output: expected .* bytes of free space .* found 1,000"):
        repack(shard, tmp_path / "out.h5")
    assert sorted(os.listdir(tmp_path)) == [".shard.h5.index.npz", "shard.h5"]


def test_damage_is_found(shard, tmp_path):
    out = tmp_path / "out.h5"
    repack(shard, out)
    whole = verify_packed(out)
    with h5py.File(out, "r+") as file:
        assert whole["ppg"] == file["ppg"].attrs["checksum"].decode()
        places = {name: data_set.id.get_offset() + 5 for name, data_set in file.items()}
        file["notes"] = "added later"
    assert verify_packed(out) == whole
    assert len(places) == 9
    for name, place in places.items():
        flip(out, place)
        with pytest.raises(ValueError, match=f"its values are not those that were written, expected {name} sha256"):
            verify_packed(out)
        flip(out, place)


def test_only_packed_files_can_be_verified(shard, tmp_path):
    with pytest.raises(ValueError, match="expected a file of repack"):
        verify_packed(shard)
    with pytest.raises(FileNotFoundError):
        verify_packed(tmp_path / "none.h5")


def test_the_name_is_the_function():
    """A module of the same name would replace the function after its first import."""
    from xmae_fast import data

    assert data.repack is repack
    assert callable(data.repack)
    assert callable(data.inspect_shards)


@pytest.mark.parametrize("how", ["changed", "cut short", "removed"])
def test_a_shard_that_changes_meanwhile(tmp_path, how):
    out = tmp_path / "out.h5"
    shard = tmp_path / "in" / "shard.h5"
    shard.parent.mkdir()
    write_published(shard, values(200, 40))

    def change(stage, done, _):
        if stage == "copy" and done == 96:
            if how == "removed":
                shard.unlink()
            elif how == "cut short":
                os.truncate(shard, 8192)
            else:
                with h5py.File(shard, "r+") as file:
                    for group in file.values():
                        for record in group.values():
                            record[3, 1] = 9.0

    with pytest.raises(ShardChangedError, match=r"shard\.h5"):
        repack(shard, out, progress=change)
    assert not out.exists()
    if how == "changed":
        assert repack(shard, out).resumed == 0
        with h5py.File(out) as file:
            assert (file["ppg"][:, 3] == 9.0).all()
