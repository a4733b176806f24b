"""Reads recordings in HDF5 files, and tells them from shards."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from xmae_fast.data.formats.packed import FORMAT, SIGNALS
from xmae_fast.data.formats.shards import import_h5py, parse_key
from xmae_fast.recordings.formats.hdf5_tree import open_file, read_tree
from xmae_fast.recordings.formats.nested_loading import content_of
from xmae_fast.recordings.formats.nested_signals import find_signals, is_named
from xmae_fast.recordings.reading import Reading
from xmae_fast.recordings.recording import Content

SUFFIXES = (".h5", ".hdf5")
_LOOKED_AT = 16  # windows
_PREPARED = 1.01  # the greatest value of prepared segments, with rounding


def open_hdf5(path: str, reading: Reading) -> Content:
    """Find out about the signals of a recording in an HDF5 file.

    Data sets are found by the names that lead to them, as in "record/ppg": [samples], [pieces, samples], or [samples,
    C] with up to 16 channels. The rate is a data set or an attribute ("fs"), beside the signal or further out.

    Raises:
        ValueError: it is no HDF5 file, it is damaged, a shard, or it holds no signal.
    """
    with open_file(path) as file:
        if _is_shard(file):
            raise ValueError("expected a recording, found a shard, whose segments are prepared already")
        found = find_signals(read_tree(file, matlab=False), matrix="pieces")
    return content_of(found, lambda: open_file(path), reading)


def is_recording(path: str | os.PathLike[str]) -> bool:
    """Whether an HDF5 file holds a recording: no shard, but a signal with a usual name of PPG or ECG."""
    try:
        with open_file(os.fspath(path)) as file:
            if _is_shard(file):
                return False
            found = find_signals(read_tree(file, matlab=False), matrix="pieces")
    except (OSError, ValueError):
        return False
    return any(is_named(signal.key) or is_named(signal.name) for signal in found.signals)


def has_data_sets_of_shards(path: str | os.PathLike[str]) -> bool:
    """Whether an HDF5 file has data sets [n, L] with the names of a shard's, whatever is in them."""
    try:
        with open_file(os.fspath(path)) as file:
            return _is_packed(file)
    except (OSError, ValueError, KeyError):
        return False


def looks_raw(path: str | os.PathLike[str], signals: Sequence[str] = SIGNALS) -> str:
    """Tell whether an HDF5 file that has the data sets of a shard holds raw signals instead of prepared segments.

    Args:
        path: the file.
        signals: the data sets that are looked at.

    Returns:
        A sentence that says what is raw about it; "" if it looks prepared, has another layout, or cannot be read.
    """
    try:
        with open_file(os.fspath(path)) as file:
            return _raw(file, signals)
    except (OSError, ValueError, KeyError):
        return ""


def _raw(file: Any, signals: Sequence[str] = SIGNALS) -> str:
    data_set = import_h5py().Dataset
    for name in signals:
        found = file.get(name)
        if not isinstance(found, data_set) or found.dtype.kind not in "fiu" or not found.size:
            continue
        if found.ndim == 1 or (found.ndim == 2 and found.shape[1] == 1):
            return f"{name} is a recording of {found.shape[0]:,} samples in one piece, not segments [n, L]"
        if found.ndim != 2:
            continue
        rows = np.unique(np.linspace(0, len(found) - 1, _LOOKED_AT).astype(int))
        windows = np.asarray(found[rows], np.float64)
        windows = windows[np.isfinite(windows).all(1) & (np.ptp(windows, axis=1) > 0)]
        if not len(windows):
            continue
        low, high = windows.min(), windows.max()
        if max(abs(low), abs(high)) > _PREPARED:
            return f"{name} has values from {low:g} to {high:g}, prepared segments have values from -1 to 1"
        if np.median(windows.max(1)) < 0.99 or np.median(windows.min(1)) > -0.99:
            return f"{name} has values from {low:g} to {high:g}, prepared segments reach from -1 to 1 each"
    return ""


def _is_packed(file: Any) -> bool:
    """Whether an open h5py.File has data sets [n, L] of PPG, and of ECG if it has any, as a packed shard has."""
    data_set = import_h5py().Dataset
    names = [name for name in SIGNALS if name == "ppg" or name in file]
    return all(isinstance(found := file.get(name), data_set) and found.ndim == 2 for name in names)


def _is_shard(file: Any) -> bool:
    """Whether an open h5py.File is a shard: of our packed layout, with keys of segments, or with prepared segments."""
    h5py = import_h5py()
    attribute = file.attrs.get("format", "")
    if (attribute.decode("utf-8", "replace") if isinstance(attribute, bytes) else attribute) == FORMAT:
        return True
    if _is_packed(file):
        return "ppg_quality" in file or not _raw(file)
    for number, name in enumerate(file):
        if number == 3:
            break
        if file.get(name, getclass=True) is h5py.Group and (key := next(iter(file[name]), None)) is not None:
            try:
                parse_key(key)
                return True
            except ValueError:
                continue
    return False
