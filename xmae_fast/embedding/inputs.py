"""Tells whether the inputs of `embed_files` are shards or recordings, and lists the recordings."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable

from xmae_fast.data.formats.shards import import_h5py
from xmae_fast.data.remote.paths import SUFFIXES as SHARDS
from xmae_fast.recordings.sources import FORMATS, Source, find_sources, suffix_of

_KNOWN = ", ".join(FORMATS)


def find_recordings(paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]]) -> list[Source] | None:
    """Find the recordings that `paths` stand for.

    Args:
        paths: files, folders (with all folders in them) and patterns of recordings; or shards as `SegmentDataset` takes
            them.

    Returns:
        The recordings, in the order of `paths`, and those of a folder or a pattern by name; None if `paths` are shards.

    Raises:
        ValueError: `paths` stand for shards and for recordings.
        FileNotFoundError: there is no such file.
    """
    listed = [os.fspath(path) for path in ([paths] if isinstance(paths, str | os.PathLike) else paths)]
    shard, entries = "", []
    for path in listed:
        found, recordings = _in(path)
        shard = shard or found
        entries += recordings
    if shard and entries:
        both = f"{shard} is a shard, and {entries[0]} is a recording"
        raise ValueError(f"paths: expected shards or recordings, got both: {both}. Give each kind in a call of its own")
    if not entries:
        return None
    sources = {source.path: source for source in find_sources(entries)[0]}
    order = {os.path.abspath(entry): number for number, entry in reversed(list(enumerate(entries)))}
    return sorted(sources.values(), key=lambda source: order[source.path])


def _in(path: str) -> tuple[str, list[str]]:
    """A shard that `path` stands for, or "", and the recordings that it stands for."""
    if "://" in path:
        return path, []
    if os.path.isdir(path):
        return _in_folder(path)
    if os.path.exists(path) or not glob.has_magic(path):
        if not os.path.exists(path) and os.path.isfile(f"{path}.hea"):
            return "", [f"{path}.hea"]
        if _is_shard(path):
            return path, []
        if suffix_of(path) is None:
            if path.endswith(SHARDS) and os.path.isfile(path):
                what = f"it holds signals of one dimension, a recording as it seems: those are read from {_KNOWN}"
                raise ValueError(f"paths: expected segments [n, L] in {path}, {what}")
            return path, []
        if not os.path.isfile(path):
            raise FileNotFoundError(f"paths: expected a recording, {path} does not exist")
        return "", [path]
    matches = sorted(glob.glob(path, recursive=True))
    if not matches:
        raise FileNotFoundError(f"paths: no file matches {path}")
    shard, recordings = "", []
    for match in matches:
        if os.path.isdir(match):
            found, inside = _in_folder(match)
            shard, recordings = shard or found, recordings + inside
        elif _is_shard(match):
            shard = shard or match
        elif suffix_of(match):
            recordings.append(match)
    return ("", recordings) if recordings and not shard else (shard or path, recordings)


def _in_folder(folder: str) -> tuple[str, list[str]]:
    """A shard in a folder, or "", and the recordings in it; shards count only where `SegmentDataset` looks for them."""
    names = sorted(entry.path for entry in os.scandir(folder) if not entry.name.startswith(".") and entry.is_file())
    shard = next((name for name in names if _is_shard(name)), "")
    try:
        recordings = [source.path for source in find_sources(folder)[0] if not _is_shard(source.path)]
    except ValueError:
        recordings = []
    if not shard and not recordings:
        known = ", ".join([*SHARDS, *(suffix for suffix in FORMATS if suffix not in SHARDS)])
        raise ValueError(f"paths: expected shards or recordings ({known}) in {folder}, found none")
    return shard, recordings


def _is_shard(path: str) -> bool:
    """Whether a file has the suffix of shards and is no raw recording, which has signals of one dimension alone."""
    if not path.endswith(SHARDS) or path.endswith(".index.h5"):
        return False
    h5py = import_h5py()
    try:
        with h5py.File(path, "r") as file:
            members = [file.get(name) for name in file if file.get(name, getlink=True, getclass=True) is h5py.HardLink]
            sizes = [x.shape for x in members if isinstance(x, h5py.Dataset) and x.dtype.kind in "fiu" and x.size > 1]
            raw = bool(sizes) and all(isinstance(x, h5py.Dataset) for x in members)
            raw = raw and len(members) == len(file) and all(len(shape) == 1 for shape in sizes)
    except (OSError, RuntimeError):
        return True  # what is wrong with it is said where shards are opened
    return not raw
