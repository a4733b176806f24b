"""The files that indexes are kept in: when they count, their form, and the processes that write them."""

import json
import os
import signal
import subprocess
import sys
import textwrap

import h5py
import numpy as np
import pytest

from tests.data.layouts import write_packed, write_published
from xmae_fast.data import Layout, open_index, problems
from xmae_fast.data.index.scan_pool import ScanWorker
from xmae_fast.data.index.sidecar import SUFFIX, fingerprint, load_sidecar, read_sidecar, sidecar_paths


@pytest.fixture
def signals():
    return np.random.default_rng(0).normal(size=(2, 10, 60))


def test_index_is_kept_and_rebuilt_when_stale(tmp_path, signals):
    path = tmp_path / "x.h5"
    names = write_published(path, signals)
    built = []
    open_index(path, progress=lambda *event: built.append(event))
    assert built
    sidecar = sidecar_paths(str(path), None)[0]
    assert sidecar == tmp_path / f".x.h5{SUFFIX}"
    built.clear()
    open_index(path, progress=lambda *event: built.append(event))
    assert not built
    status = os.stat(path)
    with h5py.File(path, "r+") as file:
        file[names[0]][:, 1] = 0.5
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))  # size and time are as before, only the content differs
    assert open_index(path).problem[0] == problems.CONSTANT | problems.CONSTANT_HALF
    os.utime(path)
    built.clear()
    open_index(path, progress=lambda *event: built.append(event))
    assert built
    built.clear()
    open_index(path, layout=Layout(columns=("time", "ecg", "ppg")), progress=lambda *event: built.append(event))
    assert built


def test_damaged_indexes_are_built_again(tmp_path, signals):
    path = tmp_path / "x.h5"
    write_published(path, signals)
    want = open_index(path).ppg_offset
    sidecar = sidecar_paths(str(path), None)[0]
    whole = sidecar.read_bytes()
    rng = np.random.default_rng(0)
    for case in range(60):
        damaged = bytearray(whole)
        if case % 2:
            damaged[rng.integers(len(whole))] ^= 1 << rng.integers(8)
        else:
            del damaged[rng.integers(len(whole)) :]
        sidecar.write_bytes(damaged)
        loaded = load_sidecar(str(path), Layout(), None)
        assert loaded is None or np.array_equal(loaded[1].ppg_offset, want)
    sidecar.write_bytes(whole[: len(whole) // 2])
    np.testing.assert_array_equal(open_index(path).ppg_offset, want)
    assert load_sidecar(str(path), Layout(), None) is not None


def test_the_file_of_an_index_keeps_its_form(tmp_path, signals):
    """The arrays, fields and bytes that earlier versions write and read, without the classes of the package."""
    path = tmp_path / "x.h5"
    write_packed(path, signals, dtype="<f4")
    with h5py.File(path, "r+") as file:
        file["age"] = np.arange(10.0)
    layout = Layout(labels=("age",))
    index = open_index(path, layout=layout)
    written = index.shards[0].sidecar.path
    with np.load(written) as stored:
        arrays = {name: stored[name] for name in stored.files}
    named = ["meta", "key", "subject", "ppg_offset", "ecg_offset", "quality", "problem", "label age"]
    assert list(arrays) == named
    meta = json.loads(arrays["meta"].tobytes())
    assert meta == {
        "form": "packed", "seq_len": 60, "dtype": "<f4", "stride": 4, "mapped": True, "why_not": "",
        "sampling_freq": None, "subjects": index.subjects, "valid_for": fingerprint(str(path), layout),
    }  # fmt: skip
    assert list(meta)[-1] == "valid_for"
    by_hand = {
        "meta": np.frombuffer(json.dumps(meta).encode(), np.uint8),
        "key": np.arange(10).astype("S"),
        "subject": index.subject,
        "ppg_offset": index.ppg_offset,
        "ecg_offset": index.ecg_offset,
        "quality": index.quality,
        "problem": index.problem,
        "label age": np.arange(10, dtype=np.float32),
    }
    for name, values in by_hand.items():
        assert arrays[name].dtype == values.dtype, name
        np.testing.assert_array_equal(arrays[name], values)
    with open(tmp_path / "by_hand.npz", "wb") as file:
        np.savez(file, **by_hand)
    sidecar, rows = read_sidecar(tmp_path / "by_hand.npz")
    assert sidecar.header == index.shards[0].header
    assert sidecar.keys().tolist() == by_hand["key"].tolist()
    for name in named[2:7]:
        np.testing.assert_array_equal(getattr(rows, name), by_hand[name])
    np.testing.assert_array_equal(rows.labels["age"], by_hand["label age"])


def test_cache_folder(tmp_path, signals, monkeypatch):
    folder = tmp_path / "data"
    folder.mkdir()
    write_published(folder / "x.h5", signals)
    open_index(folder / "x.h5", cache_dir=tmp_path / "cache")
    assert [p.name for p in folder.iterdir()] == ["x.h5"]
    assert len(list((tmp_path / "cache").iterdir())) == 1
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(os, "access", lambda *_: False)
    open_index(folder / "x.h5")
    assert [p.name for p in folder.iterdir()] == ["x.h5"]
    assert len(list((tmp_path / "home" / "xmae_fast" / "index").iterdir())) == 1


def test_several_processes_build_one_index(tmp_path, signals):
    path = tmp_path / "x.h5"
    write_published(path, signals)
    code = f"from xmae_fast.data import open_index; print(len(open_index({str(path)!r})))"
    running = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(3)]
    assert [process.communicate()[0].strip() for process in running] == ["10"] * 3
    assert sorted(p.name for p in tmp_path.iterdir()) == [f".x.h5{SUFFIX}", "x.h5"]


def test_killing_the_builder_leaves_nothing_broken(tmp_path):
    path = tmp_path / "x.h5"
    write_published(path, np.random.default_rng(0).normal(size=(2, 3000, 20)))
    code = textwrap.dedent(f"""
        import os, signal
        from pathlib import Path
        from xmae_fast.data.formats.layout import Layout
        from xmae_fast.data.index.scan_pool import ScanWorker
        worker = ScanWorker()
        def kill(*_):
            os.kill(worker._process.pid, signal.SIGKILL)
            os.kill(os.getpid(), signal.SIGKILL)
        worker.scan({str(path)!r}, Layout(), [Path({str(tmp_path / "i.npz")!r})], kill)
    """)
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -signal.SIGKILL
    assert [p.name for p in tmp_path.iterdir()] == ["x.h5"]
    assert len(open_index(path)) == 3000


def test_a_crash_of_the_scanner_is_an_error(tmp_path, signals, monkeypatch):
    path = tmp_path / "x.h5"
    write_published(path, signals)

    def crash(*_):
        process = worker._process
        os.kill(process.pid, signal.SIGSEGV)
        assert os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # it ends, however busy the machine is

    with ScanWorker() as worker:
        with pytest.raises(ValueError, match=r"x\.h5: expected a readable HDF5 file, but reading it ended the process"):
            worker.scan(str(path), Layout(), [tmp_path / "i.npz"], crash)
        assert worker.scan(str(path), Layout(), [tmp_path / "i.npz"]) == tmp_path / "i.npz"
