"""Files of the packed layout that `repack` and `prepare` write, with checksums."""

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np

from xmae_fast.data.formats.shards import import_h5py, open_shard
from xmae_fast.workers.progress import Progress

FORMAT, FORMAT_VERSION = "xmae_fast packed", 1
_WITHOUT_ECG = 2  # the version of files of PPG alone: readers of version 1 say that they expect `ecg` too
ALIGNMENT = 4096  # bytes; the signals begin at multiples of it
SIGNALS = ("ppg", "ecg")
_OLDEST = ("earliest", "v110")  # its object headers have no checksums: a new attribute changes no other byte
_UNKNOWN = "sha256:" + 64 * "0"
_CHUNK = 1 << 23


class Table(NamedTuple):
    """A data set beside the signals.

    Args:
        shape: of the whole data set.
        dtype: of its elements.
        pieces: its rows, in parts that follow each other.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    pieces: Iterable[np.ndarray]


def version_attributes(signals: Sequence[str]) -> dict:
    """The attributes of the root group that say how a file with these signals is to be read."""
    if tuple(signals) == SIGNALS:
        return {"format_version": FORMAT_VERSION}
    return {"format_version": _WITHOUT_ECG, "signals": " ".join(signals)}


def create_packed(
    fd: int, shape: tuple[int, int], dtype: np.dtype, tables: dict[str, Table], attributes: dict,
    signals: Sequence[str] = SIGNALS,
) -> None:  # fmt: skip
    """Write an HDF5 file that is complete but for the values of the signals, which have their space in the file.

    The signals are contiguous and aligned. Every data set has an attribute `checksum`; those of the signals are to
    be set by `set_checksums`.

    Args:
        fd: the descriptor of an empty file.
        shape: n and L of the signals.
        dtype: of the signals.
        tables: the other data sets, by name.
        attributes: of the root group.
        signals: the names of the signals.
    """
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
        for name in signals:
            form = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
            form.set_layout(h5py.h5d.CONTIGUOUS)
            form.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
            form.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
            form.set_obj_track_times(False)
            space, kind = h5py.h5s.create_simple(shape), h5py.h5t.py_create(dtype)
            data_set = h5py.Dataset(h5py.h5d.create(file.id, name.encode(), kind, space, form))
            data_set.attrs["checksum"] = np.bytes_(_UNKNOWN)


def set_checksums(fd: int, checksums: dict[str, str]) -> None:
    """Set the checksums of the signals, by name, in the file `fd`; no other byte of the file changes."""
    with opened(fd, "r+", libver=_OLDEST) as file:
        for name, checksum in checksums.items():
            file[name].attrs.modify("checksum", np.bytes_(checksum))


def signal_offsets(
    fd: int, shape: tuple[int, int], dtype: np.dtype, signals: Sequence[str] = SIGNALS
) -> dict[str, int] | None:
    """Where the signals, which have these names, begin in a file that `create_packed` has written.

    Returns:
        The offsets in bytes, by name; None if the file was not written by `create_packed` with this shape and dtype, or
        if it is cut short.
    """
    try:
        with opened(fd, "r") as file:
            data_sets = [file[name] for name in signals]
            offsets = [data_set.id.get_offset() for data_set in data_sets]
            same = all(data_set.shape == shape and data_set.dtype == dtype for data_set in data_sets)
    except (OSError, KeyError, RuntimeError, ValueError, AttributeError):
        return None
    end = max(offset or 0 for offset in offsets) + shape[0] * shape[1] * dtype.itemsize
    whole = None not in offsets and os.fstat(fd).st_size >= end
    return dict(zip(signals, offsets, strict=True)) if same and whole else None


def verify_packed(path: str | os.PathLike, progress: Progress | None = None) -> dict[str, str]:
    """Read a packed file and compare its data sets with their checksums.

    Args:
        path: a file that `repack` or `prepare` has written.
        progress: is called with ("verify", bytes that are read, bytes in all).

    Returns:
        The checksum of each data set, "sha256:" and 64 hexadecimal digits, by name.

    Raises:
        FileNotFoundError: there is no file at `path`.
        ValueError: the file is of another kind, or a data set does not have the checksum that its attribute states.
    """
    path, stated, places = os.fspath(path), {}, {}
    with open_shard(path) as file:
        if file.attrs.get("format") != FORMAT:
            raise ValueError(f"shard {path}: expected a file of repack (attribute format {FORMAT!r}), got another")
        signals = str(file.attrs.get("signals", " ".join(SIGNALS))).split()
        for name, data_set in file.items():
            if "checksum" in data_set.attrs:  # data sets without one were added later
                stated[name] = bytes(data_set.attrs["checksum"]).decode()
                places[name] = data_set.id.get_offset(), data_set.dtype.itemsize * data_set.size
    found, done, total = {}, 0, sum(size for _, size in places.values())
    with open(path, "rb") as file:
        for name, (offset, size) in places.items():
            digest = hashlib.sha256()
            first, end = (offset, offset + size) if offset is not None else (0, 0)
            for start in range(first, end, _CHUNK):
                piece = read_at(file.fileno(), min(_CHUNK, end - start), start)
                digest.update(piece)
                done += len(piece)
                if progress is not None:
                    progress("verify", done, total)
            found[name] = f"sha256:{digest.hexdigest()}"
    if missing := [name for name in signals if name not in stated]:
        raise ValueError(f"shard {path}: expected {' and '.join(missing)} with an attribute 'checksum', found none")
    if wrong := [f"{name} {stated[name]}, got {found[name]}" for name in stated if stated[name] != found[name]]:
        raise ValueError(f"shard {path}: its values are not those that were written, expected {'; '.join(wrong)}")
    return found


def is_packed_file(path: str | os.PathLike) -> bool:
    """Whether the attributes of a file say that `repack` or `prepare` has written it."""
    try:
        with open_shard(os.fspath(path)) as file:
            return file.attrs.get("format") == FORMAT
    except (OSError, ValueError, RuntimeError, KeyError, TypeError):
        return False


@contextmanager
def opened(fd: int, mode: str, **options) -> Iterator:
    """An h5py.File on a file descriptor. By its name HDF5 would lock the file, but the caller holds that lock."""
    raw = os.fdopen(os.dup(fd), "rb" if mode == "r" else "rb+", buffering=0)
    with raw, import_h5py().File(raw, mode, **options) as file:
        yield file


def write_at(fd: int, data: np.ndarray, offset: int) -> None:
    """Write all bytes of `data`, which is contiguous, to a file from byte `offset` on."""
    view = data.data.cast("B")
    while len(view):
        written = os.pwrite(fd, view, offset)
        view, offset = view[written:], offset + written


def read_at(fd: int, size: int, offset: int) -> bytes:
    """Read `size` bytes of a file from byte `offset` on, or fewer if the file ends before."""
    pieces = []
    while size and (piece := os.pread(fd, size, offset)):
        pieces.append(piece)
        size, offset = size - len(piece), offset + len(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)
