"""`resolve_paths` finds files, folders, patterns and URLs."""

import importlib.util
import sys
from pathlib import Path

import pytest

from xmae_fast.data import fetch
from xmae_fast.data.remote.paths import resolve_paths

fsspec = pytest.importorskip("fsspec")


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


@pytest.fixture
def memory():
    fs = fsspec.filesystem("memory")
    fs.store.clear()
    yield fs
    fs.store.clear()


@pytest.fixture
def folder(tmp_path):
    """A folder with the shards b.h5, a.h5 and c.hdf5, and with other files."""
    path = tmp_path / "folder"
    (path / "deep.h5").mkdir(parents=True)
    for name in ("b.h5", "a.h5", "c.hdf5", ".hidden.h5", "a.h5.index.h5", "a.truth.npz", "deep.h5/d.h5"):
        (path / name).write_bytes(name.encode())
    return path


def test_local_names_stay_as_they_are(folder, monkeypatch):
    monkeypatch.chdir(folder.parent)
    assert resolve_paths("folder/b.h5") == ["folder/b.h5"]
    assert resolve_paths([folder / "b.h5", "folder/a.h5"]) == [str(folder / "b.h5"), "folder/a.h5"]
    assert resolve_paths("folder") == ["folder/a.h5", "folder/b.h5", "folder/c.hdf5"]
    assert resolve_paths("folder/*") == resolve_paths("folder/")
    assert resolve_paths("folder/[bc].h*") == ["folder/b.h5", "folder/c.hdf5"]
    assert resolve_paths("**/?.h5") == ["folder/a.h5", "folder/b.h5", "folder/deep.h5/d.h5"]
    odd = folder / "what?[1].h5"
    odd.touch()
    assert resolve_paths(odd) == [str(odd)]
    assert str(odd) in resolve_paths(folder)


def test_local_errors(folder, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "link.h5").symlink_to(folder / "a.h5")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "link.h5").symlink_to(tmp_path / "none.h5")
    with pytest.raises(ValueError, match="paths: expected at least one shard, got none"):
        resolve_paths([])
    with pytest.raises(FileNotFoundError, match=r"none\.h5: expected an HDF5 file, found nothing"):
        resolve_paths([folder, tmp_path / "none.h5"])
    with pytest.raises(FileNotFoundError, match=r"link\.h5: expected an HDF5 file"):
        resolve_paths(tmp_path / "broken")
    for nothing in ("empty", "folder/*.npz", "empty/*"):
        with pytest.raises(ValueError, match=r"paths: expected \*\.h5 or \*\.hdf5 files for .*, found none") as error:
            resolve_paths(tmp_path / nothing)
        assert nothing in str(error.value)
    for twice in ([folder, folder / "a.h5"], [tmp_path / "link.h5", f"file://{folder}/a.h5"]):
        with pytest.raises(ValueError, match=r"paths: expected each shard once, got .*a\.h5 twice"):
            resolve_paths(twice)


def test_file_urls_are_local(folder, cache):
    expected = [str(folder / name) for name in ("a.h5", "b.h5", "c.hdf5")]
    assert resolve_paths(f"file://{folder}/a.h5", cache_dir=cache) == expected[:1]
    assert resolve_paths(f"file://{folder}", cache_dir=cache) == expected
    assert resolve_paths(f"file://{folder}/*.h5", cache_dir=cache) == expected[:2]
    assert fetch(f"file://{folder}/a.h5", cache_dir=cache) == expected[0]
    with pytest.raises(FileNotFoundError, match="found nothing"):
        fetch(f"file://{folder}/none.h5")
    assert not cache.exists()


def test_remote_files_folders_and_patterns(memory, cache):
    def contents(url):
        return [Path(path).read_text() for path in resolve_paths(url, cache_dir=cache)]

    for name in ("b.h5", "a.h5", "c.hdf5", ".hidden.h5", "a.index.h5", "a.npz", "deep/d.h5"):
        memory.pipe(f"/data/{name}", name.encode())
    assert contents("memory://data/b.h5") == ["b.h5"]
    assert contents("memory://data") == ["a.h5", "b.h5", "c.hdf5"]
    assert contents("memory:///data/") == ["a.h5", "b.h5", "c.hdf5"]
    assert contents("memory://data/?.h5") == ["a.h5", "b.h5"]
    assert contents("memory://data/**") == ["a.h5", "b.h5", "c.hdf5", "deep/d.h5"]
    memory.pipe("/data/e[1].h5", b"e")
    assert contents("memory://data/e[1].h5") == ["e"]
    with pytest.raises(ValueError, match="expected each shard once"):
        resolve_paths(["memory:///data/a.h5", "memory://data"], cache_dir=cache)
    with pytest.raises(ValueError, match=r"memory://data/\*\.x, found none"):
        resolve_paths("memory://data/*.x", cache_dir=cache)
    with pytest.raises(FileNotFoundError, match="shard memory://none.h5: expected an HDF5 file, found nothing"):
        resolve_paths("memory://none.h5", cache_dir=cache)
    with pytest.raises(IsADirectoryError, match="shard memory://data: expected an HDF5 file, found a folder"):
        fetch("memory://data", cache_dir=cache)


@pytest.mark.parametrize("url", ["memory://", "memory:///", "memory://*.h5", "memory:///?.h5"])
def test_the_root_of_a_protocol(memory, cache, url):
    memory.pipe("/a.h5", b"a")
    (path,) = resolve_paths(url, cache_dir=cache)
    assert Path(path).read_bytes() == b"a"


def test_hosts_that_are_no_part_of_the_path(memory, cache):
    class HostedFS(type(memory)):
        protocol = "hosted"

        @classmethod
        def _strip_protocol(cls, path):
            return super()._strip_protocol(path.removeprefix("hosted://host"))

    fsspec.register_implementation("hosted", HostedFS, clobber=True)
    memory.pipe("/data/a.h5", b"a")
    single = resolve_paths("hosted://host/data/a.h5", cache_dir=cache)
    assert resolve_paths("hosted://host/data", cache_dir=cache) == single
    assert resolve_paths("hosted://host/*/*.h5", cache_dir=cache) == single
    assert '"url": "hosted://host/data/a.h5"' in Path(f"{single[0]}.json").read_text()


def test_missing_packages_and_unknown_protocols(monkeypatch):
    with pytest.raises(ValueError, match="url: expected <protocol>://<path>, got 'x.h5'"):
        fetch("x.h5")
    with pytest.raises(ValueError, match="url: expected a protocol that fsspec knows, got 'nonsense'"):
        resolve_paths("nonsense://x.h5")
    with pytest.raises(ValueError, match="url: expected one protocol, without '::'"):
        fetch("zip://x.h5::memory://x.zip")
    fsspec.register_implementation("absent", "no_such_module.FileSystem", errtxt="Install no_such_module")
    with pytest.raises(ImportError, match="shard absent://x.h5: protocol 'absent' .*Install no_such_module"):
        resolve_paths("absent://x.h5")
    if importlib.util.find_spec("s3fs") is None:
        with pytest.raises(ImportError, match="shard s3://b/x.h5: protocol 's3' has no driver .*: pip install s3fs"):
            resolve_paths("s3://b/x.h5")
    monkeypatch.setitem(sys.modules, "fsspec", None)
    with pytest.raises(ImportError, match=r'pip install "xmae_fast\[remote\]"'):
        resolve_paths("s3://b/x.h5")
