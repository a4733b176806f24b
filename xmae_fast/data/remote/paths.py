"""Finds shards by name, folder, pattern or URL; remote ones are fetched, so that all paths are local."""

import glob
import os
import re
from collections.abc import Iterable, Iterator

from xmae_fast.data.remote.fetch import PathLike, fetch
from xmae_fast.data.remote.filesystems import basename, existing_file, filesystem, is_http, is_local, naming_errors
from xmae_fast.workers.progress import Progress

SUFFIXES = (".h5", ".hdf5")


def resolve_paths(
    paths: PathLike | Iterable[PathLike],
    *,
    cache_dir: PathLike | None = None,
    progress: Progress | None = None,
    storage_options: dict | None = None,
) -> list[str]:
    """The local files of shards. Everything is listed before the first download begins.

    Args:
        paths: one or several of the following. A file. A folder, which stands for its *.h5 and *.hdf5 files in order. A
            pattern with any of `*?[`, which stands for files of the same kinds in order. A URL `<protocol>://...` of
            one of these, which is fetched once (see `fetch`). Hidden files and *.index.h5 are left out of folders and
            patterns. Over HTTP, a folder is a URL that ends in "/", and "?" makes no pattern.
        cache_dir, progress, storage_options: see `fetch`.

    Returns:
        Paths. Local names, also those of `file://`, are not changed.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a folder or a pattern has no shards, a shard is named twice, or there is no shard at all.
        OSError, ImportError: as `fetch` raises them.
    """
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


def _expand_local(path: str) -> Iterator[tuple[object, str]]:
    """(identity, name) of each file that `path` stands for; files with equal identities are the same."""
    names = [path]
    if os.path.isdir(path):
        names = _shards(path, ((entry.path, entry.is_dir()) for entry in os.scandir(path)))
    elif any(sign in path for sign in "*?[") and not os.path.isfile(path):
        names = _shards(path, ((name, os.path.isdir(name)) for name in glob.iglob(path, recursive=True)))
    for name in names:
        yield os.path.realpath(existing_file(name)), name


def _expand_url(url: str, storage_options: dict | None) -> Iterator[tuple[object, str]]:
    """(identity, URL or local name) of each file that `url` stands for."""
    fs, path = filesystem(url, storage_options)
    if is_local(url):
        yield from _expand_local(path)
        return
    http = is_http(url)
    signs = r"[*[]" if http else r"[*?[]"
    folder = root = ""
    is_pattern = re.search(signs, url.partition("?")[0] if http else url) is not None
    with naming_errors(url):
        if is_pattern and not fs.isfile(path):
            entries = fs.glob(path, detail=True).values()
            folder, root = (re.split(signs, text, maxsplit=1)[0].rpartition("/")[0] for text in (url, path))
        elif url.endswith("/") or (not http and not basename(path).endswith(SUFFIXES) and fs.isdir(path)):
            entries = fs.ls(path, detail=True)
            folder, root = url.removesuffix("/"), path.removesuffix("/")
        else:
            entries = None
    if entries is None:
        yield (fs, path), url
        return
    for name in _shards(url, ((entry["name"], entry["type"] == "directory") for entry in entries)):
        yield (fs, name), folder + name.removeprefix(root)  # unstrip_protocol of fsspec loses hosts


def _shards(path: str, entries: Iterable[tuple[str, bool]]) -> list[str]:
    """The sorted names of the shards among `entries`, pairs (name, whether it is a folder) of what is at `path`.

    Raises:
        ValueError: there is no shard.
    """
    names = []
    for name, is_folder in entries:
        base = basename(name)
        if not is_folder and base.endswith(SUFFIXES) and not base.startswith(".") and not base.endswith(".index.h5"):
            names.append(name)
    if not names:
        raise ValueError(f"paths: expected *.h5 or *.hdf5 files for {path}, found none")
    return sorted(names)
