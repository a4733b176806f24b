"""One pass over a shard: where each segment lies, whose it is, how good it is, and what is wrong with it."""

import mmap
import os
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from xmae_fast.data import problems
from xmae_fast.data.formats.layout import Layout, row_storage, sampling_freq_of
from xmae_fast.data.formats.linked import Mark, OtherFiles, rows_of
from xmae_fast.data.formats.shards import import_h5py, open_shard, parse_key
from xmae_fast.data.gather import MapFormat, gather_arrays, make_gather
from xmae_fast.data.index.segment_reader import SegmentReader

_CHUNK = 4096  # records whose values are checked at a time
_VERIFIED = 16  # records compared with what h5py reads
Progress = Callable[[int, int | None], None]  # records done, records in all if known


@dataclass
class Scan:
    """n segments of a shard, in the order of their names (published) or rows (packed). Offsets are bytes from the start
    of the file to the first sample; -1 where there is none, and throughout where `mapped` is False."""

    form: str  # "published" or "packed"
    seq_len: int
    dtype: str  # NumPy's, with byte order
    stride: int  # bytes from one sample to the next
    mapped: bool
    why_not: str
    sampling_freq: float | None
    subjects: list[str]
    subject: np.ndarray  # (n,) int32 into subjects
    ppg_offset: np.ndarray  # (n,) int64
    ecg_offset: np.ndarray  # (n,) int64
    quality: np.ndarray  # (n, 2) float64: PPG, ECG
    problem: np.ndarray  # (n,) uint8, see problems.py
    key: np.ndarray = field(repr=False)  # (n,) bytes: group/key (published) or row number (packed)
    labels: dict[str, np.ndarray] = field(default_factory=dict)  # (n,) int64 or float32
    others: dict[str, Mark | None] = field(default_factory=dict)  # files that data come from, see linked.py


def scan_shard(path: str, layout: Layout, progress: Progress | None = None) -> Scan:
    """Scan a shard and look at every value once. Records that are malformed, of another shape, or unusable are kept and
    marked. FileNotFoundError; ValueError where the file is no HDF5 file, is cut short, or holds no segment."""
    progress = progress or (lambda done, total: None)
    with open_shard(path) as file:
        try:
            scan = _scan_packed(file, layout) if layout.is_packed(file) else _scan_published(file, layout, progress)
        except ValueError as error:
            raise ValueError(f"shard {path}: {error}") from error
        except (KeyError, OSError, RuntimeError, TypeError, UnicodeError, MemoryError) as error:
            raise ValueError(f"shard {path}: expected a readable HDF5 file ({error})") from error
        reader = SegmentReader(file, scan, layout)
        if scan.mapped:
            _check_mapped(path, scan, reader, progress)
        if not scan.mapped:
            _check_read(scan, reader, progress)
    return scan


class _Published:
    """Collects records whose keys end in their qualities."""

    def __init__(self, h5py, layout: Layout, others: OtherFiles) -> None:
        self.h5py, self.layout, self.others = h5py, layout, others
        self.columns = len(layout.columns)
        self.shape = self.type = self.dtype = None
        self.why_not = ""
        self.subjects: list[str] = []
        self.rows: list[tuple[int, int, float, float, int]] = []  # subject, offset, qualities, problem
        self.keys: list[bytes] = []

    def add(self, group, name: str | bytes, subject: int, prefix: bytes, is_own: bool) -> None:
        """A member of a subject's group, which lies in the file itself or not; h5py gives bytes where a name is not
        UTF-8."""
        offset, ppg, ecg, problem = -1, np.nan, np.nan, 0
        try:
            fields = parse_key(str(name))
            ppg, ecg = fields.ppg_quality, fields.ecg_quality
            if linked := self.others.is_link(group, name):
                self.others.follow(group, name)
            record = self.h5py.h5d.open(group.id, name.encode())
            offset = self._offset(record, self.others.owns(record) if linked else is_own)
            problem = 0 if offset is not None else problems.WRONG_SHAPE
        except ValueError:
            problem = problems.BAD_KEY
        except (KeyError, OSError, RuntimeError, TypeError, MemoryError):
            offset, problem = -1, problems.UNREADABLE
        self.rows.append((subject, -1 if offset is None else offset, ppg, ecg, problem))
        self.keys.append(prefix + _as_bytes(name))

    def _offset(self, record, is_own: bool) -> int | None:
        """Where a record begins, -1 where it cannot be mapped, None where it has another shape or type. OSError where
        a file is missing that its values are in."""
        shape = record.shape
        if self.shape is None:
            dtype = record.dtype
            if len(shape) != 2 or shape[1] != self.columns or not shape[0] or dtype.kind != "f" or dtype.itemsize > 8:
                return None
            self.shape, self.type, self.dtype = shape, record.get_type(), dtype
        elif shape != self.shape or not record.get_type().equal(self.type):
            return None
        offset = record.get_offset()
        if offset is None and self.others.missing_rows(record):
            raise OSError("values in a file that is missing or too short")
        if not is_own:
            self.why_not = self.why_not or "links to other files"
            return -1
        if offset is None and not self.why_not:
            storage = row_storage(record, shape)
            rows = storage.offsets
            pitch = shape[1] * self.dtype.itemsize
            if rows is not None and (np.diff(rows) == pitch).all():
                return int(rows[0])
            self.why_not = storage.why_not or "more than one chunk in a record"
        return -1 if offset is None else offset


