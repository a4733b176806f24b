"""A map-style data set over shards, for torch's DataLoader."""

import numpy as np
import torch
from torch.utils.data import Dataset

from xmae_fast.data.epochs import CountsEpochs, Epochs
from xmae_fast.data.segments import Segments

Item = dict[str, torch.Tensor | int]


class SegmentDataset(CountsEpochs, Dataset):
    """Map-style data set over shards, read from memory maps; its items are those of `PlainSegmentDataset`, bit for bit.

    An item is {"ppg": [L] float32, "ecg": [L] float32, "subject": int} and the labels of the layout, numbers, under
    their names. Signals are min-max normalised to [-1, 1] segment by segment; `subject` is an index into `.subjects`.
    DataLoader fetches whole batches at once (`__getitems__`). Any start method of worker processes can be used.

    Each pass is the next epoch, and the first one is epoch 0; `set_epoch` chooses which epoch the next pass is.
    DataLoader does not tell a data set that a new pass begins. The data set finds it out: a batch belongs to the epoch
    after the last one that has given any of the batch's items, and the n-th set of worker processes begins with epoch n
    or a later one. If every pass goes over all items (with or without drop_last), this is the number of the pass,
    whether or not workers are persistent. After passes that were left early no item has the same epoch twice either;
    call `set_epoch` before each such pass if its epoch must not depend on what workers had read ahead. An item that is
    read twice by hand is given in two epochs.

    `.rejected` counts the segments that were left out, by reason; `.subjects` lists the sorted names of the subjects
    that remain; `.seq_len` is L; `.sampling_freq` is in Hz, or None.

    Args:
        paths: files, folders, patterns, or addresses that fsspec knows ("s3://bucket/*.h5"; fetched once into a cache).
        quality: the least quality of a segment that is used: a number for both signals, or a pair (PPG, ECG).
        subjects: the names of the subjects to keep; by default all.
        exclude_subjects: the names of subjects to leave out.
        exclude_prefixes: subjects whose names begin with one of these are always left out.
        split: "train", "val" or "test" of `split_subjects` over the subjects that the arguments above leave, whatever
            the quality of their segments; None for all of them.
        seed: decides the split and the augmentation.
        augment: True augments training data (`split` "train" or None), never data for evaluation. "published" does what
            the public code does, evidently by mistake: it augments "val" and "test" and leaves "train" as it is. The
            random numbers depend on (seed, epoch, item) only, not on threads or workers.
        on_bad: what happens to a selected segment that is malformed, constant or not finite: "skip" leaves it out and
            counts it in `.rejected`, "raise" raises ValueError. A shard that changes later raises ShardChangedError.
        normalize_dtype: the arithmetic of augmentation and normalisation; the published code has "float16".
        num_threads: how many threads read one batch.
        layout: the names of data sets and columns, see `Layout`; by default they are found out.
        cache_dir: where indexes and fetched shards are kept; by default indexes are kept beside the shards, and fetched
            shards in the user's cache folder.
        impl: "cpu" (C++), "reference" (NumPy), or "auto", which is C++ where it is built.
        progress: is called while indexes are built, with (shard, segments that are done, segments in all or None).
        storage_options: are passed to fsspec.
        signals: "ppg" reads the PPG alone, from shards with and without ECG: items have no "ecg", a number as `quality`
            counts for the PPG, and a segment whose ECG is constant or not finite is used. "both" needs shards with ECG.

    Raises:
        FileNotFoundError: a shard is missing.
        ValueError: names the argument or the record that is wrong.
    """

    def __init__(self, paths, **options) -> None:
        self.segments = Segments(paths, **options)
        self._epochs = Epochs(len(self) if self.segments.augmenting else 0)

    def __len__(self) -> int:
        return len(self.segments)

    def __getitem__(self, item: int) -> Item:
        return self.__getitems__([range(len(self))[item]])[0]

    def __getitems__(self, items: list[int]) -> list[Item]:
        """The items of a batch; their signals are rows of two arrays.

        Raises:
            IndexError: there is no such item.
            ValueError: a segment has become unusable since it was indexed.
        """
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
            dict(zip(self.segments.names, pair, strict=False)) | {name: values[i] for name, values in columns.items()}
            for i, pair in enumerate(signals)
        ]

    @property
    def subjects(self) -> list[str]:
        """The sorted names of the subjects that have segments here."""
        return self.segments.subjects

    @property
    def rejected(self):
        """How many segments were left out, by reason."""
        return self.segments.rejected

    @property
    def seq_len(self) -> int:
        """L, the samples of a segment."""
        return self.segments.seq_len

    @property
    def sampling_freq(self) -> float | None:
        """In Hz; None if it is not known."""
        return self.segments.sampling_freq

    def explain(self) -> str:
        """Says which files are mapped and why others are not, what is used, and what was left out."""
        return self.segments.explain()

    def _identity(self) -> dict:
        segments = self.segments
        return {"seed": segments.seed, "segments": len(segments), "augmenting": segments.augmenting}
