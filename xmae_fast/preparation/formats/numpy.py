"""Reads .npz and .npy files of NumPy."""

from __future__ import annotations

import numpy as np

from xmae_fast.preparation.recording import Channel, Reading, Recording, find_channel

_RATES = ("fs", "sampling_freq", "sampling_rate", "sfreq")
_SUBJECTS = ("subject", "subject_id", "patient")


def read_npz(path: str, reading: Reading) -> Recording:
    """Read a file with arrays of PPG and ECG, [samples] or [pieces, samples].

    Beside them are the rate ("fs", or "ppg_fs" and "ecg_fs") and "subject", one for all pieces or one for each.
    """
    with np.load(path, allow_pickle=False) as file:
        arrays = dict(file)
    names = [name for name, array in arrays.items() if array.dtype.kind in "fiu" and array.ndim in (1, 2)]
    channels = []
    for kind, wanted in (("PPG", reading.ppg), ("ECG", reading.ecg)):
        name = names[find_channel(names, kind, wanted)]
        rates = (f"{kind.lower()}_fs", f"{name}_fs", *_RATES)
        fs = next((float(arrays[rate]) for rate in rates if rate in arrays), reading.fs)
        channels.append(Channel(name, np.atleast_2d(arrays[name]).astype(np.float64), _rate(fs)))
    named = next((np.atleast_1d(arrays[name]) for name in _SUBJECTS if name in arrays), None)
    return _recording(channels, named)


def read_npy(path: str, reading: Reading) -> Recording:
    """Read a structured array with a field for each signal, or a matrix.

    The signals of a matrix are along its longer side; `reading.ppg` and `reading.ecg` are their numbers, from 0.
    """
    array = np.load(path, allow_pickle=False)
    if array.dtype.names:
        names, columns = list(array.dtype.names), [array[name].ravel() for name in array.dtype.names]
    elif array.ndim == 2 and array.dtype.kind in "fiu":
        columns = list(array if array.shape[0] <= array.shape[1] else array.T)
        names = [str(i) for i in range(len(columns))]
    else:
        raise ValueError(f"expected a structured array or a matrix of numbers, got {array.shape} {array.dtype}")
    channels = []
    for kind, wanted in (("PPG", reading.ppg), ("ECG", reading.ecg)):
        i = find_channel(names, kind, wanted)
        channels.append(Channel(names[i], columns[i].astype(np.float64)[None], _rate(reading.fs)))
    return _recording(channels, None)


def _rate(fs: float | None) -> float:
    """`fs`; ValueError if it is not known."""
    if fs is None:
        raise ValueError("expected the sampling rate, which the file does not state: --fs HZ says it")
    return fs


def _recording(channels: list[Channel], named: np.ndarray | None) -> Recording:
    """The recording of two channels; `named` holds one subject, or one for each piece."""
    pieces = len(channels[0].values)
    subjects: list[str] = []
    if named is not None:
        if named.shape not in ((1,), (pieces,)):
            raise ValueError(f"subject: expected one or {pieces} values, got shape {named.shape}")
        subjects = np.broadcast_to(named, pieces).astype(str).tolist()
    ids = [("1", str(i + 1), str(i + 1)) for i in range(pieces)] if pieces > 1 else []
    starts = np.full(pieces, np.nan) if pieces > 1 else None
    return Recording(*channels, subjects=subjects, ids=ids, starts=starts)