def _scan_published(file, layout: Layout, progress: Progress) -> Scan:
    if layout.labels:
        raise ValueError(f"labels: expected a packed file for {', '.join(layout.labels)}, found groups of records")
    h5py = import_h5py()
    others = OtherFiles(file)
    found = _Published(h5py, layout, others)
    for name in file:
        if others.is_link(file, name):
            others.follow(file, name)
        member = _member(file, name)
        found.subjects.append(_as_bytes(name).decode("utf-8", "backslashreplace"))
        if not isinstance(member, h5py.Group):
            problem = problems.UNREADABLE if member is None else problems.BAD_KEY
            found.rows.append((len(found.subjects) - 1, -1, np.nan, np.nan, problem))
            found.keys.append(_as_bytes(name))
            continue
        prefix, is_own = _as_bytes(name) + b"/", others.owns(member.id)
        for key in member:
            found.add(member, key, len(found.subjects) - 1, prefix, is_own)
        progress(len(found.rows), None)
    if found.shape is None:
        raise ValueError(
            f"expected groups of segments (L, {found.columns}) of columns {layout.columns} in float16, 32 or 64, or"
            f" data sets {layout.ppg!r} and {layout.ecg!r}; found {_first_names(file)}"
        )
    L, size = found.shape[0], found.dtype.itemsize
    subject, offset, ppg, ecg, problem = map(np.array, zip(*found.rows, strict=True))
    starts = [layout.columns.index(name) * size for name in ("ppg", "ecg")]
    rate = layout.sampling_freq or sampling_freq_of(file.attrs, _time_column(file, found, problem))
    mapped = not found.why_not
    return Scan(
        "published", L, found.dtype.str, found.columns * size, mapped, found.why_not, rate, found.subjects,
        subject.astype(np.int32), *(np.where(mapped & (offset >= 0), offset + start, -1) for start in starts),
        np.stack([ppg, ecg], 1), problem.astype(np.uint8), np.array(found.keys), others=others.marks,
    )  # fmt: skip


def _member(group, name: str | bytes):
    """A member of a group, None where it cannot be opened: a broken link, a damaged header."""
    try:
        return group.get(name)
    except (KeyError, OSError, RuntimeError, ValueError, TypeError):
        return None


def _as_bytes(name: str | bytes) -> bytes:
    return name if isinstance(name, bytes) else name.encode("utf-8", "surrogateescape")


def _time_column(file, found: _Published, problem: np.ndarray) -> np.ndarray | None:
    good = np.flatnonzero(problem == 0)
    if "time" not in found.layout.columns or not len(good):
        return None
    try:
        return file[found.keys[good[0]].decode()][:, found.layout.columns.index("time")]
    except (OSError, RuntimeError, KeyError):
        return None


