"""Reads .mat files of PulseDB (v7.3, which is HDF5): a struct array `Subj_Wins` with a window in each element."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from xmae_fast.data.formats.shards import import_h5py
from xmae_fast.recordings.formats.nested_signals import LEAST
from xmae_fast.recordings.reading import Reading
from xmae_fast.recordings.recording import Channel, Content, Loaded

RATE = 125.0  # Hz, the rate of PulseDB, for files without times
SIGNALS = {"PPG": ("PPG_Raw", "PPG_F"), "ECG": ("ECG_Raw", "ECG_F")}
IDS = ("SegmentID", "WinID", "WinSeqID")


def open_pulsedb(path: str, file: Any, reading: Reading) -> Content | None:
    """Find out about the windows of one file.

    The struct is the group that holds PulseDB's signals, or the fields that were asked for if these have a window in
    each element, whatever its name. Each of its fields is a data set with a reference for each window, or a matrix with
    a column (in MATLAB a row) for each window, or a vector with one window.

    Args:
        path: the file.
        file: the same, as an open h5py.File.
        reading: what is asked for.

    Returns:
        The windows; None if there is no such struct.
    """
    h5py = import_h5py()
    group = _find_group(file, h5py, reading)
    if group is None:
        return None
    place, names = group.name, _Struct(file, h5py, group.name).signals()
    usual = {kind: [names.index(name) for name in own if name in names] for kind, own in SIGNALS.items()}
    known = any(usual.values())

    def load(numbers: Sequence[int]) -> Loaded:
        with h5py.File(path, "r") as file:
            struct = _Struct(file, h5py, place)
            values = {names[i]: struct.rows(names[i]) for i in numbers}
            count = len(next(iter(values.values())))
            starts, fs = struct.time(count) if "T" in struct.names else (None, None)
            texts = [struct.texts(name, count) for name in IDS]
            fallback = ["1"] * count, *([str(i + 1) for i in range(count)],) * 2
            ids = [text or instead for text, instead in zip(texts, fallback, strict=True)]
            return Loaded(
                [Channel(name, rows, fs or (RATE if known else np.nan)) for name, rows in values.items()],
                subjects=struct.texts("SubjectID", count),
                ids=list(zip(*ids, strict=True)),
                starts=starts,
                notes=[] if fs or not known else [f"the file states no rate, {RATE:g} Hz is taken as in PulseDB"],
            )

    return Content(names, load, form="PulseDB", usual={kind: numbers for kind, numbers in usual.items() if numbers})


def _find_group(file: Any, h5py: Any, reading: Reading) -> Any:
    """The group with PulseDB's signals, or with fields of windows of the names that were asked for; None without it."""
    members = (file.get(name) for name in file if name != "#refs#")
    groups = [file, *(member for member in members if isinstance(member, h5py.Group))]
    known = {name for own in SIGNALS.values() for name in own}
    asked = [wanted for kind in reading.kinds if (wanted := reading.wanted(kind)) is not None]
    for group in groups:
        if known & set(group):
            return group
        fields = [group.get(name) for name in asked]
        if fields and all(isinstance(f, h5py.Dataset) and h5py.check_ref_dtype(f.dtype) and f.size > 1 for f in fields):
            first = [file[f[(0,) * f.ndim]] for f in fields]
            if group is not file and all(isinstance(e, h5py.Dataset) and min(e.shape, default=1) == 1 for e in first):
                return group
    return None


