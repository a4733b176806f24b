"""Shards of the published layout: HDF5 files with a group for each subject and a data set for each segment.

Groups are named `<dataset>_<subject>`, data sets
`<index>+++<SegmentID>+++<WinID>+++<WinSeqID>+++<ppg quality>+++<ecg quality>`. A data set is an array [L, 3] float16 of
the columns time (s), ppg and ecg, contiguous and uncompressed.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from xmae_fast._files import atomic_path
from xmae_fast._full_disk import new_hdf5
from xmae_fast.data.augment import NormalizeDtype, segment_problem
from xmae_fast.data.formats.linked import OtherFiles
from xmae_fast.data.formats.opening import open_hdf5

KEY_FORM = "<index>+++<SegmentID>+++<WinID>+++<WinSeqID>+++<ppg quality>+++<ecg quality>"


class SegmentKey(NamedTuple):
    """The fields of a record's key. Identifiers are text, because the published corpus does not promise numbers."""

    index: int
    segment_id: str
    win_id: str
    win_seq_id: str
    ppg_quality: float
    ecg_quality: float


class SegmentRecord(NamedTuple):
    """Where one segment lies, and how good it is. `problem` is "constant", "non-finite", or "" for a segment that is
    good or whose values were not looked at."""

    path: str
    subject: str
    key: str
    ppg_quality: float
    ecg_quality: float
    problem: str


def parse_key(key: str) -> SegmentKey:
    """The fields of a record's key.

    Raises:
        ValueError: `key` does not have the form `KEY_FORM`.
    """
    fields = key.split("+++")
    try:
        index, segment_id, win_id, win_seq_id, *qualities = fields
        ppg_quality, ecg_quality = map(float, qualities)
        return SegmentKey(int(index), segment_id, win_id, win_seq_id, ppg_quality, ecg_quality)
    except ValueError:
        raise ValueError(f"key: expected {KEY_FORM} with numbers for index and qualities, got {key!r}") from None


def format_key(key: SegmentKey) -> str:
    """The text of a key; the index has at least four digits, the qualities have three decimals."""
    index, segment_id, win_id, win_seq_id, ppg_quality, ecg_quality = key
    return f"{index:04d}+++{segment_id}+++{win_id}+++{win_seq_id}+++{ppg_quality:.3f}+++{ecg_quality:.3f}"


def write_shard(
    path: str | os.PathLike,
    ppg: np.ndarray,
    ecg: np.ndarray,
    subject_names: Sequence[str],
    *,
    ppg_quality: Sequence[float] | np.ndarray,
    ecg_quality: Sequence[float] | np.ndarray,
    sampling_freq: float = 100,
    index: Sequence[int] | np.ndarray | None = None,
    segment_ids: Sequence | None = None,
    win_ids: Sequence | None = None,
    win_seq_ids: Sequence | None = None,
) -> list[str]:
    """Write n segments to one shard, which appears whole or not at all.

    Args:
        path: the file, which is replaced if it is there.
        ppg: [n, L], numbers within float16's range.
        ecg: [n, L], the same.
        subject_names: [n], names of groups, `<dataset>_<subject>`.
        ppg_quality: [n].
        ecg_quality: [n].
        sampling_freq: in Hz.
        index: [n]; by default the segments of each subject are counted from 0.
        segment_ids: [n]; by default 1.
        win_ids: [n]; by default index + 1.
        win_seq_ids: [n]; by default index + 1.

    Returns:
        The names `<group>/<key>` of the n segments.

    Raises:
        FileNotFoundError: the folder of `path` does not exist.
        ValueError: an argument has a wrong shape or value; the message names it.
    """
    import_h5py()
    ppg, ecg = np.asarray(ppg), np.asarray(ecg)
    if ppg.ndim != 2 or ppg.shape != ecg.shape:
        raise ValueError(f"ppg, ecg: expected one shape [n, L], got {ppg.shape} and {ecg.shape}")
    size, samples = ppg.shape
    index = _count_within(subject_names) if index is None else index
    columns = {
        "subject_names": subject_names,
        "index": index,
        "segment_ids": [1] * size if segment_ids is None else segment_ids,
        "win_ids": [i + 1 for i in index] if win_ids is None else win_ids,
        "win_seq_ids": [i + 1 for i in index] if win_seq_ids is None else win_seq_ids,
        "ppg_quality": ppg_quality,
        "ecg_quality": ecg_quality,
    }
    for name, values in columns.items():
        if len(values) != size:
            raise ValueError(f"{name}: expected {size} values, one per segment, got {len(values)}")
    time = np.arange(samples) / sampling_freq
    names: dict[str, None] = {}
    with atomic_path(path) as temporary, new_hdf5(temporary) as file:
        for row, (subject, *fields) in enumerate(zip(*columns.values(), strict=True)):
            name = _record_name(subject, format_key(SegmentKey(*fields)))
            if name in names:
                raise ValueError(f"index: expected distinct records, got {name!r} twice (row {row})")
            record = np.stack([time, ppg[row], ecg[row]], axis=1)
            if not (np.abs(record) <= np.finfo(np.float16).max).all():
                raise ValueError(f"ppg, ecg: expected finite numbers within float16's range, row {row} has others")
            file.create_dataset(name, data=record.astype(np.float16))
            names[name] = None
    return list(names)


