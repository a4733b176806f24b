"""The plain data set, which reads each segment with h5py, as the published code does. Tests and benchmarks compare the
memory-mapped one with it.
"""

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Literal

import numpy as np
import torch
from torch.utils.data import Dataset

from xmae_fast.data.augment import NormalizeDtype, augmented, draw_augmentation, min_max, segment_problem
from xmae_fast.data.epochs import CountsEpochs, Epochs
from xmae_fast.data.formats.shards import (
    SegmentKey,
    SegmentRecord,
    iter_index,
    open_shard,
    path_list,
    read_index,
    subject_groups,
)
from xmae_fast.data.options import Quality, check_option, check_reading, quality_pair
from xmae_fast.data.splits import EXCLUDED_PREFIXES, split_subjects

Paths = str | os.PathLike | Iterable[str | os.PathLike]


class PlainSegmentDataset(CountsEpochs, Dataset):
    """Map-style data set over shards of the published layout.

    An item is {"ppg": [L] float32, "ecg": [L] float32, "subject": int}. Signals are min-max normalised to [-1, 1]
    segment by segment; `subject` is an index into `.subjects`.

    `.rejected` counts the segments that were left out, by reason; `.subjects` lists the sorted names of the subjects
    that remain; `.records` is the index.

    Args:
        paths: one shard or several.
        quality: the least quality of a record that is used: a number for both signals, or a pair (PPG, ECG).
        subjects: the names of the subjects to keep; by default all.
        exclude_prefixes: subjects whose names begin with one of these are always left out.
        split: "train", "val" or "test" of `split_subjects` over those subjects, whatever the quality of their segments;
            None for all of them.
        seed: decides the split and the augmentation.
        augment: True augments training data (`split` "train" or None), never data for evaluation. "published" does what
            the public code does, evidently by mistake: it augments "val" and "test" and leaves "train" as it is. The
            random numbers depend on (seed, epoch, item) only, not on the worker. Which epoch it is, is found out as by
            `SegmentDataset`.
        on_bad: "skip" reads every selected record once when the data set is made, and leaves out those that are
            constant or not finite, so that `len` is exact. "raise" does not, and a bad record raises ValueError when it
            is asked for.
        normalize_dtype: the arithmetic of augmentation and normalisation; the published code has "float16".

    Raises:
        FileNotFoundError, ValueError: as `read_index` and `split_subjects` raise them; ValueError also for an unknown
            option, and when no segment remains.
    """

    def __init__(
        self,
        paths: Paths,
        *,
        quality: Quality = 0.9,
        subjects: Iterable[str] | None = None,
        exclude_prefixes: tuple[str, ...] = EXCLUDED_PREFIXES,
        split: Literal["train", "val", "test"] | None = None,
        seed: int = 77,
        augment: bool | Literal["published"] = False,
        on_bad: Literal["skip", "raise"] = "skip",
        normalize_dtype: NormalizeDtype = "float16",
    ) -> None:
        self.augmenting = check_reading(split, augment, on_bad, normalize_dtype)
        self.seed, self.split = seed, split
        self._dtype = np.dtype(normalize_dtype)
        self._reader = _Reader()

        paths = path_list(paths)
        selection = _Selection(paths, quality, subjects, exclude_prefixes, split, seed)
        index = read_index(paths, select=selection, check_values=normalize_dtype if on_bad == "skip" else None)
        self.records: list[SegmentRecord] = [record for record in index if not record.problem]
        self.rejected = selection.rejected + Counter(record.problem for record in index if record.problem)
        if not self.records:
            raise ValueError(f"paths: no segment remains of {', '.join(paths)} (rejected: {dict(self.rejected)})")
        self.subjects = sorted({record.subject for record in self.records})
        self._subject_index = {name: i for i, name in enumerate(self.subjects)}
        self._epochs = Epochs(len(self.records) if self.augmenting else 0)

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, item: int) -> dict[str, torch.Tensor | int]:
        return self.__getitems__([range(len(self.records))[item]])[0]

    def __getitems__(self, items: list[int]) -> list[dict[str, torch.Tensor | int]]:
        """The items of a batch, read one after the other; all belong to the same epoch."""
        numbers = [range(len(self.records))[item] for item in items]
        epoch = self._epochs.of(np.asarray(numbers, np.int64))
        return [self._item(number, epoch) for number in numbers]

    def _identity(self) -> dict:
        return {"seed": self.seed, "segments": len(self.records), "augmenting": self.augmenting}

    def _item(self, item: int, epoch: int) -> dict[str, torch.Tensor | int]:
        record = self.records[item]
        signals = self._reader(record)
        problem = segment_problem(signals, self._dtype.name)
        if problem:
            raise ValueError(f"{_where(record)}: segment is {problem}")
        draws = None
        if self.augmenting:
            rng = np.random.Generator(np.random.Philox(key=[self.seed, epoch], counter=[0, 0, 0, item]))
            draws = draw_augmentation(rng), draw_augmentation(rng)
        ppg, ecg = _prepare(signals, self._dtype, draws)
        subject = self._subject_index[record.subject]
        return {"ppg": torch.from_numpy(ppg), "ecg": torch.from_numpy(ecg), "subject": subject}


