"""Fetching: the cached copy, interrupted downloads, changed files, killed processes and several at the same time."""

import hashlib
import io
import os
import threading
from pathlib import Path

import numpy as np
import pytest

from tests.data.fake_remote import DATA, FakeFile, FakeFS, check_copy, names_in, start_child
from xmae_fast.data import fetch
from xmae_fast.data.remote import fetch as remote
from xmae_fast.data.remote import filesystems as remote_fs
from xmae_fast.data.remote.fetch import verify
from xmae_fast.data.remote.paths import resolve_paths


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """The URL and the file of a source of ten chunks."""
    monkeypatch.setattr(FakeFS, "opened", 0)
    monkeypatch.setattr(remote_fs, "CHUNK", 1000)
    path = tmp_path / "source.h5"
    path.write_bytes(DATA)
    return f"fake://{path}", path


def test_the_copy_and_its_json(tmp_path, monkeypatch):
    (tmp_path / "x y.h5").write_bytes(DATA)
    url = f"fake://{tmp_path}/x y.h5"
    name = f"{hashlib.sha256(url.encode()).hexdigest()[:16]}-x_y.h5"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert fetch(url) == str(tmp_path / "xdg" / "xmae_fast" / "shards" / name)
    check_copy(fetch(url), url)
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    check_copy(fetch(url), url)
    assert fetch(url) == str(tmp_path / "home" / ".cache" / "xmae_fast" / "shards" / name)


def test_progress_per_chunk_and_reuse_without_a_transfer(fake, cache, capfd):
    url, _ = fake
    calls = []
    path = resolve_paths(url, cache_dir=cache, progress=lambda *call: calls.append(call))[0]
    assert calls == [(url, done, 10_000) for done in range(1000, 10_001, 1000)]
    check_copy(path, url)
    assert fetch(url, cache_dir=cache) == path
    assert FakeFS.opened == 1
    assert capfd.readouterr() == ("", "")


def test_a_corrupted_copy(fake, cache):
    url, _ = fake
    path = Path(fetch(url, cache_dir=cache))
    path.write_bytes(bytes(len(DATA)))
    with pytest.raises(ValueError, match=rf"cached copy {path}: expected sha256 .*, got .*: delete it and it will be"):
        verify(path)
    path.unlink()
    check_copy(fetch(url, cache_dir=cache), url)
    path.write_bytes(DATA[:-1])
    check_copy(fetch(url, cache_dir=cache), url)
    Path(f"{path}.json").unlink()
    check_copy(fetch(url, cache_dir=cache), url)
    for text in ("", "{", "[]", "{}"):
        Path(f"{path}.json").write_text(text)
        with pytest.raises(ValueError, match=r"expected sha256 \(none known\)"):
            verify(path)
        check_copy(fetch(url, cache_dir=cache), url)
    with pytest.raises(FileNotFoundError):
        verify(cache / "none.h5")


def test_a_changed_file_is_fetched_again(fake, cache):
    url, source = fake
    path = fetch(url, cache_dir=cache)
    for data in (DATA[::-1], b"", b"short"):
        source.write_bytes(data)
        assert fetch(url, cache_dir=cache) == path
        check_copy(path, url, data)


def test_a_change_during_the_transfer_is_an_error(fake, cache, monkeypatch):
    url, source = fake
    monkeypatch.setattr(FakeFS, "hook", lambda position: position == 5000 and source.write_bytes(DATA[::-1]))
    with pytest.raises(OSError, match=rf"shard {url}: expected one version, but it changed"):
        fetch(url, cache_dir=cache)
    assert names_in(cache) == []
    check_copy(fetch(url, cache_dir=cache), url, DATA[::-1])


@pytest.mark.parametrize("lie", [1, -1])
def test_another_number_of_bytes_than_stated(fake, cache, monkeypatch, lie):
    url, _ = fake
    monkeypatch.setattr(FakeFS, "lie", lie)
    for _ in range(2):
        with pytest.raises(OSError, match=rf"shard {url}: expected {10_000 + lie} bytes, received 10000"):
            fetch(url, cache_dir=cache)
        assert not any(name.endswith((".h5", ".h5.json")) for name in names_in(cache))
    assert names_in(cache) == []
    monkeypatch.undo()
    check_copy(fetch(url, cache_dir=cache), url)


def break_off(position):
    if position == 5000:
        raise RuntimeError("cut")


def test_a_broken_download_is_continued_while_the_version_is_the_same(fake, cache, monkeypatch):
    url, source = fake
    seen = []
    for data, start in ((DATA, 5000), (DATA[::-1], 0)):
        source.write_bytes(DATA)
        monkeypatch.setattr(FakeFS, "hook", break_off)
        with pytest.raises(OSError, match=rf"shard {url}: expected 10000 bytes, received 5000 \(RuntimeError: cut"):
            fetch(url, cache_dir=cache)
        source.write_bytes(data)
        seen.clear()
        monkeypatch.setattr(FakeFS, "hook", seen.append)
        path = fetch(url, cache_dir=cache)
        assert seen[0] == start
        check_copy(path, url, data)
        os.unlink(path)


