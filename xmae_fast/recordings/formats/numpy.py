"""Reads .npz and .npy files of NumPy."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from xmae_fast.recordings.reading import Reading
from xmae_fast.recordings.recording import Channel, Content, Loaded

_RATES = ("fs", "sampling_freq", "sampling_rate", "sfreq")
_SUBJECTS = ("subject", "subject_id", "patient")


def open_npz(path: str, reading: Reading) -> Content:
    """Find out about a file with arrays of signals, [samples] or [pieces, samples].

    Beside them are the rate ("fs", or "ppg_fs" and "ecg_fs") and "subject", one for all pieces or one for each.
    """
    with np.load(path, allow_pickle=False) as file:
        arrays = dict(file)
    names = [name for name, array in arrays.items() if array.dtype.kind in "fiu" and array.ndim in (1, 2)]
    named = next((np.atleast_1d(arrays[name]) for name in _SUBJECTS if name in arrays), None)

    def rate(name: str) -> float:
        kinds = [f"{kind}_fs" for kind in ("ppg", "ecg") if kind in name.lower()]
        return next((float(arrays[key]) for key in (f"{name}_fs", *kinds, *_RATES) if key in arrays), np.nan)

    def load(numbers: Sequence[int]) -> Loaded:
        chosen = [names[i] for i in numbers]
        channels = [Channel(name, np.atleast_2d(arrays[name]).astype(np.float64), rate(name)) for name in chosen]
        return _loaded(channels, named)

    return Content(names, load)


def open_npy(path: str, reading: Reading) -> Content:
    """Find out about a structured array with a field for each signal, or a matrix with signals along its longer side,
    which have their numbers as names."""
    array = np.load(path, allow_pickle=False)
    if array.dtype.names:
        names, columns = list(array.dtype.names), [array[name].ravel() for name in array.dtype.names]
    elif array.ndim == 2 and array.dtype.kind in "fiu":
        columns = list(array if array.shape[0] <= array.shape[1] else array.T)
        names = [str(i) for i in range(len(columns))]
    else:
        raise ValueError(f"expected a structured array or a matrix of numbers, got {array.shape} {array.dtype}")

    def load(numbers: Sequence[int]) -> Loaded:
        return _loaded([Channel(names[i], columns[i].astype(np.float64)[None], np.nan) for i in numbers], None)

    return Content(names, load)


def _loaded(channels: list[Channel], named: np.ndarray | None) -> Loaded:
    """The channels; `named` holds one subject, or one for each piece."""
    pieces = len(channels[0].values)
    subjects: list[str] = []
    if named is not None:
        if named.shape not in ((1,), (pieces,)):
            raise ValueError(f"subject: expected one or {pieces} values, got shape {named.shape}")
        subjects = np.broadcast_to(named, pieces).astype(str).tolist()
    ids = [("1", str(i + 1), str(i + 1)) for i in range(pieces)] if pieces > 1 else []
    starts = np.full(pieces, np.nan) if pieces > 1 else None
    return Loaded(channels, subjects=subjects, ids=ids, starts=starts)
