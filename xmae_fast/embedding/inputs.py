"""Tells whether the inputs of `embed_files` are shards or recordings, and lists the recordings."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable

from xmae_fast.data.remote.paths import SUFFIXES as SHARDS
from xmae_fast.recordings.formats.hdf5 import has_data_sets_of_shards, is_recording, looks_raw
from xmae_fast.recordings.own_files import is_own
from xmae_fast.recordings.sources import FORMATS, Source, find_sources, suffix_of

_KNOWN = ", ".join(FORMATS)


def find_recordings(
    paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]], rate_given: bool = False
) -> list[Source] | None:
    """Find the recordings that `paths` stand for.

    Args:
        paths: files, folders (with all folders in them) and patterns of recordings; or shards as `SegmentDataset` takes
            them.
        rate_given: whether a sampling rate was given. HDF5 files [n, L] whose values are not prepared then count as
            recordings, and as shards otherwise.

    Returns:
        The recordings, in the order of `paths`, and those of a folder or a pattern by name; None if `paths` are shards.

    Raises:
        ValueError: `paths` stand for shards and for recordings.
        FileNotFoundError: there is no such file.
    """
    listed = [os.fspath(path) for path in ([paths] if isinstance(paths, str | os.PathLike) else paths)]
    shard, entries = "", []
    for path in listed:
        found, recordings = _in(path, rate_given)
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


def _in(path: str, rate_given: bool) -> tuple[str, list[str]]:
    """A shard that `path` stands for, or "", and the recordings that it stands for."""
    if "://" in path:
        return path, []
    if os.path.isdir(path):
        return _in_folder(path, rate_given)
    if os.path.exists(path) or not glob.has_magic(path):
        if not os.path.exists(path) and os.path.isfile(f"{path}.hea"):
            return "", [f"{path}.hea"]
        if _is_shard(path, rate_given):
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
            found, inside = _in_folder(match, rate_given)
            shard, recordings = shard or found, recordings + inside
        elif _is_shard(match, rate_given):
            shard = shard or match
        elif suffix_of(match) and not is_own(match):
            recordings.append(match)
    return ("", recordings) if recordings and not shard else (shard or path, recordings)


def _in_folder(folder: str, rate_given: bool) -> tuple[str, list[str]]:
    """A shard in a folder, or "", and the recordings in it; shards count only where `SegmentDataset` looks for them."""
    names = sorted(entry.path for entry in os.scandir(folder) if not entry.name.startswith(".") and entry.is_file())
    shard = next((name for name in names if _is_shard(name, rate_given)), "")
    try:
        recordings = [source.path for source in find_sources(folder)[0] if not _is_shard(source.path, rate_given)]
    except ValueError:
        recordings = []
    if not shard and not recordings:
        known = ", ".join([*SHARDS, *(suffix for suffix in FORMATS if suffix not in SHARDS)])
        raise ValueError(f"paths: expected shards or recordings ({known}) in {folder}, found none")
    return shard, recordings


def _is_shard(path: str, rate_given: bool) -> bool:
    """Whether a file has the suffix of shards and is no recording; see `find_recordings`."""
    if not path.endswith(SHARDS) or path.endswith(".index.h5"):
        return False
    if has_data_sets_of_shards(path):
        return not (rate_given and looks_raw(path, ("ppg",)))
    return not is_recording(path)