def test_servers_that_cannot_begin_in_the_middle(fake, cache, monkeypatch):
    url, _ = fake
    monkeypatch.setattr(FakeFS, "hook", break_off)
    with pytest.raises(OSError, match="received 5000"):
        fetch(url, cache_dir=cache)
    monkeypatch.setattr(FakeFS, "hook", lambda position: None)
    monkeypatch.setattr(FakeFile, "seek", io.RawIOBase.seek)
    check_copy(fetch(url, cache_dir=cache), url)
    assert FakeFS.opened == 3


def test_killed_in_the_middle(tmp_path, fake, cache, monkeypatch):
    url, source = fake
    data = np.random.default_rng(1).bytes(1 << 18)
    source.write_bytes(data)
    with start_child(url, cache) as child:
        assert [child.stdout.readline(), child.stdout.readline()] == ["start\n", "middle\n"]
        child.kill()
    (partial,) = cache.glob("*.partial")
    size = partial.stat().st_size
    assert 0 < size < len(data)
    assert names_in(cache) == [partial.name, f"{partial.name}.json"]
    seen = []
    monkeypatch.setattr(FakeFS, "hook", seen.append)
    check_copy(fetch(url, cache_dir=cache), url, data)
    assert seen[0] == size


def test_stopped_between_the_renames(fake, cache, monkeypatch):
    url, source = fake
    path = fetch(url, cache_dir=cache)
    source.write_bytes(DATA[::-1])
    write = remote._write_json
    with monkeypatch.context() as patch:
        patch.setattr(remote, "_write_json", lambda name, content: write(name, content) if "partial" in name else 1 / 0)
        with pytest.raises(ZeroDivisionError):
            fetch(url, cache_dir=cache)
    assert Path(path).read_bytes() == DATA[::-1]
    source.write_bytes(DATA)
    check_copy(fetch(url, cache_dir=cache), url)


def test_the_lock_lasts_until_the_copy_is_described(fake, cache, monkeypatch):
    """Another process that comes between the renames must find the locked file, or it would download again."""
    seen, write = [], remote._write_json

    def watched(name, content):
        seen.append(names_in(cache))
        write(name, content)

    monkeypatch.setattr(remote, "_write_json", watched)
    name = Path(fetch(fake[0], cache_dir=cache)).name
    assert {name, f"{name}.partial"} <= set(seen[-1])
    assert names_in(cache) == [name, f"{name}.json"]


def test_two_processes_download_once(fake, cache):
    url, source = fake
    data = np.random.default_rng(1).bytes(1 << 18)
    source.write_bytes(data)
    with start_child(url, cache) as first:
        assert [first.stdout.readline(), first.stdout.readline()] == ["start\n", "middle\n"]
        with start_child(url, cache) as second:
            assert second.stdout.readline() == "start\n"
            ends = [first.communicate("go\n")[0].split(), second.communicate("go\n")[0].split()]
    path = fetch(url, cache_dir=cache)
    assert ends == [[path, "1"], [path, "0"]]
    check_copy(path, url, data)


def test_a_file_renamed_by_another_process_before_it_was_locked(fake, cache, monkeypatch):
    fcntl = pytest.importorskip("fcntl")
    url, _ = fake
    flock, renamed = fcntl.flock, cache.parent / "renamed"

    def late_flock(file, operation):
        if not renamed.exists():
            os.rename(file.name, renamed)
        flock(file, operation)

    monkeypatch.setattr(fcntl, "flock", late_flock)
    check_copy(fetch(url, cache_dir=cache), url)
    assert renamed.read_bytes() == b""


def test_two_at_once_where_files_cannot_be_locked(fake, cache, monkeypatch):
    fcntl = pytest.importorskip("fcntl")
    url, _ = fake

    def no_locks(*arguments):
        raise OSError("no locks available")

    barrier = threading.Barrier(2, timeout=30)
    monkeypatch.setattr(fcntl, "flock", no_locks)
    monkeypatch.setattr(FakeFS, "hook", lambda position: position == 5000 and barrier.wait())
    threads = [threading.Thread(target=fetch, args=(url,), kwargs={"cache_dir": cache}) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert FakeFS.opened == 2
    check_copy(fetch(url, cache_dir=cache), url)
    monkeypatch.setattr(FakeFS, "hook", break_off)
    with pytest.raises(OSError, match="received 5000"):
        fetch(url, cache_dir=cache.parent / "other")
    assert names_in(cache.parent / "other") == []
