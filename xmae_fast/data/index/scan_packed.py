"""The first half of a scan of a packed shard: what its tables and headers say, without the samples."""

import os

import numpy as np

from xmae_fast.data import problems
from xmae_fast.data.formats.layout import Layout, row_storage, sampling_freq_of
from xmae_fast.data.formats.linked import OtherFiles, rows_of
from xmae_fast.data.formats.shards import first_names
from xmae_fast.data.index.shard_scan import Scan, ShardHeader, ShardRows


def scan_packed(file, layout: Layout) -> Scan:
    """Scan an open h5py.File of the packed layout; `problem` is set for segments whose values are in no file.

    Raises:
        ValueError: a data set is missing, or has another shape or type than the layout says.
    """
    others = OtherFiles(file)
    for name in {*file, layout.ppg, layout.ecg, layout.ppg_quality, layout.ecg_quality, *layout.labels}:
        others.follow(file, name)
    names = layout.signals(file)
    signals = [file[name] for name in names]
    shape, dtype = signals[0].shape, signals[0].dtype
    for name, signal in zip(names, signals, strict=True):
        if signal.shape != shape or len(shape) != 2 or not all(shape) or signal.dtype != dtype:
            got = f"{signal.shape} {signal.dtype}"
            raise ValueError(f"{name}: expected (n, L) as {layout.ppg} has, {shape} {dtype}, got {got}")
    if dtype.kind != "f" or dtype.itemsize > 8:
        raise ValueError(f"{layout.ppg}: expected float16, float32 or float64, got {dtype}")
    n = shape[0]
    missing = np.zeros(n, bool)
    for signal in signals:
        missing |= rows_of(others.missing_rows(signal.id), n)
    offsets = [np.full(n, -1, np.int64)] * len(signals)
    if all([others.owns(signal.id) for signal in signals]):
        storages = [row_storage(signal.id, shape) for signal in signals]
        why_not = next((s.why_not for s in storages if s.offsets is None), "")
        if not why_not:
            offsets = [s.offsets for s in storages if s.offsets is not None]
    else:
        why_not = "links to other files"
    text = layout.subject_values(file)
    if text is None:
        text = np.full(n, os.path.splitext(os.path.basename(file.filename))[0])
    quality = np.ones((n, 2))
    quality[:, len(signals) :] = np.nan
    for k, name in enumerate((layout.ppg_quality, layout.ecg_quality)[: len(signals)]):
        if name in file:
            quality[:, k] = _column(file, name, n)
    if text.shape != (n,):
        raise ValueError(f"subject: expected shape ({n},), one per segment, got {text.shape}")
    subjects, subject = np.unique(text, return_inverse=True)
    header = ShardHeader(
        form="packed",
        seq_len=shape[1],
        dtype=dtype.str,
        stride=dtype.itemsize,
        mapped=not why_not,
        why_not=why_not,
        sampling_freq=layout.sampling_freq or sampling_freq_of(file.attrs, None),
        subjects=subjects.tolist(),
        signals="both" if len(signals) == 2 else "ppg",
    )
    rows = ShardRows(
        subject=subject.astype(np.int32),
        ppg_offset=offsets[0],
        ecg_offset=offsets[1] if len(signals) == 2 else np.full(n, -1, np.int64),
        quality=quality,
        problem=missing * np.uint8(problems.UNREADABLE),
        labels={name: _label(file, name, n) for name in layout.labels},
    )
    return Scan(header, rows, keys=np.arange(n).astype("S"), others=others.marks)


def _label(file, name: str, n: int) -> np.ndarray:
    if name not in file:
        raise ValueError(f"labels: expected a data set {name!r}, the file has {first_names(file)}")
    values = _column(file, name, n)
    return values.astype(np.float32 if values.dtype.kind == "f" else np.int64)


def _column(file, name: str, n: int) -> np.ndarray:
    values = file[name]
    if values.shape != (n,) or values.dtype.kind not in "fiu":
        raise ValueError(f"{name}: expected {n} numbers, one per segment, got {values.shape} {values.dtype}")
    return values[()]
