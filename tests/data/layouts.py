"""Writes small shards of every layout."""

import h5py
import numpy as np

KEY = "{:04d}+++1+++{}+++{}+++{:.3f}+++{:.3f}"


def write_published(path, signals, *, dtype="<f2", columns=("time", "ppg", "ecg"), quality=0.95, **storage):
    """Write `signals` [2, n, L] in the published layout, two segments for each subject; the names of the records."""
    names = []
    with h5py.File(path, "w") as file:
        for i in range(signals.shape[1]):
            values = {"time": np.arange(signals.shape[2]) / 100, "ppg": signals[0, i], "ecg": signals[1, i]}
            name = f"m_{i // 2}/{KEY.format(i % 2, i, i, quality, quality)}"
            record = np.stack([values.get(c, np.zeros(signals.shape[2])) for c in columns], 1).astype(dtype)
            file.create_dataset(name, data=record, **storage)
            names.append(name)
    return names


def write_packed(path, signals, *, dtype="<f2", **storage):
    with h5py.File(path, "w") as file:
        for name, values in zip(("ppg", "ecg"), signals, strict=True):
            file.create_dataset(name, data=values.astype(dtype), **storage)
        file["patient_id"] = np.arange(signals.shape[1]) // 2
    return path
