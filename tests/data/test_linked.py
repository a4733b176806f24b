"""Shards whose records lie in other files: links, external storage, virtual data sets. What h5py reads is right."""

from __future__ import annotations

import dataclasses
import os

import h5py
import numpy as np
import pytest

from tests.data.layouts import KEY, write_packed, write_published
from xmae_fast.data import PlainSegmentDataset, SegmentDataset, inspect_shards, open_index, repack
from xmae_fast.data.index import sidecar as sidecars
from xmae_fast.data.index.open_shards import ShardChangedError
from xmae_fast.data.index.shard_scan import Scan
from xmae_fast.data.index.sidecar import load_sidecar

pytestmark = pytest.mark.usefixtures("scanned_here")
L = 60
OPTIONS = {"normalize_dtype": "float16", "exclude_prefixes": ()}


def noise(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(2, n, L))


def record(seed: int) -> np.ndarray:
    return np.stack([np.arange(L) / 100, *noise(1, seed)[:, 0]], 1).astype("<f2")


def key(number: int) -> str:
    return KEY.format(number, number, number, 0.95, 0.95)


@pytest.fixture
def main(tmp_path):
    """An open shard with ten segments of subjects m_0 to m_4; beside it are other.h5 and third.h5."""
    write_published(tmp_path / "main.h5", noise(10))
    write_published(tmp_path / "other.h5", noise(4, 1))
    write_published(tmp_path / "third.h5", noise(6, 2))
    with h5py.File(tmp_path / "main.h5", "r+") as file:
        yield file


def check(path, mapped: bool, expected: int, rejected: dict | None = None) -> None:
    """Check that all loaders and a packed copy give what h5py reads record by record."""
    dataset = SegmentDataset(path, **OPTIONS)
    index = dataset.segments.index
    assert (index.shards[0].mapped, len(dataset), dict(dataset.rejected)) == (mapped, expected, rejected or {})
    with h5py.File(path) as file:
        for item in range(len(dataset)):
            name = index.name(int(dataset.segments.rows[item])).rpartition("record ")[2]
            stored = file[name][:, 1:]
            low, high = stored.min(0), stored.max(0)
            wanted = 2 * (stored - low) / (high - low) - 1
            got = np.stack([dataset[item]["ppg"], dataset[item]["ecg"]], 1)
            np.testing.assert_allclose(got, wanted, atol=4e-3, err_msg=name)
    packed = path.with_name("packed.h5")
    assert repack(path, packed, overwrite=True).segments == expected
    copy = SegmentDataset(packed, **OPTIONS)
    for ours, its in zip(dataset, copy, strict=True):
        np.testing.assert_array_equal(ours["ppg"], its["ppg"])
        np.testing.assert_array_equal(ours["ecg"], its["ecg"])
    if not rejected:
        plain = PlainSegmentDataset(path, **OPTIONS)
        for ours, its in zip(dataset, plain, strict=True):
            np.testing.assert_array_equal(ours["ppg"], its["ppg"])
            np.testing.assert_array_equal(ours["ecg"], its["ecg"])
    assert inspect_shards(path, quality=0.9).used == expected


def add(file, kind: str, folder) -> tuple[bool, int]:
    """Add records through a link; whether the shard is still mapped, and how many records are added."""
    name = "m_0/" + key(0)
    if kind == "external group":
        file["x_1"] = h5py.ExternalLink("other.h5", "/m_1")
        return False, 2
    if kind == "external data set":
        file["x_1/" + key(7)] = h5py.ExternalLink("other.h5", name)
        return False, 1
    if kind == "two files":
        file["x_1"] = h5py.ExternalLink("other.h5", "/m_0")
        file["x_2"] = h5py.ExternalLink(str(folder / "third.h5"), "/m_2")
        return False, 4
    if kind == "soft link":
        file["x_1"] = h5py.SoftLink("/m_1")
        file["x_2/" + key(7)] = h5py.SoftLink("/" + name)
        return True, 3
    if kind == "hard link":
        file["x_1"] = file["m_1"]
        file["x_2/" + key(7)] = file[name]
        return True, 3
    if kind == "external link to itself":
        file["x_1"] = h5py.ExternalLink("main.h5", "/m_1")
        return True, 2
    if kind == "soft link to an external link":
        file["hidden"] = h5py.ExternalLink("other.h5", "/m_1")
        file["x_1"] = h5py.SoftLink("/hidden")
        return False, 4
    if kind == "link to a link in another file":
        with h5py.File(folder / "other.h5", "r+") as other:
            other["y_1"] = h5py.ExternalLink("third.h5", "/m_2")
        file["x_1"] = h5py.ExternalLink("other.h5", "/y_1")
        return False, 2
    if kind == "external storage":
        (folder / "raw.bin").write_bytes(b"\0" * 64 + record(9).tobytes())
        raw = [(str(folder / "raw.bin"), 64, record(9).nbytes)]
        file.create_dataset("x_1/" + key(7), (L, 3), "<f2", external=raw)
        return False, 1
    assert kind == "virtual data set"
    virtual = h5py.VirtualLayout((L, 3), "<f2")
    virtual[:30] = h5py.VirtualSource("other.h5", "m_0/" + key(0), (L, 3))[:30]
    virtual[30:] = h5py.VirtualSource("third.h5", "m_0/" + key(0), (L, 3))[30:]
    file.create_virtual_dataset("x_1/" + key(7), virtual)
    return False, 1


