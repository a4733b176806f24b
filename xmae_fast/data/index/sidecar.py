"""The scan of a shard, kept in a file beside it (or in a cache folder) until the shard changes."""

import hashlib
import json
import os
import time
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

import numpy as np

from xmae_fast._files import atomic_path, remains
from xmae_fast.data.formats.layout import Layout
from xmae_fast.data.formats.linked import content_probe, marks
from xmae_fast.data.index.scan import Scan

VERSION = 2  # 1 took records behind links to other files for records of the shard
_LABEL = "label "
SUFFIX = ".index.npz"
_ARRAYS = ("subject", "ppg_offset", "ecg_offset", "quality", "problem")
_STALE_TEMPORARY_S = 86_400.0


def fingerprint(path: str, layout: Layout, others: Iterable[str] = ()) -> dict:
    """What an index is valid for: size, modification time, a hash of 16 places of the file, and the layout; the same of
    the `others`, files that the shard takes data from."""
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
    """Where the index of a shard may lie, the preferred place first: in `cache_dir` if given; else beside the shard, or
    in the user's cache folder where the shard's folder is not writable."""
    shard = Path(path).absolute()
    tag = hashlib.sha256(str(shard).encode()).hexdigest()[:16]
    named = f"{shard.name}-{tag}{SUFFIX}"
    if cache_dir is not None:
        return [Path(cache_dir) / named]
    user = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "xmae_fast" / "index" / named
    beside = shard.with_name(f".{shard.name}{SUFFIX}")
    return [beside, user] if os.access(shard.parent, os.W_OK) else [user, beside]


def write_sidecar(target: Path, scan: Scan, valid_for: dict) -> None:
    """Write the index; it appears whole or not at all. Remains of killed writers are removed after a day."""
    target.parent.mkdir(parents=True, exist_ok=True)
    for old in remains(target):
        if time.time() - old.stat().st_mtime > _STALE_TEMPORARY_S:
            old.unlink(missing_ok=True)
    about = {k: v for k, v in asdict(scan).items() if k not in (*_ARRAYS, "key", "labels", "others")}
    meta = np.frombuffer(json.dumps(about | {"valid_for": valid_for}).encode(), np.uint8)
    arrays = {name: getattr(scan, name) for name in _ARRAYS} | {_LABEL + k: v for k, v in scan.labels.items()}
    with atomic_path(target) as temporary, open(temporary, "wb") as file:
        np.savez(file, meta=meta, key=scan.key, **arrays)


class Sidecar:
    """A stored scan. Everything but the keys is in memory; ZIP's checksums have been verified.

    Errors: ValueError where the file is damaged or of another version."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with np.load(path, allow_pickle=False) as stored:
                about = json.loads(stored["meta"].tobytes())
                arrays = {name: stored[name] for name in _ARRAYS}
                labels = {k.removeprefix(_LABEL): stored[k] for k in stored.files if k.startswith(_LABEL)}
            self.valid_for = about.pop("valid_for")
            self.scan = Scan(**about, **arrays, key=None, labels=labels)
            self._check()
        except FileNotFoundError:
            raise
        except Exception as error:  # a damaged ZIP makes zipfile raise anything
            raise ValueError(f"index {path}: expected a whole index of version {VERSION} ({error})") from error

    def keys(self) -> np.ndarray:
        """(n,) bytes, read from the file each time: names are needed for messages, and where h5py reads records."""
        try:
            with np.load(self.path, allow_pickle=False) as stored:
                return stored["key"]
        except Exception as error:  # a damaged ZIP makes zipfile raise anything
            raise ValueError(f"index {self.path}: expected a whole index of version {VERSION} ({error})") from error

    def _check(self) -> None:
        scan, n = self.scan, len(self.scan.subject)
        shapes = {name: getattr(scan, name).shape for name in _ARRAYS}
        if shapes != {name: (n, 2) if name == "quality" else (n,) for name in _ARRAYS}:
            raise ValueError(f"arrays of shapes {shapes}")
        if n and (scan.subject.min() < 0 or scan.subject.max() >= len(scan.subjects)):
            raise ValueError("subjects out of range")
        if np.dtype(scan.dtype).kind != "f" or scan.stride < np.dtype(scan.dtype).itemsize or scan.seq_len < 1:
            raise ValueError(f"elements of {scan.dtype}, {scan.stride} bytes apart, {scan.seq_len} to a segment")
        if not scan.mapped and len(self.keys()) != n:
            raise ValueError("keys of another number of segments")


def load_sidecar(path: str, layout: Layout, cache_dir: str | os.PathLike | None) -> Sidecar | None:
    """The shard's index, or None where there is none that is whole and up to date. The file's bytes are probed, and so
    a change that leaves size and time alone is seen too, if it touches a probed place."""
    expected = None  # of a shard that is alone
    for target in sidecar_paths(path, cache_dir):
        if not target.is_file():
            continue
        try:
            sidecar = Sidecar(target)
        except (ValueError, OSError):
            continue
        others = sidecar.valid_for.get("others", {})
        expected = fingerprint(path, layout, others) if others else expected or fingerprint(path, layout)
        if sidecar.valid_for == expected:
            return sidecar
    return None
