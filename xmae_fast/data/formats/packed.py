"""The packed form that `repack` writes: its creation with room for the signals, and its checksums."""

import hashlib
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np

from xmae_fast.data.formats.shards import import_h5py, open_shard
from xmae_fast.workers.progress import Progress

FORMAT, FORMAT_VERSION = "xmae_fast packed", 1
ALIGNMENT = 4096  # bytes; the signals begin at multiples
SIGNALS = ("ppg", "ecg")
_OLDEST = ("earliest", "v110")  # object headers without checksums: an attribute's bytes change and nothing else
_UNKNOWN = "sha256:" + 64 * "0"
_CHUNK = 1 << 23


class Table(NamedTuple):
    """A data set beside the signals: shape, dtype, and its rows in pieces."""

    shape: tuple[int, ...]
    dtype: np.dtype
    pieces: Iterable[np.ndarray]


def create_packed(fd: int, shape: tuple[int, int], dtype: np.dtype, tables: dict[str, Table], attributes: dict) -> None:
    """Write a whole HDF5 file to the empty file `fd`: `ppg` and `ecg` of `shape` (n, L), contiguous, aligned, with
    space in the file but no values yet, the `tables`, and root attributes. Every data set has an attribute `checksum`,
    that of the signals still to be set by `set_checksums`."""
    h5py = import_h5py()
    threshold = min(ALIGNMENT, shape[0] * shape[1] * dtype.itemsize)
    options = {"libver": _OLDEST, "alignment_threshold": threshold, "alignment_interval": ALIGNMENT}
    with opened(fd, "w", **options) as file:
        for name, value in attributes.items():
            file.attrs[name] = value
        for name, (rows, kind, pieces) in tables.items():
            data_set, digest, start = file.create_dataset(name, rows, kind), hashlib.sha256(), 0
            for piece in pieces:
                stored = piece.astype(kind)
                data_set[start : start + len(stored)] = stored
                digest.update(stored.tobytes())
                start += len(stored)
            data_set.attrs["checksum"] = np.bytes_(f"sha256:{digest.hexdigest()}")
        for name in SIGNALS:
            form = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
            form.set_layout(h5py.h5d.CONTIGUOUS)
            form.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
            form.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
            form.set_obj_track_times(False)
            space, kind = h5py.h5s.create_simple(shape), h5py.h5t.py_create(dtype)
            data_set = h5py.Dataset(h5py.h5d.create(file.id, name.encode(), kind, space, form))
            data_set.attrs["checksum"] = np.bytes_(_UNKNOWN)


def set_checksums(fd: int, checksums: dict[str, str]) -> None:
    """Overwrite the signals' checksums in place; no other byte of the file changes."""
    with opened(fd, "r+", libver=_OLDEST) as file:
        for name, checksum in checksums.items():
            file[name].attrs.modify("checksum", np.bytes_(checksum))


def signal_offsets(fd: int, shape: tuple[int, int], dtype: np.dtype) -> dict[str, int] | None:
    """Where the signals begin in a file of `create_packed`; None where it is not one, or another one, or cut short."""
    try:
        with opened(fd, "r") as file:
            data_sets = [file[name] for name in SIGNALS]
            offsets = [data_set.id.get_offset() for data_set in data_sets]
            same = all(data_set.shape == shape and data_set.dtype == dtype for data_set in data_sets)
    except (OSError, KeyError, RuntimeError, ValueError, AttributeError):
        return None
    end = max(offset or 0 for offset in offsets) + shape[0] * shape[1] * dtype.itemsize
    whole = None not in offsets and os.fstat(fd).st_size >= end
    return dict(zip(SIGNALS, offsets, strict=True)) if same and whole else None


def verify_packed(path: str | os.PathLike, progress: Progress | None = None) -> dict[str, str]:
    """Read a file of `repack` again and return the checksum of each of its data sets, "sha256:<hex>".

    `progress("verify", bytes, bytes in all)` is told. FileNotFoundError; ValueError where the file is not one of
    `repack`, or a data set does not have the checksum that its attribute states."""
    path, stated, places = os.fspath(path), {}, {}
    with open_shard(path) as file:
        if file.attrs.get("format") != FORMAT:
            raise ValueError(f"shard {path}: expected a file of repack (attribute format {FORMAT!r}), got another")
        for name, data_set in file.items():
            if "checksum" in data_set.attrs:  # others were added later
                stated[name] = bytes(data_set.attrs["checksum"]).decode()
                places[name] = data_set.id.get_offset(), data_set.dtype.itemsize * data_set.size
    found, done, total = {}, 0, sum(size for _, size in places.values())
    with open(path, "rb") as file:
        for name, (offset, size) in places.items():
            digest = hashlib.sha256()
            for start in range(0, size if offset is not None else 0, _CHUNK):
                piece = read_at(file.fileno(), min(_CHUNK, size - start), offset + start)
                digest.update(piece)
                done += len(piece)
                if progress is not None:
                    progress("verify", done, total)
            found[name] = f"sha256:{digest.hexdigest()}"
    if missing := [name for name in SIGNALS if name not in stated]:
        raise ValueError(f"shard {path}: expected {' and '.join(missing)} with an attribute 'checksum', found none")
    if wrong := [f"{name} {stated[name]}, got {found[name]}" for name in stated if stated[name] != found[name]]:
        raise ValueError(f"shard {path}: its values are not those that were written, expected {'; '.join(wrong)}")
    return found


def is_packed_file(path: str | os.PathLike) -> bool:
    """Whether a file says of itself that it is one of `repack` or `prepare`."""
    try:
        with open_shard(os.fspath(path)) as file:
            return file.attrs.get("format") == FORMAT
    except (OSError, ValueError, RuntimeError, KeyError, TypeError):
        return False


@contextmanager
def opened(fd: int, mode: str, **options) -> Iterator:
    """h5py.File on a file descriptor. By name HDF5 would lock the file itself, and the caller holds that lock."""
    raw = os.fdopen(os.dup(fd), "rb" if mode == "r" else "rb+", buffering=0)
    with raw, import_h5py().File(raw, mode, **options) as file:
        yield file


def write_at(fd: int, data: np.ndarray, offset: int) -> None:
    """All bytes of `data` (contiguous) to `offset`."""
    view = memoryview(data).cast("B")
    while len(view):
        written = os.pwrite(fd, view, offset)
        view, offset = view[written:], offset + written


def read_at(fd: int, size: int, offset: int) -> bytes:
    """`size` bytes from `offset`, fewer where the file ends."""
    pieces = []
    while size and (piece := os.pread(fd, size, offset)):
        pieces.append(piece)
        size, offset = size - len(piece), offset + len(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)
