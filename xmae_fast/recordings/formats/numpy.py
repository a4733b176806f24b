"""Reads .npz and .npy files of NumPy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from xmae_fast.recordings.formats.array_times import Beside, place_channels, rate_of_times
from xmae_fast.recordings.formats.nested import key_of
from xmae_fast.recordings.formats.nested_facts import RATES, SUBJECTS, TIMES, UNITS
from xmae_fast.recordings.formats.nested_signals import LEAST, MOST_CHANNELS, is_named, kinds_of
from xmae_fast.recordings.formats.npz_members import Member, array_of, as_text, detail_of, open_arrays, read_members
from xmae_fast.recordings.reading import Reading
from xmae_fast.recordings.recording import Channel, Content, Loaded

_LARGE = 1 << 28  # bytes; an array that takes more as float64 stays in its file until windows are cut


def open_npz(path: str, reading: Reading) -> Content:
    """Find out about a file with arrays of signals, [samples], [samples, 1] or [pieces, samples].

    The columns of an array [samples, C] with up to 16 columns, fewer than make a signal, are channels "name[0]" and so
    on. An array of C texts names the channels of C columns, or of C rows. Beside the signals are the rate ("fs", or
    "ppg_fs" and "ecg_fs") or times in s ("time"), and "subject", one for all pieces or one for each. Where an array
    "ppg_mask", or "mask" for all signals of its shape, is true, the samples are missing; `np.savez` itself does not
    store the masks of masked arrays. Arrays of other things are passed over.

    Raises:
        ValueError: the file is damaged.
    """
    members = read_members(path)
    offered: list[tuple[Member, int | None]] = []
    names: list[str] = []
    lists = _lists_of_names(path, members)
    for member in members.values():
        if not member.is_signal or _is_mask(member.name) or _is_time(member, members):
            continue
        count = _columns(member.shape)
        named = lists.get(count if count > 1 else member.shape[0] if len(member.shape) == 2 else 1)
        if named and count == 1:
            member.transposed, count = True, len(named)
        offered += [(member, None)] if count == 1 else [(member, k) for k in range(count)]
        names += [member.name] if count == 1 else named or [f"{member.name}[{k}]" for k in range(count)]

    def load(numbers: Sequence[int]) -> Loaded:
        notes: list[str] = []
        with open_arrays(path) as file:
            facts = _Facts(file, members)
            channels, times = [], []
            for i in numbers:
                member, column = offered[i]
                values = _rows(array_of(file, member), column)
                values = facts.masked(member, column, values.astype(np.float64, copy=False), notes)
                channels.append(Channel(names[i], values, facts.rate(names[i], member)))
                times.append(facts.times(names[i], member, values.shape[1]))
            if len(channels[0].values) > 1:
                for channel, beside in zip(channels, times, strict=True):
                    if beside is not None and beside.values.dtype.kind in "fiu" and np.isnan(channel.fs):
                        channel.fs, said = rate_of_times(beside.values.ravel().astype(np.float64), channel.name)
                        notes += said
                times = [None] * len(channels)
            start = place_channels(channels, times, reading, notes)
            loaded = _loaded(channels, facts.subject(), list(dict.fromkeys(notes)))
            loaded.start = start
            return loaded

    return Content(names, load)


def open_npy(path: str, reading: Reading) -> Content:
    """Find out about a structured array with a field for each signal and perhaps one of times, or about a matrix with
    signals along its longer side, which have their numbers as names.

    If PPG alone is read, and no channel is asked for, an array [T] or [T, 1] is the PPG, and the rows of an array
    [R, T] are R pieces of it. A large file is mapped into memory.

    Raises:
        ValueError: the file is damaged, or holds something else.
    """
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # damage makes NumPy raise anything
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise ValueError(f"expected an array of numbers that is whole ({detail_of(error)})") from None
    if not isinstance(array, np.ndarray):  # an .npz file by its content
        array.close()
        return open_npz(path, reading)
    notes: list[str] = []
    times = None
    alone = reading.kinds == ("PPG",) and reading.ppg is None
    if array.dtype.names:
        time, times = _time_field(array)
        fields = [name for name in array.dtype.names if name != time]
        named = {name: array[name] for name in fields if array.dtype[name].kind in "fiu"}
        names, signals = list(named), [field.reshape(1, -1) for field in named.values()]
    elif array.dtype.kind not in "fiu" or array.ndim not in (1, 2) or not array.size:
        raise ValueError(f"expected a structured array or a matrix of numbers, got {array.shape} {array.dtype}")
    elif alone and (array.ndim == 1 or _columns(array.shape) == 1):
        names, signals = ["ppg"], [_rows(array, None)]
        if len(signals[0]) > 1:
            notes.append(f"the {len(signals[0])} rows are taken as pieces of PPG; --ppg NUMBER takes one of them alone")
    elif max(array.shape) == array.size and not reading.ppg:
        raise ValueError(f"expected PPG and ECG, got one signal of {array.size} samples; --signals ppg reads it as PPG")
    elif array.ndim == 1:
        names, signals = ["0"], [array[None]]
    else:
        signals = [row[None] for row in (array if array.shape[0] <= array.shape[1] else array.T)]
        names = [str(i) for i in range(len(signals))]

    def load(numbers: Sequence[int]) -> Loaded:
        chosen = [signals[i] for i in numbers]
        values = [x if 8 * x.size > _LARGE else np.array(x, np.float64) for x in map(np.asarray, chosen)]
        channels = [Channel(names[i], x, np.nan) for i, x in zip(numbers, values, strict=True)]
        said: list[str] = []
        start = place_channels(channels, [times] * len(channels), reading, said)
        loaded = _loaded(channels, None, said)
        loaded.start = start
        return loaded

    return Content(names, load, notes=notes)


def _time_field(array: np.ndarray) -> tuple[str, Beside | None]:
    """The name of the field of times of a structured array, and the times; "" and None if it has none."""
    by_key = {key_of(name): name for name in reversed(array.dtype.names or ())}
    key = next((key for key in TIMES if key in by_key), None)
    if key is None or array.dtype[by_key[key]].kind not in "fiuMm" or array.size < 2:
        return "", None
    return by_key[key], Beside(UNITS.get(key, "time"), np.asarray(array[by_key[key]]).ravel())


class _Facts:
    """What the arrays of an open .npz file say of its signals."""

    def __init__(self, file: Any, members: dict[str, Member]) -> None:
        self.file, self.members = file, members
        self.keys = {key_of(name): name for name in reversed(members)}
        self._known: dict[str, np.ndarray] = {}

    def rate(self, name: str, member: Member) -> float:
        """The rate in Hz that the file states for a signal, by a number of its own ("x_fs", "ppg_fs") or one for all;
        NaN if there is none."""
        own = list(dict.fromkeys((key_of(member.name), *kinds_of(name))))
        keys = [f"{name}{rate}" for name in own for rate in RATES if len(rate) > 1] + [f"fs{name}" for name in own]
        for key in (*keys, *RATES):
            found = self._array(self.keys.get(key))
            if found is not None and found.size == 1 and found.dtype.kind in "fiu":
                return float(found.item())
        return np.nan

    def times(self, name: str, member: Member, length: int) -> Beside | None:
        """The times of the samples of a signal, in an array of its own ("ppg_time") or one for all."""
        own = [f"{name}time" for name in dict.fromkeys((key_of(member.name), *kinds_of(name)))]
        for key in (*own, *TIMES):
            if (stored := self.keys.get(key)) is not None and stored != member.name:
                times = self._known.get(stored)
                times = self._array(stored) if times is None else times
                if times is not None and times.dtype.kind in "fiuMm" and times.size == length > 1:
                    return Beside(UNITS.get(key, "time"), self._known.setdefault(stored, times))
        return None

    def masked(self, member: Member, column: int | None, values: np.ndarray, notes: list[str]) -> np.ndarray:
        """The values [pieces, samples], NaN where a mask of the same shape as the array is true."""
        for name in (f"{member.name}_mask", f"{member.name}.mask", "mask"):
            mask = self.members.get(name)
            if mask is None or mask.dtype.kind not in "biu" or mask.shape != member.shape:
                continue
            hidden = _rows(array_of(self.file, replace(mask, transposed=member.transposed)), column) != 0
            values[hidden] = np.nan
            if count := int(hidden.sum()):
                notes.append(f"{member.name}: {count:,} samples are missing by the mask {name!r}")
            break
        return values

    def subject(self) -> np.ndarray | None:
        """The subject of all pieces, [1], or of each, [pieces]; None if the file names none."""
        for key in (*SUBJECTS, "subjects", "subjectids", "patients"):
            found = self._array(self.keys.get(key))
            if found is not None and found.dtype.kind in "fiuUS":
                return np.atleast_1d(as_text(found))
        return None

    def _array(self, name: str | None) -> np.ndarray | None:
        """An array of the file; None if it is missing, or holds objects."""
        if name is None or self.members[name].dtype.kind == "O":
            return None
        return array_of(self.file, self.members[name])


def _lists_of_names(path: str, members: dict[str, Member]) -> dict[int, list[str]]:
    """Lists of names of channels in a file, by their lengths: texts, of which one names a PPG or an ECG."""
    found: dict[int, list[str]] = {}
    with open_arrays(path) as file:
        for member in members.values():
            if member.dtype.kind in "US" and len(member.shape) == 1 and 1 < member.shape[0] <= MOST_CHANNELS:
                rows = [str(row).strip() for row in as_text(file[member.name])]
                if len(set(rows)) == len(rows) and any(map(is_named, rows)):
                    found.setdefault(len(rows), rows)
    return found


def _columns(shape: tuple[int, ...]) -> int:
    """How many channels an array has in columns; 1 for [samples], [samples, 1] and [pieces, samples]."""
    few = len(shape) == 2 and shape[1] <= MOST_CHANNELS and shape[0] >= LEAST
    return max(shape[1], 1) if few else 1


def _rows(array: np.ndarray, column: int | None) -> np.ndarray:
    """An array as [pieces, samples]: one column of it, or its rows; a single column is one piece."""
    if column is not None:
        return array[:, column][None]
    return array.reshape(1, -1) if array.ndim == 1 or array.shape[1] == 1 else array


def _is_mask(name: str) -> bool:
    return name == "mask" or name.endswith(("_mask", ".mask"))


def _is_time(member: Member, members: dict[str, Member]) -> bool:
    """Whether an array holds the times of another one."""
    others = [other for other in members.values() if other is not member and other.is_signal]
    return key_of(member.name) in TIMES and any(other.shape == member.shape for other in others)


def _loaded(channels: list[Channel], named: np.ndarray | None, notes: list[str]) -> Loaded:
    """The channels; `named` holds one subject, or one for each piece."""
    pieces = len(channels[0].values)
    subjects: list[str] = []
    if named is not None:
        if named.shape not in ((1,), (pieces,)):
            raise ValueError(f"subject: expected one or {pieces} values, got shape {named.shape}")
        subjects = np.broadcast_to(named, pieces).astype(str).tolist()
    ids = [("1", str(i + 1), str(i + 1)) for i in range(pieces)] if pieces > 1 else []
    starts = np.full(pieces, np.nan) if pieces > 1 else None
    return Loaded(channels, subjects=subjects, ids=ids, starts=starts, notes=notes)
