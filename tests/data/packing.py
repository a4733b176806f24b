"""Writes and reads shards for the tests of repack and inspect."""

from __future__ import annotations

import h5py
import numpy as np

from xmae_fast.data import Layout, SegmentLoader

SIGNALS = ("ppg", "ecg")


def values(n: int, L: int, dtype: str = "<f2", seed: int = 0) -> np.ndarray:
    """PPG and ECG [2, n, L] with a negative zero and a subnormal number in each row."""
    signals = np.random.default_rng(seed).normal(size=(2, n, L)).astype(dtype)
    signals[..., 0], signals[..., 1] = -0.0, np.finfo(dtype).smallest_subnormal
    return signals


def keys_of(n: int) -> list[str]:
    """The names of n records of three subjects in turn, in the order of HDF5; the PPG has qualities 0.50 to 0.99."""
    names = [f"d_{i % 3}/{i:04d}+++1+++{i}+++{i}+++{0.5 + i % 50 / 100:.3f}+++0.950" for i in range(n)]
    return sorted(names)


def write_published(path, signals, *, columns=("time", "ppg", "ecg"), freq: float = 100, **storage) -> list[str]:
    """Write a shard with a record of `columns` for each row of `signals` [2, n, L]; the names of the records."""
    _, n, L = signals.shape
    names = keys_of(n)
    parts = {"time": np.arange(L) / freq, "other": np.full(L, 7.0)}
    with h5py.File(path, "w") as file:
        for i, name in enumerate(names):
            parts |= {"ppg": signals[0, i], "ecg": signals[1, i]}
            record = np.empty((L, len(columns)), signals.dtype)
            for k, column in enumerate(columns):
                record[:, k] = parts[column]
            file.create_dataset(name, data=record, **storage)
    return names


def content(path) -> dict:
    """All data sets (type, shape, place, bytes) and attributes of a packed file, but not when it was made."""
    with h5py.File(path) as file:
        found = {name: value for name, value in file.attrs.items() if name != "created"}
        for name, data_set in file.items():
            array = data_set[()]
            place = data_set.id.get_offset()
            found[name] = data_set.dtype, array.shape, place, array.tobytes(), bytes(data_set.attrs["checksum"])
    return found


def flip(path, offset: int) -> None:
    """Change one bit of a file."""
    with open(path, "r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 1]))


def batches(paths, layout: Layout | None = None, **options) -> list[tuple]:
    """PPG, ECG and the names of the subjects in each batch of a loader that does not shuffle."""
    loader = SegmentLoader(paths, 50, shuffle=False, layout=layout, **options)
    return [
        (batch["ppg"].numpy().copy(), batch["ecg"].numpy().copy(), [loader.subjects[i] for i in batch["subject"]])
        for batch in loader
    ]


def same_batches(found: list[tuple], expected: list[tuple]) -> bool:
    """Check that two arrays are equal bit for bit."""
    return len(found) == len(expected) and all(
        np.array_equal(a[0], b[0]) and np.array_equal(a[1], b[1]) and a[2] == b[2]
        for a, b in zip(found, expected, strict=True)
    )
