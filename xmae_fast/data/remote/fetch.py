"""Shards by name, folder, pattern or URL: what is remote is fetched once into a cache folder and read from there."""

import glob
import hashlib
import json
import os
import re
import secrets
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import BinaryIO

from xmae_fast._files import atomic_path
from xmae_fast.data.remote.filesystems import CHUNK, Remote, ask, chunks, filesystem, is_http, is_local, naming_errors
from xmae_fast.workers.progress import Progress

PathLike = str | os.PathLike
SUFFIXES = (".h5", ".hdf5")


def resolve_paths(
    paths: PathLike | Iterable[PathLike],
    *,
    cache_dir: PathLike | None = None,
    progress: Progress | None = None,
    storage_options: dict | None = None,
) -> list[str]:
    """Local files for `paths`, one or several of: a file; a folder (its *.h5 and *.hdf5, sorted); a pattern with any of
    `*?[` (the same kinds of file, sorted); a URL `<protocol>://` of one of these, fetched once (see `fetch`). Hidden
    files and *.index.h5 are left out of folders and patterns. Over HTTP, a folder is a URL that ends in "/", and "?" is
    no pattern. Local names stay as they are; `file://` is local.

    Everything is listed before the first download. FileNotFoundError for a missing file; ValueError for a folder or
    pattern without shards, for a shard named twice and for none at all; otherwise the errors of `fetch`."""
    found: dict[object, str] = {}
    for path in [paths] if isinstance(paths, (str, os.PathLike)) else paths:
        path = os.fspath(path)
        for identity, name in _expand_url(path, storage_options) if "://" in path else _expand_local(path):
            if identity in found:
                raise ValueError(f"paths: expected each shard once, got {name} twice (the first as {found[identity]})")
            found[identity] = name
    if not found:
        raise ValueError("paths: expected at least one shard, got none")
    options = {"cache_dir": cache_dir, "progress": progress, "storage_options": storage_options}
    return [fetch(name, **options) if "://" in name else name for name in found.values()]


def fetch(
    url: str,
    *,
    cache_dir: PathLike | None = None,
    progress: Progress | None = None,
    storage_options: dict | None = None,
) -> str:
    """The local copy of the file at `url`: `<16 hex digits of the URL's SHA-256>-<basename>` in `cache_dir`, by default
    `$XDG_CACHE_HOME/xmae_fast/shards` or `~/.cache/xmae_fast/shards`; beside it `<name>.json` says what it is.

    A whole copy is used again while the server states the same version, and, with a warning, when the server does not
    answer; otherwise the file is fetched anew. A broken download is continued if the version is still the same. Of
    several processes one downloads, the others wait for it. `progress(url, bytes_done, bytes_total or None)` is called
    per chunk, of at most 4 MiB. `storage_options` are fsspec's. `file://` is not copied.

    ImportError without fsspec or the protocol's driver; ValueError for an unknown protocol; an OSError naming the URL
    for what the server refuses, lacks, breaks off, sends incompletely or changes meanwhile."""
    if "://" not in url:
        raise ValueError(f"url: expected <protocol>://<path>, got {url!r}")
    if is_local(url):
        return _existing(filesystem(url, storage_options)[1])
    if cache_dir is None:
        cache_dir = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
        cache_dir = os.path.join(cache_dir, "xmae_fast", "shards")
    base = re.sub(r"[^\w.+=-]", "_", _basename(url), flags=re.ASCII)[-180:]
    target = os.path.join(cache_dir, f"{hashlib.sha256(url.encode()).hexdigest()[:16]}-{base}")
    try:
        remote = ask(url, storage_options)
    except OSError as error:
        if not _is_cached(target):
            raise
        warnings.warn(f"cached copy {target} is used without asking its server for changes: {error}", stacklevel=2)
        return target
    if _is_cached(target, remote):
        return target
    os.makedirs(cache_dir, exist_ok=True)
    # fsspec's own key is no proof that a file is the same one.
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
        # In this order, so that a JSON file never speaks of other data than that beside it.
        _remove(f"{target}.json")
        os.replace(name, target)
        _write_json(f"{target}.json", {**remote.version(), "size": size, "sha256": sha256})
        _remove(f"{name}.json")
    return target