KINDS = [
    "external group", "external data set", "two files", "soft link", "hard link", "external link to itself",
    "soft link to an external link", "link to a link in another file", "external storage", "virtual data set",
]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_records_of_other_files(main, tmp_path, kind):
    mapped, more = add(main, kind, tmp_path)
    main.close()
    check(tmp_path / "main.h5", mapped, 10 + more)


@pytest.mark.parametrize("kind", ["external group", "external data set", "link to a link in another file",
                                  "external storage", "virtual data set"])  # fmt: skip
def test_other_files_are_watched(main, tmp_path, kind):
    """A change of a file that holds records counts as a change of the shard, for its index and if it is open."""
    path = tmp_path / "main.h5"
    add(main, kind, tmp_path)
    main.close()
    dataset = SegmentDataset(path, **OPTIONS)
    dataset[0]
    layout = dataset.segments.layout
    assert load_sidecar(str(path), layout, None) is not None
    changed = tmp_path / {"external storage": "raw.bin"}.get(kind, "third.h5" if "link in" in kind else "other.h5")
    os.utime(changed, ns=(1, 1))  # only touched: an open data set goes on
    dataset[0]
    content = bytearray(changed.read_bytes())
    content[-1] ^= 1
    changed.write_bytes(content)
    assert load_sidecar(str(path), layout, None) is None
    with pytest.raises(ShardChangedError, match=r"it takes data from .*: expected the file that was indexed"):
        dataset[0]
    check(path, False, len(dataset))


@pytest.mark.parametrize(
    ("kind", "gone", "lost"),
    [("external group", "other.h5", 1), ("external data set", "other.h5", 1), ("external storage", "raw.bin", 1),
     ("virtual data set", "third.h5", 1), ("link to a link in another file", "third.h5", 1)],
)  # fmt: skip
def test_missing_files_are_counted(main, tmp_path, kind, gone, lost):
    add(main, kind, tmp_path)
    main.close()
    content = (tmp_path / gone).read_bytes()
    (tmp_path / gone).unlink()
    path = tmp_path / "main.h5"
    check(path, True, 10, {"unreadable": lost})  # the others are all in the file
    with pytest.raises(ValueError, match="leads nowhere|expected a readable data set"):
        PlainSegmentDataset(path, **OPTIONS)
    with pytest.raises(ValueError, match=r"segment is unreadable \(on_bad='raise'"):
        SegmentDataset(path, on_bad="raise", **OPTIONS)
    (tmp_path / gone).write_bytes(content)  # it is there again: the index says otherwise and is built again
    assert not SegmentDataset(path, **OPTIONS).rejected


def test_external_storage_that_is_cut_short(main, tmp_path):
    """HDF5 gives zeros for what is missing."""
    add(main, "external storage", tmp_path)
    main.close()
    os.truncate(tmp_path / "raw.bin", 64 + record(9).nbytes - 1)
    check(tmp_path / "main.h5", True, 10, {"unreadable": 1})


