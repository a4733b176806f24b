"""Fetches remote files once into a cache folder, from where they are read."""

import hashlib
import json
import logging
import os
import re
import secrets
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import BinaryIO

from xmae_fast._files import atomic_path
from xmae_fast.data.remote.filesystems import CHUNK, Remote, ask, basename, chunks, existing_file, filesystem, is_local
from xmae_fast.workers.progress import Progress

PathLike = str | os.PathLike
_log = logging.getLogger("xmae_fast.data")


def fetch(
    url: str,
    *,
    cache_dir: PathLike | None = None,
    progress: Progress | None = None,
    storage_options: dict | None = None,
) -> str:
    """Fetch a file into the cache, unless it is there already.

    A copy that is whole is used again as long as the server states the same version. It is also used, with a warning,
    if the server does not answer. Otherwise the file is fetched again. A download that was interrupted is continued if
    the version is still the same. If several processes need the file, one downloads it and the others wait.

    Args:
        url: `<protocol>://<path>`; `file://` is not copied.
        cache_dir: the folder for copies; by default `$XDG_CACHE_HOME/xmae_fast/shards`, or
            `~/.cache/xmae_fast/shards`.
        progress: is called with (url, bytes that are done, bytes in all or None) after each chunk of at most 4 MiB.
        storage_options: are passed to fsspec.

    Returns:
        The path of the copy, `<cache_dir>/<16 hexadecimal digits of the URL's SHA-256>-<basename>`. The file
        `<copy>.json` beside it states URL, version, size and SHA-256.

    Raises:
        ImportError: fsspec or the driver of the protocol is not installed.
        ValueError: the protocol is unknown.
        OSError: the server refuses, does not have the file, sends only a part of it, or the file changes while it is
            fetched; the message names the URL.
    """
    if "://" not in url:
        raise ValueError(f"url: expected <protocol>://<path>, got {url!r}")
    if is_local(url):
        return existing_file(filesystem(url, storage_options)[1])
    if cache_dir is None:
        cache_dir = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
        cache_dir = os.path.join(cache_dir, "xmae_fast", "shards")
    base = re.sub(r"[^\w.+=-]", "_", basename(url), flags=re.ASCII)[-180:]
    target = os.path.join(cache_dir, f"{hashlib.sha256(url.encode()).hexdigest()[:16]}-{base}")
    try:
        remote = ask(url, storage_options)
    except OSError as error:
        if not _is_cached(target):
            raise
        warnings.warn(f"cached copy {target} is used without asking its server for changes: {error}", stacklevel=2)
        return target
    if _is_cached(target, remote):
        _log.debug("%s is in the cache: %s", url, target)
        return target
    _log.debug("%s is fetched to %s", url, target)
    os.makedirs(cache_dir, exist_ok=True)
    # The key that fsspec makes up does not prove that a file is the same.
    keep = bool(remote.validator) and "ukey" not in remote.validator
    with _working_file(target, keep) as (name, file, resume):
        if _is_cached(target, remote):
            _remove(name, f"{name}.json")
            return target
        sha256 = _download(remote, name, file, resume, progress)
        if keep and ask(url, storage_options).version() != remote.version():
            _remove(name, f"{name}.json")
            raise OSError(f"shard {url}: expected one version, but it changed while it was fetched: try again")
        size = os.path.getsize(name)
        # In this order, so that a JSON file never describes other data than those beside it.
        _remove(f"{target}.json")
        _publish(name, target)
        _write_json(f"{target}.json", {**remote.version(), "size": size, "sha256": sha256})
        _remove(name, f"{name}.json")
    return target


def _publish(name: str, target: str) -> None:
    """Make the locked file `name` also `target`. Where links are possible `name` stays, so that another process goes on
    waiting for its lock until the copy is described; with a new file there it would download again."""
    link = f"{target}.{secrets.token_hex(4)}.tmp"
    try:
        os.link(name, link)
    except OSError:
        os.replace(name, target)
        return
    os.replace(link, target)
    _remove(link)  # it stays if `target` was this file already, after a stop right here


