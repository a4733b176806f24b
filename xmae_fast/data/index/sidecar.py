"""The scan of a shard, kept in a file beside it (or in a cache folder) until the shard changes."""

import hashlib
import json
import logging
import os
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from xmae_fast._files import atomic_path, remains
from xmae_fast.data.formats.layout import Layout
from xmae_fast.data.formats.linked import content_probe, marks
from xmae_fast.data.index.shard_scan import Scan, ShardHeader, ShardRows

_log = logging.getLogger("xmae_fast.data")
VERSION = 2  # version 1 took records that links to other files lead to for records of the shard itself
_LABEL = "label "
SUFFIX = ".index.npz"
_ARRAYS = ("subject", "ppg_offset", "ecg_offset", "quality", "problem")
_STALE_TEMPORARY_S = 86_400.0


def fingerprint(path: str, layout: Layout, others: Iterable[str] = ()) -> dict:
    """What tells a version of a shard from others; an index is valid for a shard with the same fingerprint.

    Args:
        path: the shard.
        layout: the layout that it is read with.
        others: the other files that the shard takes data from.

    Returns:
        For JSON: the size, the modification time, a hash of 16 parts of the file, the layout, the version of the index,
        and if there are `others` their `marks`.
    """
    status = os.stat(path)
    linked = {"others": marks(others)} if others else {}
    return linked | {
        "version": VERSION,
        "size": status.st_size,
        "mtime_ns": status.st_mtime_ns,
        "probe": content_probe(path, status.st_size),
        "layout": repr(layout),
    }


def sidecar_paths(path: str, cache_dir: str | os.PathLike | None) -> list[Path]:
    """Where the index of a shard may lie, the preferred place first.

    Args:
        path: the shard.
        cache_dir: the one folder for indexes. None prefers the shard's own folder, and the user's cache folder if that
            cannot be written to.
    """
    shard = Path(path).absolute()
    tag = hashlib.sha256(str(shard).encode()).hexdigest()[:16]
    named = f"{shard.name}-{tag}{SUFFIX}"
    if cache_dir is not None:
        return [Path(cache_dir) / named]
    user = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "xmae_fast" / "index" / named
    beside = shard.with_name(f".{shard.name}{SUFFIX}")
    return [beside, user] if os.access(shard.parent, os.W_OK) else [user, beside]


def write_sidecar(target: Path, scan: Scan, valid_for: dict) -> None:
    """Write a scan to the file `target`, which appears whole or not at all.

    Temporary files that killed writers have left are removed when they are a day old.

    Args:
        target: the file; its folder is made if it is missing.
        scan: what was found out about a shard.
        valid_for: the `fingerprint` of that shard.

    Raises:
        OSError: the file cannot be written.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    for old in remains(target):
        if time.time() - old.stat().st_mtime > _STALE_TEMPORARY_S:
            old.unlink(missing_ok=True)
    header = asdict(scan.header)
    if header["signals"] == "both":
        del header["signals"]  # so that versions without PPG alone read this file, but not those of such shards
    meta = np.frombuffer(json.dumps(header | {"valid_for": valid_for}).encode(), np.uint8)
    arrays = {name: getattr(scan.rows, name) for name in _ARRAYS}
    arrays |= {_LABEL + name: values for name, values in scan.rows.labels.items()}
    with atomic_path(target) as temporary, open(temporary, "wb") as file:
        np.savez(file, meta=meta, key=scan.keys, **arrays)


@dataclass(frozen=True)
class Sidecar:
    """The file with the scan of a shard, and what is kept in memory of it.

    Args:
        path: the file.
        header: what all segments of the shard have in common.
        valid_for: the `fingerprint` of the shard that was scanned.
    """

    path: Path
    header: ShardHeader
    valid_for: dict

    def keys(self) -> np.ndarray:
        """The names of the records, [n] bytes; see `Scan.keys`.

        They are read from the file each time: only messages, and shards that h5py must read, need them.

        Raises:
            ValueError: the file is damaged or gone.
        """
        try:
            with np.load(self.path, allow_pickle=False) as stored:
                return stored["key"]
        except Exception as error:  # a damaged ZIP makes zipfile raise anything
            raise _damaged(self.path, error) from error


def read_sidecar(path: Path) -> tuple[Sidecar, ShardRows]:
    """Read the file that `write_sidecar` has written; ZIP's checksums are verified.

    Returns:
        What is to be kept for as long as the shard is used, and the shard's segments.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, or of another version.
    """
    try:
        with np.load(path, allow_pickle=False) as stored:
            about = json.loads(stored["meta"].tobytes())
            arrays = {name: stored[name] for name in _ARRAYS}
            labels = {k.removeprefix(_LABEL): stored[k] for k in stored.files if k.startswith(_LABEL)}
        valid_for = about.pop("valid_for")
        sidecar, rows = Sidecar(path, ShardHeader(**about), valid_for), ShardRows(**arrays, labels=labels)
        _check(sidecar, rows)
    except FileNotFoundError:
        raise
    except Exception as error:  # a damaged ZIP makes zipfile raise anything
        raise _damaged(path, error) from error
    return sidecar, rows


def load_sidecar(path: str, layout: Layout, cache_dir: str | os.PathLike | None) -> tuple[Sidecar, ShardRows] | None:
    """Read the index of a shard if there is one that is whole and up to date.

    Hashes of parts of the shard are compared, so that a change that leaves size and modification time as they were is
    noticed too, if it touches one of these parts.

    Args:
        path: the shard.
        layout: the shard's layout.
        cache_dir: where indexes are kept; None looks in the places that `sidecar_paths` lists.

    Returns:
        The index as `read_sidecar` gives it, or None.

    Raises:
        OSError: the shard cannot be read.
    """
    expected = None  # the fingerprint of a shard that takes no data from other files
    for target in sidecar_paths(path, cache_dir):
        if not target.is_file():
            continue
        try:
            sidecar, rows = read_sidecar(target)
        except (ValueError, OSError) as error:
            _log.debug("index %s is not used: %s", target, error)
            continue
        others = sidecar.valid_for.get("others", {})
        expected = fingerprint(path, layout, others) if others else expected or fingerprint(path, layout)
        if sidecar.valid_for == expected:
            _log.debug("index %s is up to date", target)
            return sidecar, rows
        _log.debug("index %s is not that of the shard as it is now", target)
    return None


def _check(sidecar: Sidecar, rows: ShardRows) -> None:
    """ValueError where arrays and header do not go together."""
    header, n = sidecar.header, len(rows)
    shapes = {name: getattr(rows, name).shape for name in _ARRAYS}
    if shapes != {name: (n, 2) if name == "quality" else (n,) for name in _ARRAYS}:
        raise ValueError(f"arrays of shapes {shapes}")
    if n and (rows.subject.min() < 0 or rows.subject.max() >= len(header.subjects)):
        raise ValueError("subjects out of range")
    if np.dtype(header.dtype).kind != "f" or header.stride < np.dtype(header.dtype).itemsize or header.seq_len < 1:
        raise ValueError(f"elements of {header.dtype}, {header.stride} bytes apart, {header.seq_len} to a segment")
    if not header.mapped and len(sidecar.keys()) != n:
        raise ValueError("keys of another number of segments")


def _damaged(path: Path, error: Exception) -> ValueError:
    return ValueError(f"index {path}: expected a whole index of version {VERSION} ({error})")
