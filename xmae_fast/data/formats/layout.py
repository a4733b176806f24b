"""Which data sets of an HDF5 file hold the signals, and where in the file their samples lie."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from xmae_fast.data.formats.shards import import_h5py

_SUBJECT_NAMES = ("subject", "subject_id", "patient_id", "patient", "subjects_id")


@dataclass(frozen=True)
class Layout:
    """The names of data sets and columns in a shard. Two layouts are recognised:

    published: a group for each subject, and in it an array [L, C] for each segment, whose key ends in the qualities.
    packed: one data set [n, L] for each signal; beside them data sets [n] with the subjects and the qualities. A file
        without the data set of the ECG holds PPG alone.

    Args:
        columns: published layout: the names of the C columns; "ppg" and "ecg" are read.
        ppg: packed layout: the data set with the PPG.
        ecg: packed layout: the data set with the ECG.
        subject: packed layout: the data set with the subjects, numbers or text. Numbers are indices into the data set
            `subjects` if there is one. None looks for the usual names; if there is none of them, the file is one
            subject.
        ppg_quality: packed layout: the data set with the qualities of the PPG; without it every quality is 1.
        ecg_quality: packed layout: the same for the ECG.
        labels: packed layout: the names of data sets [n] of numbers that batches carry beside the signals.
        sampling_freq: in Hz. None takes the file's attribute "sampling_freq", or else derives it from the column
            "time"; if there is neither, it is unknown.

    Raises:
        ValueError: `columns` lacks "ppg" or "ecg", or a label has the name of something else in a batch.
    """

    columns: tuple[str, ...] = ("time", "ppg", "ecg")
    ppg: str = "ppg"
    ecg: str = "ecg"
    subject: str | None = None
    ppg_quality: str = "ppg_quality"
    ecg_quality: str = "ecg_quality"
    labels: tuple[str, ...] = ()
    sampling_freq: float | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "columns", tuple(self.columns))
        if self.columns.count("ppg") != 1 or self.columns.count("ecg") != 1:
            raise ValueError(f'columns: expected "ppg" and "ecg" once each, got {self.columns}')
        object.__setattr__(self, "labels", (self.labels,) if isinstance(self.labels, str) else tuple(self.labels))
        if hidden := {"ppg", "ecg", "subject"} & set(self.labels):
            raise ValueError(f"labels: expected other names than those of a batch, got {', '.join(sorted(hidden))}")

    def is_packed(self, file) -> bool:
        """Whether an open h5py.File has the packed layout: one data set for each signal, or one for the PPG alone."""
        data_set = import_h5py().Dataset
        return all(isinstance(file.get(name), data_set) for name in self.signals(file))

    def signals(self, file) -> tuple[str, ...]:
        """The data sets of signals that a packed shard should have: of PPG and ECG, or of PPG alone if nothing, not
        even a broken link, has the name of the ECG."""
        folder, _, name = self.ecg.rpartition("/")
        group = file.get(folder) if folder else file
        there = isinstance(group, import_h5py().Group) and group.id.links.exists(name.encode())
        return (self.ppg, self.ecg) if there else (self.ppg,)

    def subject_values(self, file) -> np.ndarray | None:
        """The subject of each segment of a packed shard.

        Args:
            file: an open h5py.File.

        Returns:
            The names, normally [n] text; None if the file does not name subjects.

        Raises:
            ValueError: the data set `subject` is missing, or holds indices that `subjects` does not have.
        """
        names = _SUBJECT_NAMES if self.subject is None else (self.subject,)
        found = next((name for name in names if name in file), None)
        if found is None:
            if self.subject is not None:
                raise ValueError(f"subject: expected a data set {self.subject!r}, the file has {sorted(file)}")
            return None
        values = file[found][()]
        if values.dtype.kind in "iu" and "subjects" in file:
            names = _text(file["subjects"][()])
            if len(values) and (values.min() < 0 or values.max() >= len(names)):
                raise ValueError(f"{found}: expected indices into 'subjects' of {len(names)}, got others")
            return names[values]
        return _text(values)


class Storage(NamedTuple):
    """Where the rows of a data set lie in its file.

    Args:
        offsets: [n] int64, bytes from the start of the file to each row; None if the rows cannot be mapped.
        why_not: why they cannot.
    """

    offsets: np.ndarray | None
    why_not: str = ""


def row_storage(data_set, shape: tuple[int, int]) -> Storage:
    """Find out where the rows of a data set lie. Each row must lie in one piece: in contiguous storage, or in chunks of
    whole rows without filters.

    Args:
        data_set: an h5py.h5d.DatasetID.
        shape: n and the width of a row.
    """
    h5d = import_h5py().h5d
    n, width = shape
    size = data_set.get_type().get_size()
    offset = data_set.get_offset()
    if offset is not None:
        return Storage(offset + np.arange(n, dtype=np.int64) * (width * size))
    plist = data_set.get_create_plist()
    if plist.get_layout() != h5d.CHUNKED:
        kind = {h5d.COMPACT: "compact", h5d.VIRTUAL: "virtual", h5d.CONTIGUOUS: "external or never written"}
        return Storage(None, f"{kind.get(plist.get_layout(), 'unknown')} storage")
    if plist.get_nfilters():
        names = [plist.get_filter(i)[3].decode() for i in range(plist.get_nfilters())]
        return Storage(None, f"filters: {', '.join(names)}")
    height, chunk_width = plist.get_chunk()
    if chunk_width < width:
        return Storage(None, f"chunks of {height} x {chunk_width}, less than a row")
    offsets = np.full(n, -1, np.int64)
    for i in range(data_set.get_num_chunks()):
        chunk = data_set.get_chunk_info(i)
        rows = np.arange(chunk.chunk_offset[0], min(chunk.chunk_offset[0] + height, n))
        offsets[rows] = chunk.byte_offset + np.arange(len(rows)) * (chunk_width * size)
    return Storage(None, "chunks never written") if (offsets < 0).any() else Storage(offsets)


def sampling_freq_of(attributes, time: np.ndarray | None) -> float | None:
    """The sampling frequency in Hz; None if nothing tells it.

    Args:
        attributes: of an HDF5 file or group; "sampling_freq" is taken if it is there.
        time: [L], the times of a segment's samples in seconds, or None. A frequency that is derived from times is
            rounded to a whole number if that changes it by at most 0.5 %.
    """
    if "sampling_freq" in attributes:
        return float(attributes["sampling_freq"])
    if time is None or len(time) < 2:
        return None
    span = float(time[-1]) - float(time[0])
    if not (np.isfinite(span) and span > 0):
        return None
    rate = (len(time) - 1) / span
    return float(round(rate)) if abs(rate - round(rate)) <= 0.005 * rate else rate


def _text(values: np.ndarray) -> np.ndarray:
    if values.dtype.kind in "OS":
        decoded = [v.decode("utf-8", "backslashreplace") if isinstance(v, bytes) else str(v) for v in values.ravel()]
        return np.array(decoded, dtype=str).reshape(values.shape)
    return values.astype(str)
