"""The first half of a scan of a published shard: what the records' names and headers say, without their samples."""

from typing import Any

import numpy as np

from xmae_fast.data import problems
from xmae_fast.data.formats.layout import Layout, row_storage, sampling_freq_of
from xmae_fast.data.formats.linked import OtherFiles
from xmae_fast.data.formats.shards import first_names, import_h5py, parse_key
from xmae_fast.data.index.shard_scan import Scan, ShardHeader, ShardRows
from xmae_fast.workers.progress import StageProgress


def scan_published(file, layout: Layout, progress: StageProgress) -> Scan:
    """Scan an open h5py.File of the published layout; `problem` is set for records that are malformed or unreadable.

    Args:
        file: the open file.
        layout: the names of the columns.
        progress: is called with (records that are done, None).

    Raises:
        ValueError: the file holds no record, or `layout` asks for labels, which this layout does not have.
    """
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
            f" data sets {layout.ppg!r} and {layout.ecg!r}; found {first_names(file)}"
        )
    L, size = found.shape[0], found.dtype.itemsize
    subject, offset, ppg, ecg, problem = map(np.array, zip(*found.rows, strict=True))
    starts = [layout.columns.index(name) * size for name in ("ppg", "ecg")]
    rate = layout.sampling_freq or sampling_freq_of(file.attrs, _time_column(file, found, problem))
    mapped = not found.why_not
    header = ShardHeader(
        form="published",
        seq_len=L,
        dtype=found.dtype.str,
        stride=found.columns * size,
        mapped=mapped,
        why_not=found.why_not,
        sampling_freq=rate,
        subjects=found.subjects,
    )
    ppg_offset, ecg_offset = (np.where(mapped & (offset >= 0), offset + start, -1) for start in starts)
    rows = ShardRows(
        subject=subject.astype(np.int32),
        ppg_offset=ppg_offset,
        ecg_offset=ecg_offset,
        quality=np.stack([ppg, ecg], 1),
        problem=problem.astype(np.uint8),
    )
    return Scan(header, rows, keys=np.array(found.keys), others=others.marks)


class _Published:
    """Collects the records of a file; the first one decides shape and dtype of all."""

    def __init__(self, h5py, layout: Layout, others: OtherFiles) -> None:
        self.h5py, self.layout, self.others = h5py, layout, others
        self.columns = len(layout.columns)
        self.shape: tuple[int, int] | None = None
        self.type: Any = None  # an h5py.h5t.TypeID once there is a shape
        self.dtype: Any = None  # the same as an np.dtype
        self.why_not = ""
        self.subjects: list[str] = []
        self.rows: list[tuple[int, int, float, float, int]] = []  # subject, offset, qualities of PPG and ECG, problem
        self.keys: list[bytes] = []

    def add(self, group, name: str | bytes, subject: int, prefix: bytes, is_own: bool) -> None:
        """Add a member of a subject's group.

        Args:
            group: the h5py.Group.
            name: of the member; h5py gives bytes where it is not UTF-8.
            subject: the number of the subject.
            prefix: the group's name and "/".
            is_own: whether the group lies in the file itself.
        """
        offset, ppg, ecg, problem = -1, np.nan, np.nan, 0
        try:
            key = str(name)  # bytes become a text that is no key
            fields = parse_key(key)
            ppg, ecg = fields.ppg_quality, fields.ecg_quality
            if linked := self.others.is_link(group, name):
                self.others.follow(group, name)
            record = self.h5py.h5d.open(group.id, key.encode())
            offset = self._offset(record, self.others.owns(record) if linked else is_own)
            problem = 0 if offset is not None else problems.WRONG_SHAPE
        except ValueError:
            problem = problems.BAD_KEY
        except (KeyError, OSError, RuntimeError, TypeError, MemoryError):
            offset, problem = -1, problems.UNREADABLE
        self.rows.append((subject, -1 if offset is None else offset, ppg, ecg, problem))
        self.keys.append(prefix + _as_bytes(name))

    def _offset(self, record, is_own: bool) -> int | None:
        """Where a record begins, in bytes; -1 if it cannot be mapped, None if it has another shape or type than others.

        Raises:
            OSError: values of the record lie in a file that is missing or too short.
        """
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


def _member(group, name: str | bytes) -> Any:
    """A member of a group; None if it cannot be opened because a link is broken or a header is damaged."""
    try:
        return group.get(name)
    except (KeyError, OSError, RuntimeError, ValueError, TypeError):
        return None


def _as_bytes(name: str | bytes) -> bytes:
    return name if isinstance(name, bytes) else name.encode("utf-8", "surrogateescape")


def _time_column(file, found: _Published, problem: np.ndarray) -> np.ndarray | None:
    """The times of the first good record in seconds, [L]; None if there are none."""
    good = np.flatnonzero(problem == 0)
    if "time" not in found.layout.columns or not len(good):
        return None
    try:
        return file[found.keys[good[0]].decode()][:, found.layout.columns.index("time")]
    except (OSError, RuntimeError, KeyError):
        return None