def verify(path: PathLike) -> None:
    """Read a cached copy and compare its SHA-256 with the one in its JSON file.

    Raises:
        FileNotFoundError: there is no file at `path`.
        ValueError: the SHA-256 is another one, or the JSON file does not state one.
    """
    with open(path, "rb") as file:
        got = _hash(file).hexdigest()
    expected = _read_json(f"{os.fspath(path)}.json").get("sha256", "(none known)")
    if got != expected:
        raise ValueError(
            f"cached copy {path}: expected sha256 {expected}, got {got}: delete it and it will be fetched again"
        )


def _download(remote: Remote, name: str, file: BinaryIO, resume: bool, progress: Progress | None) -> str:
    """Download a file completely and write it to the disk.

    Args:
        remote: the file at the server.
        name: the local file.
        file: the same file, open for reading and appending.
        resume: go on where an interrupted download has ended, and store the version so that a next call can do so.
        progress: see `fetch`.

    Returns:
        The SHA-256 in hexadecimal digits.
    """
    file.seek(0)
    if resume and _read_json(f"{name}.json") == remote.version():
        digest, done = _hash(file), file.tell()
    else:
        file.truncate(0)
        digest, done = hashlib.sha256(), 0
        if resume:
            _write_json(f"{name}.json", remote.version())
    begun = done
    for position, chunk in chunks(remote, done):
        if position == 0:
            file.truncate(0)
            digest = hashlib.sha256()
        file.write(chunk)
        digest.update(chunk)
        done = position + len(chunk)
        if progress is not None:
            progress(remote.url, done, remote.size)
    if remote.size not in (None, done):
        if not begun < done < remote.size:
            _remove(name, f"{name}.json")
        raise OSError(f"shard {remote.url}: expected {remote.size} bytes, received {done}")
    file.flush()
    os.fsync(file.fileno())
    return digest.hexdigest()


@contextmanager
def _working_file(target: str, keep: bool) -> Iterator[tuple[str, BinaryIO, bool]]:
    """The file to download to: `<target>.partial`, locked so that no other process writes to it. Where files cannot be
    locked, it is a temporary file of this process's own.

    Args:
        target: where the whole file will be.
        keep: whether `<target>.partial` remains after an error; a temporary file never does.

    Yields:
        Its name, the file open for reading and appending, and whether it remains after an error.
    """
    name = f"{target}.partial"
    file = _open_locked(name)
    if file is None:
        name, keep = f"{target}.{secrets.token_hex(4)}.tmp", False
        file = open(name, "ab+")  # noqa: SIM115
    with file:
        try:
            yield name, file, keep
        except BaseException:
            if not keep:
                _remove(name)
            raise


def _open_locked(name: str) -> BinaryIO | None:
    """Open the file `name`, which is created if it is missing, and wait until no other process has locked it; None
    where files cannot be locked."""
    try:
        import fcntl
    except ImportError:
        return None
    while True:
        file = open(name, "ab+")  # noqa: SIM115
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            # The process that held the lock may have renamed or removed the file, and another may have made a new one.
            if os.path.samestat(os.fstat(file.fileno()), os.stat(name)):
                return file
        except FileNotFoundError:
            pass
        except OSError:
            with file:
                if os.fstat(file.fileno()).st_size == 0:
                    _remove(name)
            return None
        file.close()


def _is_cached(target: str, remote: Remote | None = None) -> bool:
    """Whether a whole copy is there, and if `remote` is given, whether it has the version that the server states."""
    known = _read_json(f"{target}.json")
    if not os.path.isfile(target) or os.path.getsize(target) != known.get("size"):
        return False
    return remote is None or (known.get("validator") == remote.validator and remote.size in (None, known["size"]))


def _read_json(path: str) -> dict:
    """The object in a JSON file; empty if there is none."""
    with suppress(OSError, ValueError), open(path, encoding="utf-8") as file:
        content = json.load(file)
        return content if isinstance(content, dict) else {}
    return {}


def _write_json(path: str, content: dict) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1), encoding="utf-8")


def _remove(*paths: str) -> None:
    for path in paths:
        with suppress(FileNotFoundError):
            os.unlink(path)


def _hash(file: BinaryIO):
    digest = hashlib.sha256()
    while chunk := file.read(CHUNK):
        digest.update(chunk)
    return digest
