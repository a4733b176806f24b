"""What a scan finds out about a shard: a header for the whole file, and arrays with a row for each segment."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from xmae_fast.data.formats.linked import Mark


@dataclass(frozen=True)
class ShardHeader:
    """What all segments of a shard have in common.

    Args:
        form: the layout, "published" or "packed".
        seq_len: L, the samples of a segment.
        dtype: NumPy's name of the samples' type, with the byte order.
        stride: bytes in the file from one sample of a signal to the next.
        mapped: whether the segments can be read from a memory map of the file.
        why_not: why they cannot; "" if they can.
        sampling_freq: in Hz; None if it is not known.
        subjects: the names of the shard's subjects.
        signals: "both", or "ppg" for a shard without ECG.
    """

    form: str
    seq_len: int
    dtype: str
    stride: int
    mapped: bool
    why_not: str
    sampling_freq: float | None
    subjects: list[str]
    signals: str = "both"


@dataclass(frozen=True)
class ShardRows:
    """The n segments of a shard, in the order of their names (published layout) or rows (packed layout).

    Args:
        subject: [n] int32, the number of the segment's subject in `ShardHeader.subjects`.
        ppg_offset: [n] int64, bytes from the start of the file to the first sample; -1 where there is none, and
            everywhere if the shard is not mapped.
        ecg_offset: [n] int64, the same for ECG; -1 everywhere in a shard without ECG.
        quality: [n, 2] float64, the qualities of PPG and ECG; that of an ECG that the shard does not have is NaN.
        problem: [n] uint8, what is wrong with the segment, as bits of `xmae_fast.data.problems`.
        labels: [n] int64 or float32 each, by name.
    """

    subject: np.ndarray
    ppg_offset: np.ndarray
    ecg_offset: np.ndarray
    quality: np.ndarray
    problem: np.ndarray
    labels: dict[str, np.ndarray] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.subject)


@dataclass(frozen=True)
class Scan:
    """All that a scan of a shard finds out.

    Args:
        header: what all segments have in common.
        rows: the segments.
        keys: [n] bytes, the names of the records: group/key (published layout) or the row's number (packed layout).
        others: the other files that the shard takes data from, by path; see `OtherFiles.marks`.
    """

    header: ShardHeader
    rows: ShardRows
    keys: np.ndarray
    others: dict[str, Mark | None] = field(default_factory=dict)

    def with_problems(self, problem: np.ndarray) -> Scan:
        """The same scan with other problems, [n] uint8."""
        return replace(self, rows=replace(self.rows, problem=problem))

    def unmapped(self, why_not: str) -> Scan:
        """The same scan of a shard that must not be read from a memory map."""
        nowhere = np.full(len(self.rows), -1, np.int64)
        header = replace(self.header, mapped=False, why_not=why_not)
        return replace(self, header=header, rows=replace(self.rows, ppg_offset=nowhere, ecg_offset=nowhere))