@pytest.mark.parametrize("kind", ["link", "virtual", "external"])
def test_packed_signals_in_other_files(tmp_path, kind):
    signals = noise(12).astype("<f2")
    write_packed(tmp_path / "a.h5", signals[:, :8])
    write_packed(tmp_path / "b.h5", signals[::-1, :8])
    path = tmp_path / "main.h5"
    with h5py.File(path, "w") as file:
        file["ecg"] = signals[0, :8] * 3
        file["patient_id"] = h5py.ExternalLink("a.h5", "/patient_id")
        if kind == "link":
            file["ppg"] = h5py.ExternalLink("b.h5", "/ppg")
        elif kind == "virtual":
            virtual = h5py.VirtualLayout((8, L), "<f2")
            for number in range(2):
                rows = slice(4 * number, 4 * number + 4)
                virtual[rows] = h5py.VirtualSource(f"{'ab'[number]}.h5", "ppg", (8, L))[rows]
            file.create_virtual_dataset("ppg", virtual)
        else:
            (tmp_path / "raw.bin").write_bytes(signals[1, :8].tobytes())
            file.create_dataset("ppg", (8, L), "<f2", external=[(str(tmp_path / "raw.bin"), 0, 8 * L * 2)])
    with h5py.File(path) as file:
        wanted = file["ppg"][()], file["ecg"][()]
    dataset = SegmentDataset(path, **OPTIONS)
    assert dataset.subjects == list("0123")
    assert not dataset.segments.index.shards[0].mapped
    for item, ppg, ecg in zip(dataset, *wanted, strict=True):
        for name, x in (("ppg", ppg), ("ecg", ecg)):
            np.testing.assert_allclose(item[name], 2 * (x - x.min()) / (x.max() - x.min()) - 1, atol=4e-3)
    if kind == "virtual":
        (tmp_path / "b.h5").unlink()
        dataset = SegmentDataset(path, **OPTIONS)
        assert (len(dataset), dict(dataset.rejected)) == (4, {"unreadable": 4})
    if kind == "external":
        os.truncate(tmp_path / "raw.bin", 5 * L * 2 + 1)
        dataset = SegmentDataset(path, **OPTIONS)
        assert (len(dataset), dict(dataset.rejected)) == (5, {"unreadable": 3})


def test_an_index_of_the_version_before_is_built_again(main, tmp_path, monkeypatch):
    add(main, "external group", tmp_path)
    main.close()
    path = tmp_path / "main.h5"
    index = open_index(path)
    target = index.shards[0].sidecar.path
    sidecar, rows = sidecars.read_sidecar(target)
    about = sidecar.valid_for | {"version": 1}
    about.pop("others")
    header = dataclasses.replace(sidecar.header, mapped=True)  # as version 1 took it
    sidecars.write_sidecar(target, Scan(header, rows, sidecar.keys()), about)
    layout = SegmentDataset(path, **OPTIONS).segments.layout
    assert load_sidecar(str(path), layout, None)[0].valid_for["version"] == 2
    check(path, False, 12)


def test_links_that_lead_back_and_forth(main, tmp_path):
    with h5py.File(tmp_path / "other.h5", "r+") as other:
        other["x_1"] = h5py.ExternalLink("main.h5", "/x_1")
        virtual = h5py.VirtualLayout((L, 3), "<f2")
        virtual[:] = h5py.VirtualSource("main.h5", "x_2/" + key(7), (L, 3))
        other.create_virtual_dataset("x_2/" + key(7), virtual)
    main["x_1"] = h5py.ExternalLink("other.h5", "/x_1")
    virtual[:] = h5py.VirtualSource("other.h5", "x_2/" + key(7), (L, 3))
    main.create_virtual_dataset("x_2/" + key(7), virtual)
    main["x_3"] = h5py.SoftLink("/x_3")
    main.close()
    dataset = SegmentDataset(tmp_path / "main.h5", **OPTIONS)
    assert (len(dataset), dict(dataset.rejected)) == (10, {"unreadable": 3})


def test_a_fetched_shard_lacks_what_it_links_to(main, tmp_path):
    fsspec = pytest.importorskip("fsspec")
    add(main, "external group", tmp_path)
    main.close()
    memory = fsspec.filesystem("memory")
    for name in ("main.h5", "other.h5"):
        memory.pipe(f"/linked/{name}", (tmp_path / name).read_bytes())
    dataset = SegmentDataset("memory://linked/main.h5", cache_dir=tmp_path / "cache", **OPTIONS)
    assert (len(dataset), dict(dataset.rejected)) == (10, {"unreadable": 1})
    memory.rm("/linked", recursive=True)


def test_a_file_that_appears_disturbs_no_open_data_set(main, tmp_path):
    main["x_1"] = h5py.ExternalLink("none.h5", "/m_1")
    main.close()
    path = tmp_path / "main.h5"
    dataset = SegmentDataset(path, **OPTIONS)
    dataset[0]
    (tmp_path / "third.h5").rename(tmp_path / "none.h5")
    dataset[9]
    assert len(SegmentDataset(path, **OPTIONS)) == 12
