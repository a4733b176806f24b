"""The plain loader: one h5py read per segment, as the published code does. The baseline of the memory-mapped one."""

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
    """Map-style data set over shards. Item: {"ppg": (L,) float32, "ecg": (L,) float32, "subject": int}, signals min-max
    normalised to [-1, 1] per segment, `subject` an index into `.subjects`.

    quality: threshold of both signals, or (ppg, ecg); a record is used when it reaches it.
    subjects: names to keep, all by default; those beginning with one of `exclude_prefixes` are left out either way.
    split: "train", "val", "test" of `split_subjects` over those subjects (whatever their quality), or None for all.
    augment: True augments training data (`split` "train" or None), never evaluation; "published" does what the public
        code does, evidently by a slip: augments "val" and "test" and leaves "train" alone. Random numbers depend on
        (seed, epoch, item) only, not on the worker; which epoch it is, is found out as by `SegmentDataset`.
    on_bad: "skip" reads every selected record once at construction and leaves constant and non-finite ones out, so that
        `len` is exact; "raise" saves that read, and a bad record raises ValueError when it is asked for.
    normalize_dtype: arithmetic of augmentation and normalisation; "float16" is published.

    `.rejected` counts what was left out, by reason; `.subjects` are the sorted names that remain; `.records` the index.
    Errors: those of `read_index` and `split_subjects`; ValueError for an unknown option or when nothing remains."""

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
        """The items of a batch, one after the other; all are of the same epoch."""
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
    """The first `limit` usable segments of the shards as (ppg, ecg), each (S, L) float32 in [-1, 1]. Constant and
    non-finite segments are passed over; reading stops at `limit`. ValueError when none is usable."""
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
    """Signals of a record, (L, 2) float16, from files that each process opens itself: HDF5 handles survive neither a
    fork nor pickling."""

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
    """Predicate on (subject, key) that counts its refusals by reason."""

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
    """PPG and ECG, (L,) float32 each, of `signals` (L, 2), augmented by `draws` (PPG, ECG) if given."""
    ppg, ecg = signals.astype(dtype, copy=False).T
    if draws is not None:
        ppg, ecg = augmented(ppg, draws[0], is_ecg=False), augmented(ecg, draws[1], is_ecg=True)
    return min_max(ppg), min_max(ecg)


def _where(record: SegmentRecord) -> str:
    return f"shard {record.path}, record {record.subject}/{record.key}"