def verify(path: PathLike) -> None:
    """Read a cached copy again: ValueError when its SHA-256 is not the one in its JSON file, or none is found there;
    FileNotFoundError when the copy is missing."""
    with open(path, "rb") as file:
        got = _hash(file).hexdigest()
    expected = _read_json(f"{os.fspath(path)}.json").get("sha256", "(none known)")
    if got != expected:
        raise ValueError(
            f"cached copy {path}: expected sha256 {expected}, got {got}: delete it and it will be fetched again"
        )


def _expand_local(path: str) -> Iterator[tuple[object, str]]:
    """(identity, name) of each file."""
    names = [path]
    if os.path.isdir(path):
        names = _shards(path, ((entry.path, entry.is_dir()) for entry in os.scandir(path)))
    elif any(sign in path for sign in "*?[") and not os.path.isfile(path):
        names = _shards(path, ((name, os.path.isdir(name)) for name in glob.iglob(path, recursive=True)))
    for name in names:
        yield os.path.realpath(_existing(name)), name


def _expand_url(url: str, storage_options: dict | None) -> Iterator[tuple[object, str]]:
    """(identity, URL or local name) of each file."""
    fs, path = filesystem(url, storage_options)
    if is_local(url):
        yield from _expand_local(path)
        return
    http = is_http(url)
    signs = r"[*[]" if http else r"[*?[]"
    is_pattern = re.search(signs, url.partition("?")[0] if http else url) is not None
    with naming_errors(url):
        if is_pattern and not fs.isfile(path):
            entries = fs.glob(path, detail=True).values()
            folder, root = (re.split(signs, text, maxsplit=1)[0].rpartition("/")[0] for text in (url, path))
        elif url.endswith("/") or (not http and not _basename(path).endswith(SUFFIXES) and fs.isdir(path)):
            entries = fs.ls(path, detail=True)
            folder, root = url.removesuffix("/"), path.removesuffix("/")
        else:
            entries = None
    if entries is None:
        yield (fs, path), url
        return
    for name in _shards(url, ((entry["name"], entry["type"] == "directory") for entry in entries)):
        yield (fs, name), folder + name.removeprefix(root)  # fsspec's own unstrip_protocol loses hosts


def _shards(path: str, entries: Iterable[tuple[str, bool]]) -> list[str]:
    """The sorted names of shards among what is at `path`, (name, whether it is a folder) each."""
    names = []
    for name, is_folder in entries:
        base = _basename(name)
        if not is_folder and base.endswith(SUFFIXES) and not base.startswith(".") and not base.endswith(".index.h5"):
            names.append(name)
    if not names:
        raise ValueError(f"paths: expected *.h5 or *.hdf5 files for {path}, found none")
    return sorted(names)


def _download(remote: Remote, name: str, file: BinaryIO, resume: bool, progress: Progress | None) -> str:
    """Bring `file`, whose name is `name`, to the whole content on disk and return its SHA-256. `resume`: go on where a
    broken download ended, and write down the version for a next call to do so."""
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
    """(name, file, keep) to download to, opened to append: `<target>.partial`, locked against other processes, which is
    left after an error if `keep`; where files cannot be locked, an own temporary one, which is not."""
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
    """The file `name`, created if missing, once no one else has it locked; None where files cannot be locked."""
    try:
        import fcntl
    except ImportError:
        return None
    while True:
        file = open(name, "ab+")  # noqa: SIM115
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            # Who held the lock may have renamed or removed the file, and another may have made a new one.
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


def _existing(path: str) -> str:
    if not os.path.isfile(path):
        found = "a folder" if os.path.isdir(path) else "nothing"
        raise FileNotFoundError(f"shard {path}: expected an HDF5 file, found {found}")
    return path


def _is_cached(target: str, remote: Remote | None = None) -> bool:
    """Whether a whole copy is there, and if asked, of the version that the server states."""
    known = _read_json(f"{target}.json")
    if not os.path.isfile(target) or os.path.getsize(target) != known.get("size"):
        return False
    return remote is None or (known.get("validator") == remote.validator and remote.size in (None, known["size"]))


def _read_json(path: str) -> dict:
    """The object in a JSON file, empty where there is none."""
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


def _basename(path: str) -> str:
    return (path.partition("?")[0] if is_http(path) else path).rpartition("/")[2]