def _scan_packed(file, layout: Layout) -> Scan:
    others = OtherFiles(file)
    for name in {*file, layout.ppg, layout.ecg, layout.ppg_quality, layout.ecg_quality, *layout.labels}:
        others.follow(file, name)
    signals = [file[layout.ppg], file[layout.ecg]]
    shape, dtype = signals[0].shape, signals[0].dtype
    for name, signal in zip((layout.ppg, layout.ecg), signals, strict=True):
        if signal.shape != shape or len(shape) != 2 or not all(shape) or signal.dtype != dtype:
            got = f"{signal.shape} {signal.dtype}"
            raise ValueError(f"{name}: expected (n, L) as {layout.ppg} has, {shape} {dtype}, got {got}")
    if dtype.kind != "f" or dtype.itemsize > 8:
        raise ValueError(f"{layout.ppg}: expected float16, float32 or float64, got {dtype}")
    n = shape[0]
    missing = np.zeros(n, bool)
    for signal in signals:
        missing |= rows_of(others.missing_rows(signal.id), n)
    if all([others.owns(signal.id) for signal in signals]):
        storages = [row_storage(signal.id, shape) for signal in signals]
        why_not = next((s.why_not for s in storages if s.offsets is None), "")
    else:
        why_not = "links to other files"
    offsets = [np.full(n, -1, np.int64)] * 2 if why_not else [s.offsets for s in storages]
    text = layout.subject_values(file)
    if text is None:
        text = np.full(n, os.path.splitext(os.path.basename(file.filename))[0])
    quality = np.ones((n, 2))
    for k, name in enumerate((layout.ppg_quality, layout.ecg_quality)):
        if name in file:
            quality[:, k] = _column(file, name, n)
    if text.shape != (n,):
        raise ValueError(f"subject: expected shape ({n},), one per segment, got {text.shape}")
    subjects, subject = np.unique(text, return_inverse=True)
    return Scan(
        "packed", shape[1], dtype.str, dtype.itemsize, not why_not, why_not,
        layout.sampling_freq or sampling_freq_of(file.attrs, None), subjects.tolist(), subject.astype(np.int32),
        *offsets, quality, missing * np.uint8(problems.UNREADABLE), np.arange(n).astype("S"),
        {name: _label(file, name, n) for name in layout.labels}, others.marks,
    )  # fmt: skip


def _label(file, name: str, n: int) -> np.ndarray:
    if name not in file:
        raise ValueError(f"labels: expected a data set {name!r}, the file has {_first_names(file)}")
    values = _column(file, name, n)
    return values.astype(np.float32 if values.dtype.kind == "f" else np.int64)


def _column(file, name: str, n: int) -> np.ndarray:
    values = file[name]
    if values.shape != (n,) or values.dtype.kind not in "fiu":
        raise ValueError(f"{name}: expected {n} numbers, one per segment, got {values.shape} {values.dtype}")
    return values[()]


def _check_mapped(path: str, scan: Scan, reader: SegmentReader, progress: Progress) -> None:
    """Find problems through the map; where the map does not hold what h5py reads, the file is not to be mapped."""
    good = np.flatnonzero(scan.problem == 0)
    sample = good[np.linspace(0, len(good) - 1, min(_VERIFIED, len(good))).astype(int)] if len(good) else good
    with open(path, "rb") as file:
        mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    gather = make_gather([mapping], [MapFormat(np.dtype(scan.dtype), scan.stride)], scan.seq_len)
    if not _map_holds(gather, scan, reader, sample):
        scan.mapped, scan.why_not = False, "the bytes at the stated places are not what h5py reads"
        scan.ppg_offset[:] = scan.ecg_offset[:] = -1
        return
    for start in range(0, len(good), _CHUNK):
        rows = good[start : start + _CHUNK]
        files = np.zeros(len(rows), np.int32)
        scan.problem[rows] |= gather.inspect(files, scan.ppg_offset[rows], scan.ecg_offset[rows], 1)
        progress(start + len(rows), len(good))


def _map_holds(gather, scan: Scan, reader: SegmentReader, rows: np.ndarray) -> bool:
    size = np.dtype(scan.dtype).itemsize
    copies = [np.zeros((len(rows), scan.seq_len * size), np.uint8) for _ in range(2)]
    files = np.zeros(len(rows), np.int32)
    found = gather.copy(files, scan.ppg_offset[rows], scan.ecg_offset[rows], *copies, 1)
    *signals, unreadable = reader(rows)
    inside = (found == 0) & (unreadable == 0)
    native = np.dtype(scan.dtype).newbyteorder("=")
    return all(
        np.array_equal(copy[inside], np.ascontiguousarray(x.astype(native)).view(np.uint8)[inside])
        for copy, x in zip(copies, signals, strict=True)
    )


def _check_read(scan: Scan, reader: SegmentReader, progress: Progress) -> None:
    good = np.flatnonzero(scan.problem == 0)
    for start in range(0, len(good), _CHUNK):
        rows = good[start : start + _CHUNK]
        ppg, ecg, found = reader(rows)
        scan.problem[rows] = found | np.where(found == 0, inspect_arrays(ppg, ecg), 0).astype(np.uint8)
        progress(start + len(rows), len(good))


def inspect_arrays(ppg: np.ndarray, ecg: np.ndarray) -> np.ndarray:
    """The problems of segments in memory, (k, L) each, (k,) uint8."""
    gather, arguments = gather_arrays(ppg, ecg)
    return gather.inspect(*arguments, 1)


def _first_names(file) -> str:
    names = list(file)
    return ", ".join(map(repr, names[:5])) + (", ..." if len(names) > 5 else "") if names else "nothing"
