"""Fetching over HTTP from a server in a thread of this process."""

import http.server
import re
import threading
from pathlib import Path

import pytest

from tests.data.fake_remote import DATA, check_copy, names_in
from xmae_fast.data import fetch
from xmae_fast.data.remote import filesystems as remote_fs
from xmae_fast.data.remote.paths import resolve_paths

pytest.importorskip("fsspec")
pytest.importorskip("aiohttp")


class Server(http.server.ThreadingHTTPServer):
    """Serves `files` by name, and their names as links at "/". `ranges`: answer Range requests; `status`: refuse all
    with it; `sent`: at most so many bytes of each body; `versions`: state ETags. `.log` holds (method, path, Range)."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.log = {"a.h5": DATA}, []
        self.ranges, self.status, self.sent, self.versions = True, None, None, True
        self.url = f"http://127.0.0.1:{self.server_port}"

    def gets(self):
        return [(path, span) for method, path, span in self.log if method == "GET"]


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        server, name = self.server, self.path.partition("?")[0][1:]
        span = self.headers.get("Range")
        server.log.append((self.command, self.path, span))
        if server.status or (name and name not in server.files):
            self.send_error(server.status or 404)
            return
        links = "".join(f'<a href="{file}">{file}</a>' for file in server.files)
        body = server.files[name] if name else links.encode()
        tag, size = f'"{hash(body)}"', len(body)
        if span and server.ranges:
            first, last = re.fullmatch(r"bytes=(\d+)-(\d*)", span).groups()
            body = body[int(first) : int(last or size) + 1]
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {first}-{int(first) + len(body) - 1}/{size}")
        else:
            self.send_response(200)
        self.send_header("Content-Type", "application/octet-stream" if name else "text/html")
        self.send_header("Content-Length", str(len(body)))
        if server.versions:
            self.send_header("ETag", tag)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body[: server.sent])

    do_HEAD = do_GET

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(remote_fs, "CHUNK", 1000)
    server = Server()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    server.stop = lambda: (server.shutdown(), server.server_close(), thread.join())
    yield server
    server.stop()


def test_one_request_fetches_a_file_and_none_a_known_one(server, tmp_path):
    url = f"{server.url}/a.h5"
    calls = []
    path = resolve_paths(url, cache_dir=tmp_path, progress=lambda *call: calls.append(call))[0]
    check_copy(path, url)
    assert server.gets() == [("/a.h5", None)]
    assert calls[-1] == (url, 10_000, 10_000)
    assert fetch(url, cache_dir=tmp_path) == path
    assert len(server.gets()) == 1
    server.files["a.h5"] = DATA[::-1]
    check_copy(fetch(url, cache_dir=tmp_path), url, DATA[::-1])


def test_folders_patterns_and_queries(server, tmp_path):
    server.files.update(dict.fromkeys(("c.hdf5", "b.h5", ".hidden.h5", "a.index.h5", "a.npz"), b"x"))
    names = ["a.h5", "b.h5", "c.hdf5"]
    for url, count in ((f"{server.url}/", 3), (f"{server.url}/*.h5", 2)):
        paths = resolve_paths(url, cache_dir=tmp_path)
        assert [Path(path).name.partition("-")[2] for path in paths] == names[:count]
    assert Path(paths[0]).read_bytes() == DATA
    path = resolve_paths(f"{server.url}/a.h5?key=a*b/c", cache_dir=tmp_path)[0]
    assert path.endswith("-a.h5")
    assert server.gets()[-1] == ("/a.h5?key=a*b/c", None)


def test_a_server_that_is_gone(server, tmp_path):
    url = f"{server.url}/a.h5"
    path = fetch(url, cache_dir=tmp_path)
    server.stop()
    with pytest.warns(UserWarning, match=f"cached copy {path} is used without asking .*shard {url}"):
        assert fetch(url, cache_dir=tmp_path) == path
    with pytest.warns(UserWarning, match="is used without asking"):
        assert resolve_paths(url, cache_dir=tmp_path) == [path]
    with pytest.raises(OSError, match=f"shard {url}: expected an answer .*Connect") as error:
        fetch(url, cache_dir=tmp_path / "other")
    assert not isinstance(error.value, FileNotFoundError)


@pytest.mark.parametrize(
    ("status", "kind", "message"),
    [(404, FileNotFoundError, "expected an HDF5 file, found nothing"), (403, PermissionError, "403"),
     (401, PermissionError, "401"), (500, OSError, "500")],
)  # fmt: skip
def test_a_server_that_refuses(server, tmp_path, status, kind, message):
    server.status = status
    with pytest.raises(OSError, match=f"shard {server.url}/a.h5: .*{message}") as error:
        fetch(f"{server.url}/a.h5", cache_dir=tmp_path)
    assert type(error.value) is kind
    assert names_in(tmp_path) == []


@pytest.mark.parametrize("ranges", [True, False])
def test_a_truncated_transfer_is_continued_or_begun_again(server, tmp_path, ranges):
    url = f"{server.url}/a.h5"
    server.sent, server.ranges = 5500, ranges
    with pytest.raises(OSError, match=rf"shard {url}: expected 10000 bytes, received \d+"):
        fetch(url, cache_dir=tmp_path)
    (partial,) = tmp_path.glob("*.partial")
    size = partial.stat().st_size
    assert DATA.startswith(partial.read_bytes())
    server.sent = None
    server.log.clear()
    check_copy(fetch(url, cache_dir=tmp_path), url)
    spans = [span for _, span in server.gets()]
    assert (None in spans) == (size == 0 or not ranges)
    assert size == 0 or spans[0].startswith(f"bytes={size}-")


def test_a_server_without_versions(server, tmp_path):
    url = f"{server.url}/a.h5"
    server.versions, server.sent = False, 5500
    with pytest.raises(OSError, match="expected 10000 bytes"):
        fetch(url, cache_dir=tmp_path)
    assert names_in(tmp_path) == []
    server.sent = None
    check_copy(fetch(url, cache_dir=tmp_path), url)
    fetch(url, cache_dir=tmp_path)
    assert len(server.gets()) == 2
