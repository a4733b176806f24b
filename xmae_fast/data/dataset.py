"""Segments as a map-style data set for torch's DataLoader."""

import numpy as np
import torch
from torch.utils.data import Dataset

from xmae_fast.data.epochs import CountsEpochs, Epochs
from xmae_fast.data.segments import Segments

Item = dict[str, torch.Tensor | int]


class SegmentDataset(CountsEpochs, Dataset):
    """Map-style data set over shards, read from memory maps; items equal those of `PlainSegmentDataset` bit for bit.

    Item: {"ppg": (L,) float32, "ecg": (L,) float32, "subject": int}, signals min-max normalised to [-1, 1] per segment,
    `subject` an index into `.subjects`; labels of the layout, numbers, under their names. DataLoader fetches whole
    batches at once (`__getitems__`); any start method.

    paths: files, folders, globs, or fsspec addresses ("s3://bucket/*.h5"; fetched once into a cache).
    quality: threshold of both signals, or (ppg, ecg); a segment is used when it reaches it.
    subjects, exclude_subjects: names to keep (default all), names to leave out; names beginning with one of
        `exclude_prefixes` are left out either way.
    split: "train", "val", "test" of `split_subjects` over those subjects (whatever their quality), or None for all.
    augment: True augments training data (`split` "train" or None), never evaluation; "published" does what the public
        code does, evidently by a slip: augments "val" and "test" and leaves "train" alone. Random numbers depend on
        (seed, epoch, item) only: not on threads or workers.
    on_bad: what a segment that is selected but malformed, constant or not finite does: "skip" leaves it out and counts
        it in `.rejected`; "raise" raises ValueError here. A shard that changes later raises ShardChangedError.
    normalize_dtype: arithmetic of augmentation and normalisation; "float16" is published.
    num_threads: of the reader, for one batch. layout: names and columns, see `Layout`; by default found out.
    cache_dir: where indexes (and fetched shards) are kept; by default beside the shards (in the user's cache folder).
    impl: "cpu" (C++), "reference" (NumPy) or "auto". progress: called while indexes are built, (shard, done, total).

    Each pass is the next epoch, the first one is epoch 0; `set_epoch` chooses which the next pass is. Nobody tells a
    data set of a new pass, so it finds out: a batch is of the epoch after the last one that has given any of its items,
    and the n-th set of worker processes begins with epoch n at least. For passes over all items (drop_last or not) that
    is the number of the pass, whatever the workers, persistent or not. Passes that are left early never repeat an
    item's epoch either; call `set_epoch` before each if they must not depend on what workers had read ahead. An item
    that is read twice by hand is of two epochs.

    `.rejected` counts what was left out, by reason; `.subjects` are the sorted names that remain; `.seq_len` is L,
    `.sampling_freq` Hz or None. Errors: FileNotFoundError, ValueError naming the argument or the record."""

    def __init__(self, paths, **options) -> None:
        self.segments = Segments(paths, **options)
        self._epochs = Epochs(len(self) if self.segments.augmenting else 0)

    def __len__(self) -> int:
        return len(self.segments)

    def __getitem__(self, item: int) -> Item:
        return self.__getitems__([range(len(self))[item]])[0]

    def __getitems__(self, items: list[int]) -> list[Item]:
        """The items of a batch, rows of two arrays. ValueError where one of them has gone bad since it was indexed."""
        numbers = np.asarray(items, np.int64)
        if len(numbers) and (numbers.min() < 0 or numbers.max() >= len(self)):
            raise IndexError(f"items: expected 0 to {len(self) - 1}, got {numbers.min()} to {numbers.max()}")
        ppg, ecg = np.empty((2, len(numbers), self.segments.seq_len), np.float32)
        good = self.segments.read(numbers, self._epochs.of(numbers), ppg, ecg)
        if not good.all():
            name = self.segments.index.name(int(self.segments.rows[numbers[~good][0]]))
            raise ValueError(f"{name}: segment has gone bad since it was indexed")
        signals = zip(torch.from_numpy(ppg), torch.from_numpy(ecg), strict=True)
        others = {"subject": self.segments.subject_of(numbers)} | self.segments.labels_of(numbers)
        columns = {name: values.tolist() for name, values in others.items()}
        return [
            {"ppg": p, "ecg": e} | {name: values[i] for name, values in columns.items()}
            for i, (p, e) in enumerate(signals)
        ]

    @property
    def subjects(self) -> list[str]:
        return self.segments.subjects

    @property
    def rejected(self):
        return self.segments.rejected

    @property
    def seq_len(self) -> int:
        return self.segments.seq_len

    @property
    def sampling_freq(self) -> float | None:
        return self.segments.sampling_freq

    def explain(self) -> str:
        """Which files are mapped and which are not and why, what is used, and what was left out."""
        return self.segments.explain()

    def _identity(self) -> dict:
        segments = self.segments
        return {"seed": segments.seed, "segments": len(segments), "augmenting": segments.augmenting}