def load_segments(
    paths: Paths,
    quality: Quality = 0.9,
    limit: int | None = None,
    *,
    subjects: Iterable[str] | None = None,
    exclude_prefixes: tuple[str, ...] = EXCLUDED_PREFIXES,
    normalize_dtype: NormalizeDtype = "float16",
) -> tuple[torch.Tensor, torch.Tensor]:
    """Read the first usable segments of shards into memory. Segments that are constant or not finite are left out.

    Args:
        paths, quality, subjects, exclude_prefixes, normalize_dtype: see `PlainSegmentDataset`.
        limit: how many segments are read at most; None reads all.

    Returns:
        PPG and ECG, [n, L] float32 each, in [-1, 1].

    Raises:
        ValueError: no segment can be used, or an argument has a wrong value.
    """
    check_option("normalize_dtype", normalize_dtype, ("float16", "float32"))
    if limit is not None and limit < 1:
        raise ValueError(f"limit: expected at least 1 or None, got {limit}")
    paths = path_list(paths)
    selection = _Selection(paths, quality, subjects, exclude_prefixes)
    index = iter_index(paths, select=selection, check_values=normalize_dtype)
    usable = (record for record in index if not record.problem)
    reader, dtype = _Reader(), np.dtype(normalize_dtype)
    rows = [_prepare(reader(record), dtype) for record in islice(usable, limit)]
    if not rows:
        raise ValueError(f"paths: no usable segment in {', '.join(paths)} (rejected: {dict(selection.rejected)})")
    ppg, ecg = (torch.from_numpy(np.stack(signal)) for signal in zip(*rows, strict=True))
    return ppg, ecg


class _Reader:
    """Reads the signals of a record, [L, 2] float16. Each process opens the files itself, because HDF5 handles can
    neither be pickled nor used after a fork."""

    def __init__(self) -> None:
        self.files, self.pid = {}, os.getpid()

    def __call__(self, record: SegmentRecord) -> np.ndarray:
        if self.pid != os.getpid():
            self.files, self.pid = {}, os.getpid()
        if record.path not in self.files:
            self.files[record.path] = open_shard(record.path)
        try:
            return self.files[record.path][f"{record.subject}/{record.key}"][:, 1:]
        except (OSError, KeyError) as error:
            raise ValueError(f"{_where(record)}: unreadable ({error})") from error

    def __reduce__(self) -> tuple:
        return _Reader, ()


class _Selection:
    """Says whether a record (subject, key) is used, and counts the others by reason."""

    def __init__(
        self,
        paths: Sequence[str],
        quality: Quality,
        subjects: Iterable[str] | None,
        exclude_prefixes: tuple[str, ...],
        split: str | None = None,
        seed: int = 77,
    ) -> None:
        names = {name for name in subject_groups(paths) if not name.startswith(exclude_prefixes)}
        if subjects is not None:
            names &= set(subjects)
        if split is not None:
            names = split_subjects(names, seed, exclude_prefixes=exclude_prefixes)[split]
        self.names, self.exclude_prefixes = frozenset(names), exclude_prefixes
        self.ppg_quality, self.ecg_quality = quality_pair(quality)
        self.rejected: Counter[str] = Counter()

    def __call__(self, subject: str, key: SegmentKey) -> bool:
        reason = self._reason(subject, key)
        if reason:
            self.rejected[reason] += 1
        return not reason

    def _reason(self, subject: str, key: SegmentKey) -> str:
        if subject.startswith(self.exclude_prefixes):
            return "excluded subject"
        if subject not in self.names:
            return "subject not selected"
        if not key.ppg_quality >= self.ppg_quality:
            return "low ppg quality"
        return "" if key.ecg_quality >= self.ecg_quality else "low ecg quality"


def _prepare(signals: np.ndarray, dtype: np.dtype, draws=None) -> tuple[np.ndarray, np.ndarray]:
    """PPG and ECG, [L] float32 each, of `signals` [L, 2], augmented by `draws` (PPG, ECG) if they are given."""
    ppg, ecg = signals.astype(dtype, copy=False).T
    if draws is not None:
        ppg, ecg = augmented(ppg, draws[0], is_ecg=False), augmented(ecg, draws[1], is_ecg=True)
    return min_max(ppg), min_max(ecg)


def _where(record: SegmentRecord) -> str:
    return f"shard {record.path}, record {record.subject}/{record.key}"
