"""A file system of fsspec that can be slow, state wrong sizes and break off; and a check of fetched copies."""

import hashlib
import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from xmae_fast.data import fetch
from xmae_fast.data.remote import filesystems as remote_fs
from xmae_fast.data.remote.fetch import verify

fsspec = pytest.importorskip("fsspec")

DATA = np.random.default_rng(0).bytes(10_000)


class FakeFS(fsspec.AbstractFileSystem):
    """fake://<local file>; `hook(position)` runs before each read, `lie` is added to the size that it states."""

    protocol, cachable = "fake", False
    hook, lie, opened = staticmethod(lambda position: None), 0, 0

    def info(self, path, **kwargs):
        content = Path(path).read_bytes()
        etag = hashlib.md5(content).hexdigest()
        return {"name": path, "size": len(content) + self.lie, "type": "file", "ETag": etag}

    def _open(self, path, mode="rb", **kwargs):
        FakeFS.opened += 1
        return FakeFile(path)


class FakeFile(io.FileIO):
    def read(self, size=-1):
        FakeFS.hook(self.tell())
        return super().read(size)


fsspec.register_implementation("fake", FakeFS, clobber=True)


def fetch_and_stop_in_the_middle(url, cache_dir):
    """Run by the child processes below: fetch a file, say when the middle is reached, and wait there for a line."""

    def hook(position):
        if position == 2 * remote_fs.CHUNK:
            print("middle", flush=True)
            sys.stdin.readline()

    remote_fs.CHUNK, FakeFS.hook = 1 << 16, hook
    print("start", flush=True)
    print(fetch(url, cache_dir=cache_dir), FakeFS.opened, flush=True)


def start_child(url, cache_dir):
    code = f"from tests.data.fake_remote import *; fetch_and_stop_in_the_middle({url!r}, {str(cache_dir)!r})"
    options = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, "-c", code], cwd=Path(__file__).parents[2], **options)


def names_in(cache):
    return sorted(path.name for path in cache.iterdir()) if cache.exists() else []


def check_copy(path, url, data=DATA):
    """Check that the copy is whole, that its JSON file is right, and that nothing else is left."""
    assert Path(path).read_bytes() == data
    known = json.loads(Path(f"{path}.json").read_text())
    sha256 = hashlib.sha256(data).hexdigest()
    assert {**known, "validator": None} == {"url": url, "size": len(data), "sha256": sha256, "validator": None}
    assert known["validator"]
    verify(path)
    assert names_in(Path(path).parent) == sorted([Path(path).name, Path(path).name + ".json"])