def iter_index(
    paths: str | os.PathLike | Iterable[str | os.PathLike],
    *,
    seq_len: int | None = None,
    select: Callable[[str, SegmentKey], bool] | None = None,
    check_values: NormalizeDtype | None = None,
) -> Iterator[SegmentRecord]:
    """Iterate over the records of shards, in the order of `paths` and of the names in each; the arguments and errors
    are those of `read_index`."""
    h5py = import_h5py()
    for path in path_list(paths):
        with open_shard(path) as shard:
            others = OtherFiles(shard)
            for subject, group in shard.items():
                if not isinstance(group, h5py.Group):
                    got = "a link that leads nowhere" if group is None else "a data set"
                    raise ValueError(f"shard {path}, {subject!r}: expected a group per subject, got {got}")
                for key in group:
                    try:
                        fields = parse_key(key)
                    except ValueError as error:
                        raise ValueError(f"shard {path}, group {subject!r}: {error}") from None
                    if select is not None and not select(subject, fields):
                        continue
                    where = f"shard {path}, record {subject}/{key}"
                    try:
                        # group[key] takes twice as long as this, which matters for 5 million records.
                        record = h5py.h5d.open(group.id, key.encode())
                        seq_len = _check_record(record, seq_len, where)
                        if record.get_offset() is None and others.missing_rows(record):
                            raise OSError("values in a file that is missing or too short")
                        problem = segment_problem(_read(record)[:, 1:], check_values) if check_values else ""
                    except (KeyError, OSError, RuntimeError) as error:
                        raise ValueError(f"{where}: expected a readable data set ({error})") from error
                    yield SegmentRecord(path, subject, key, fields.ppg_quality, fields.ecg_quality, problem)


def read_index(
    paths: str | os.PathLike | Iterable[str | os.PathLike],
    *,
    seq_len: int | None = None,
    select: Callable[[str, SegmentKey], bool] | None = None,
    check_values: NormalizeDtype | None = None,
) -> list[SegmentRecord]:
    """List the records of shards.

    Args:
        paths: one shard or several.
        seq_len: the samples that every record must have; by default those of the first record.
        select: is called with (subject, key) before a record is opened; the record is left out if it returns False.
        check_values: the dtype of an arithmetic. If it is given, every record is read, which takes as long as loading
            it, and its `problem` in this arithmetic is set.

    Raises:
        FileNotFoundError: a shard is missing.
        ValueError: a shard is not HDF5 or is cut short, a key is malformed, or a record is not [seq_len, 3] float16;
            the message names the shard and the record.
    """
    return list(iter_index(paths, seq_len=seq_len, select=select, check_values=check_values))


def subject_groups(paths: Sequence[str]) -> list[str]:
    """The sorted names of the subjects in shards; no record is opened."""
    names: set[str] = set()
    for path in paths:
        with open_shard(path) as shard:
            names.update(shard)
    return sorted(names)


def path_list(paths: str | os.PathLike | Iterable[str | os.PathLike]) -> list[str]:
    """One path or several as a list of texts; ValueError if there is none."""
    listed = [os.fspath(p) for p in ([paths] if isinstance(paths, (str, os.PathLike)) else paths)]
    if not listed:
        raise ValueError("paths: expected at least one shard, got none")
    return listed


def open_shard(path: str):
    """Open an h5py.File for reading.

    Raises:
        FileNotFoundError: there is no file at `path`.
        BlockingIOError: another process has it open for writing, see `open_hdf5`.
        ValueError: it is no HDF5 file, or it is cut short.
    """
    import_h5py()
    if not os.path.isfile(path):
        found = "a folder" if os.path.isdir(path) else "nothing"
        raise FileNotFoundError(f"shard {path}: expected an HDF5 file, found {found}")
    try:
        return open_hdf5(path)
    except BlockingIOError:
        raise
    except OSError as error:
        raise ValueError(f"shard {path}: expected a whole HDF5 file, but it cannot be opened ({error})") from error


def first_names(group) -> str:
    """The first five names in an h5py file or group, for error messages."""
    names = list(group)
    return ", ".join(map(repr, names[:5])) + (", ..." if len(names) > 5 else "") if names else "nothing"


def import_h5py() -> Any:
    """The module h5py; ImportError says what to install. Any, as types inferred from h5py's code are wrong."""
    try:
        import h5py
    except ImportError:
        raise ImportError("Shards need h5py, a core dependency of xmae_fast: pip install xmae_fast") from None
    return h5py


def _check_record(record, seq_len: int | None, where: str) -> int:
    shape, dtype = record.shape, record.dtype
    if shape is None or len(shape) != 2 or shape[1] != 3 or shape[0] != (seq_len or shape[0]) or shape[0] == 0:
        raise ValueError(f"{where}: expected shape ({seq_len or 'L'}, 3), got {shape}")
    if dtype != np.float16:
        raise ValueError(f"{where}: expected dtype float16, got {dtype}")
    return shape[0]


def _read(record) -> np.ndarray:
    h5s = import_h5py().h5s
    values = np.empty(record.shape, np.float16)
    record.read(h5s.ALL, h5s.ALL, values)
    return values


def _record_name(subject: str, key: str) -> str:
    dataset, _, rest = subject.partition("_")
    if not (dataset and rest) or "/" in subject:
        raise ValueError(f"subject_names: expected '<dataset>_<subject>' without '/', got {subject!r}")
    if "/" in key or key.count("+++") != 5:
        raise ValueError(f"segment_ids, win_ids, win_seq_ids: expected text without '/' and '+++', got key {key!r}")
    return f"{subject}/{key}"


def _count_within(names: Sequence[str]) -> list[int]:
    seen: dict[str, int] = {}
    counts = []
    for name in names:
        counts.append(seen.get(name, 0))
        seen[name] = counts[-1] + 1
    return counts