class _Struct:
    """Reads the fields of a MATLAB struct or struct array, which is the group `place`."""

    def __init__(self, file: Any, h5py: Any, place: str) -> None:
        self.file, self.h5py, self.group = file, h5py, file[place]
        self.names = list(self.group)

    def signals(self) -> list[str]:
        """The fields that are signals: numbers, more than a few in each window."""
        shapes = {}
        for name, field in self.group.items():
            if name == "T" or not isinstance(field, self.h5py.Dataset):
                continue
            if self._is_references(field):
                target = self.file[field[(0,) * field.ndim]] if field.size else field
                field = target if isinstance(target, self.h5py.Dataset) else None
            if field is not None and field.dtype.kind in "fiu" and max(field.shape, default=0) >= LEAST:
                shapes[name] = field.shape
        matrix = any(min(shape) > 1 for name, shape in shapes.items() if name[:3] in ("PPG", "ECG"))
        return [name for name, shape in shapes.items() if not matrix or min(shape) > 1]

    def rows(self, name: str) -> np.ndarray:
        """A field with numbers: [K, samples] float64, a row for each of the K windows."""
        field = self.group[name]
        if not self._is_references(field):
            if field.ndim != 2 or field.dtype.kind not in "fiu":
                raise ValueError(f"{name}: expected numbers, a row per window, got {field.shape} {field.dtype}")
            values = np.ascontiguousarray(field[()].T, dtype=np.float64)
            return values.reshape(1, -1) if 1 in values.shape else values
        found = [self._data_set(reference) for reference in field[()].ravel()]
        sizes = {data_set.get_space().get_simple_extent_npoints() for data_set in found}
        if len(sizes) != 1 or found[0].dtype.kind not in "fiu":
            some = ", ".join(map(str, sorted(sizes)[:5]))
            raise ValueError(f"{name}: expected windows of numbers of one length, got lengths {some or 'of none'}")
        values = np.empty((len(found), sizes.pop()))
        every, double = self.h5py.h5s.ALL, self.h5py.h5t.NATIVE_DOUBLE  # finding out the type of each takes longer
        for row, data_set in zip(values, found, strict=True):
            data_set.read(every, every, row, double)
        return values

    def texts(self, name: str, count: int) -> list[str]:
        """A field with a text for each of `count` windows; empty if there is no such field."""
        if name not in self.names:
            return []
        field = self.group[name]
        references = self._is_references(field)
        elements = [self._element(r) for r in field[()].ravel()] if references else list(field[()].T)
        if len(elements) != count:
            if not references and field.ndim == 2 and 1 in field.shape and field.attrs.get("MATLAB_class") == b"char":
                return [_text(field[()])] * count
            raise ValueError(f"{name}: expected {count} values, one per window, got {len(elements)}")
        return [_text(element) for element in elements]

    def time(self, count: int) -> tuple[np.ndarray, float]:
        """When each of the K windows begins, [K] in seconds, and the rate in Hz, both from the field T."""
        rows = self.group["T"]
        if self._is_references(rows):
            elements = [self._data_set(reference) for reference in rows[()].ravel()]
            first = self._read(elements[0]).ravel() if elements else np.zeros(0)
            starts = np.array([self._first(element) for element in elements])
        else:
            table = self.rows("T")
            first, starts = table[0] if len(table) else np.zeros(0), table[:, 0]
        span = first[-1] - first[0] if len(first) > 1 else 0
        if len(starts) != count or not (np.isfinite(span) and span > 0):
            raise ValueError(f"T: expected rising times in s of {count} windows, got {len(starts)} over {span} s")
        rate = (len(first) - 1) / span
        return starts, float(round(rate)) if abs(rate - round(rate)) < 0.005 * rate else float(rate)

    def _is_references(self, field) -> bool:
        """Whether a field holds references to other data sets."""
        if not isinstance(field, self.h5py.Dataset):
            raise ValueError(f"{field.name}: expected a data set, found a group")
        return self.h5py.check_ref_dtype(field.dtype) is not None

    def _data_set(self, reference):
        """The data set of a reference, as a low-level handle: `file[reference]` takes three times as long, and each
        window has several."""
        return self.h5py.h5r.dereference(reference, self.file.id)

    def _element(self, reference) -> np.ndarray:
        return self._read(self._data_set(reference))

    def _read(self, data_set) -> np.ndarray:
        values = np.empty(data_set.shape, data_set.dtype)
        data_set.read(self.h5py.h5s.ALL, self.h5py.h5s.ALL, values)
        return values

    def _first(self, data_set) -> float:
        """The first element of a data set."""
        space = data_set.get_space()
        space.select_hyperslab((0,) * len(data_set.shape), (1,) * len(data_set.shape))
        value = np.empty(1)
        data_set.read(self.h5py.h5s.create_simple((1,)), space, value)
        return float(value[0])


def _text(element: np.ndarray) -> str:
    """The text of a char array of MATLAB (codes in uint16), or of a number."""
    if element.dtype == np.uint16:
        return "".join(map(chr, element.ravel())).strip()
    if element.size != 1:
        return ""
    value = element.ravel()[0]
    return str(int(value)) if float(value).is_integer() else str(value)
