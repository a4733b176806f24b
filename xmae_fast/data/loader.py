"""The loader of batches of segments, which a background thread prepares ahead."""

import time
import warnings
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from xmae_fast.data.agreement import together
from xmae_fast.data.ahead import made_ahead
from xmae_fast.data.buffers import BatchBuffers
from xmae_fast.data.epochs import check_identity
from xmae_fast.data.hints import Hints
from xmae_fast.data.order import BLOCK, WINDOW, epoch_order, rank_order
from xmae_fast.data.position import Position, TrainersBatchSampler
from xmae_fast.data.resident import ResidentSegments
from xmae_fast.data.segments import Segments

Batch = dict[str, torch.Tensor]


@dataclass
class LoaderStats:
    """What a loader has done in all epochs so far.

    Args:
        batches: batches that were given.
        segments: segments in them.
        wait_s: seconds that the consumer waited for batches, the first of each epoch included.
        first_wait_s: seconds that it waited for the first batch of the last epoch.
    """

    batches: int = 0
    segments: int = 0
    wait_s: float = 0.0
    first_wait_s: float = 0.0


class SegmentLoader:
    """Iterates over batches of segments, prepared ahead by a background thread that reads from memory maps without the
    GIL; there are no worker processes.

    A batch is {"ppg": [B, L] float32, "ecg": [B, L] float32, "subject": [B] int64} and the labels of the layout, [B]
    each. With signals="ppg" it has no "ecg". It does not change for as long as it is kept.

    Each pass is the next epoch, and the first one is epoch 0. That is so too after a pass that was left early, or that
    was never asked for its end (zip, islice, break, Lightning's Trainer). A pass begins when its first batch is asked
    for. `set_epoch` and `load_state_dict` choose another epoch, and so does Lightning's Trainer, which says which of
    its epochs begins; a second fit goes on counting. Only one pass can be used at a time: an older one raises
    RuntimeError when it is asked for more.

    `state_dict` and `load_state_dict` resume at any batch, in the middle of an epoch as well as between two epochs.

    With on_bad="skip", a segment that has become unusable since it was indexed is left out of its batch, with a
    warning. Errors of the background thread are raised where the batch is asked for. `.stats` says how long the
    consumer waited.

    Args:
        paths, num_threads: see `SegmentDataset`.
        options: quality, subjects, exclude_subjects, exclude_prefixes, split, augment, on_bad, normalize_dtype, layout,
            cache_dir, impl, progress, storage_options and signals, as for `SegmentDataset`.
        batch_size: B.
        shuffle: True draws every order with the same probability. "blocks" draws the order of blocks of `block_size`
            neighbouring segments and mixes the segments within windows of `window` blocks, for files that are not in
            the page cache. False keeps the order of the shards.
        seed: decides the order and the augmentation together with the number of the epoch, whatever the threads.
        pin_memory: put batches into page-locked memory, for copies to a device.
        drop_last: leave out the last batch of an epoch if it has fewer than `batch_size` segments.
        rank: the number of this process among those that share an epoch; by default that of torch.distributed. The
            batches of all ranks together are those that one process with batch_size * world_size would see. With the
            default, every rank must make the loader, and the ranks compare what they have: if segments or settings
            differ, or if a rank cannot open its shards, all raise the same ValueError. If a rank is given,
            nothing is compared, as is needed where only some ranks make the loader (rank=0, world_size=1); ranks with
            other shards may then wait for each other without end.
        world_size: the number of processes that share an epoch; given if and only if `rank` is.
        pad: True repeats the first segments so that all ranks get equally many; False repeats nothing, and some ranks
            may get one segment more than others.
        prefetch: how many batches are prepared ahead.
        block_size: segments in a block of shuffle="blocks".
        window: blocks in a window of shuffle="blocks".
        resident: copy all segments to `device` now, as float16 (4 kB for 10 s of PPG and ECG at 100 Hz: 21 GB for the
            5.2 M of the published set; twice that with normalize_dtype="float32"). The device makes the same batches,
            bit for bit, without host and disk.
        device: where batches are made with resident=True.

    Raises:
        FileNotFoundError: a shard is missing.
        ValueError: names the argument or the record that is wrong.
    """

    def __init__(
        self,
        paths,
        batch_size: int = 512,
        *,
        shuffle: bool | str = True,
        seed: int = 77,
        num_threads: int | None = None,
        pin_memory: bool = False,
        drop_last: bool = False,
        rank: int | None = None,
        world_size: int | None = None,
        pad: bool = True,
        prefetch: int = 2,
        block_size: int = BLOCK,
        window: int = WINDOW,
        resident: bool = False,
        device: torch.device | str | None = None,
        **options,
    ) -> None:
        if resident != (device is not None):
            raise ValueError(f"resident, device: expected both or neither, got {resident} and {device}")
        if resident and pin_memory:
            raise ValueError("pin_memory: expected False with resident=True, which copies no batches, got True")
        if shuffle not in (True, False, "blocks"):
            raise ValueError(f"shuffle: expected True, False or 'blocks', got {shuffle!r}")
        counts = {"batch_size": batch_size, "prefetch": prefetch, "block_size": block_size, "window": window}
        for name, value in counts.items():
            if value < 1:
                raise ValueError(f"{name}: expected at least 1, got {value}")
        self.rank, self.world_size = _place(rank, world_size)
        if pin_memory and not torch.accelerator.is_available():
            warnings.warn("pin_memory: no accelerator found, memory is not pinned", stacklevel=2)
            pin_memory = False
        agreed = counts | {"shuffle": shuffle, "drop_last": drop_last, "pad": pad}
        made = partial(Segments, paths, seed=seed, num_threads=num_threads, **options)
        self.segments = together(made, rank is None, agreed)
        self.batch_size, self.shuffle, self.drop_last, self.pad = batch_size, shuffle, drop_last, pad
        self.prefetch, self.block_size, self.window = prefetch, block_size, window
        self.stats = LoaderStats()
        self._position = Position()
        self.batch_sampler = TrainersBatchSampler(self._position, batch_size, drop_last)
        self._buffers = BatchBuffers(batch_size, self.segments.seq_len, pin_memory)
        self._resident = None
        if device is not None:
            self._resident = ResidentSegments(self.segments, torch.device(device), batch_size)

    def __len__(self) -> int:
        """The number of batches that a whole epoch has for this rank."""
        return self._batches(self.rank)

    def __iter__(self) -> Iterator[Batch]:
        """Iterate over the next epoch, or over the rest of the epoch that `load_state_dict` has chosen.

        Raises:
            RuntimeError: the iterator has more batches, but another pass has begun since, or `set_epoch` or
                `load_state_dict` has chosen where the next pass begins.
        """
        position, count = self._position, len(self)
        this = position.begin()
        first = min(position.batch, count)
        with closing(self._made(self.order(), position.epoch, first)) as batches:
            for number in range(first, count):
                if not position.counts(this):
                    raise RuntimeError(
                        f"this pass is over after {number} of {count} batches: another one has begun, or set_epoch or"
                        " load_state_dict was called; a SegmentLoader gives one pass at a time"
                    )
                began = time.perf_counter()
                batch = next(batches)
                self._count(batch, time.perf_counter() - began, number == first)
                position.batch = number + 1
                yield batch
                del batch  # or its memory could not be used while the next batch is prepared
            if position.counts(this):
                position.end()

    @property
    def epoch(self) -> int:
        """The epoch of the last pass that has begun, also if it was left early; if it has ended, the epoch of the next
        pass."""
        return self._position.epoch

    def order(self, epoch: int | None = None) -> np.ndarray:
        """The segments that this rank visits in an epoch, in order.

        Args:
            epoch: by default `self.epoch`.

        Returns:
            [k] int32, the numbers of the segments.
        """
        order = epoch_order(
            len(self.segments), seed=self.segments.seed, epoch=self.epoch if epoch is None else epoch,
            shuffle=self.shuffle, block_size=self.block_size, window=self.window,
        )  # fmt: skip
        return self._share(order, self.rank)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next pass. It begins with the epoch's first batch; if `load_state_dict` has just
        chosen a batch of the same epoch, it begins there.

        Raises:
            ValueError: `epoch` is below 0.
        """
        if epoch < 0:
            raise ValueError(f"epoch: expected at least 0, got {epoch}")
        self._position.set(epoch)

    def state_dict(self) -> dict:
        """Which batch comes next: plain numbers, to be stored with a checkpoint.

        After a pass that was left early this is a batch in the middle of the epoch, and `load_state_dict` goes on
        there; call `set_epoch` if the pass was meant to end.
        """
        return self._position.state_dict(self._batches(0)) | self._identity()

    def load_state_dict(self, state: dict) -> None:
        """Go on after the last batch that had been taken when `state` was stored.

        Raises:
            ValueError: this loader would give other batches, or the epoch does not have such a batch.
        """
        check_identity(state, self._identity())
        self._position.load(state, self._batches(0))

    def explain(self) -> str:
        """Says what is read and how, what was left out, and how long the consumer waited."""
        stats = self.stats
        lines = [
            self.segments.explain(),
            f"{len(self):,} batches of {self.batch_size} an epoch, shuffle={self.shuffle!r}, rank {self.rank} of"
            f" {self.world_size}",
            f"so far {stats.batches:,} batches, {stats.segments:,} segments; waited {stats.wait_s:.3f} s for them",
        ]
        return "\n".join(lines)

    @property
    def subjects(self) -> list[str]:
        """The sorted names of the subjects that have segments here."""
        return self.segments.subjects

    @property
    def rejected(self):
        """How many segments were left out, by reason."""
        return self.segments.rejected

    def _share(self, order: np.ndarray, rank: int) -> np.ndarray:
        """The part of an epoch that a rank visits."""
        return rank_order(order, rank, self.world_size, drop_last=self.drop_last, pad=self.pad)

    def _batches(self, rank: int) -> int:
        """The number of batches that a whole epoch has for a rank; no rank has more than rank 0."""
        count = len(self._share(np.empty(len(self.segments), bool), rank))
        return count // self.batch_size if self.drop_last else -(-count // self.batch_size)

    def _identity(self) -> dict:
        names = "batch_size", "shuffle", "drop_last", "pad", "world_size", "block_size", "window"
        segments = self.segments
        return {"seed": segments.seed, "segments": len(segments), "augmenting": segments.augmenting} | {
            name: getattr(self, name) for name in names
        }

    def _count(self, batch: Batch, waited: float, is_first: bool) -> None:
        self.stats.wait_s += waited
        if is_first:
            self.stats.first_wait_s = waited
        self.stats.batches += 1
        self.stats.segments += len(batch["subject"])

    def _made(self, order: np.ndarray, epoch: int, first: int) -> Generator[Batch, None, None]:
        """The batches from number `first` on: made by the device that holds the segments, or ahead by a thread."""
        count = len(self)
        if self._resident is not None:
            return self._resident.batches(order, epoch, first, count)
        read = partial(self._read, order, epoch, first, count)
        return made_ahead(read, count - first, self.prefetch, "xmae_fast loader")

    def _read(self, order: np.ndarray, epoch: int, first: int, count: int) -> Iterator[Batch]:
        hints = Hints(self, order)
        for number in range(first, count):
            hints.before(number)
            yield self._batch(order[number * self.batch_size : (number + 1) * self.batch_size], epoch)

    def _batch(self, items: np.ndarray, epoch: int) -> Batch:
        items = items.astype(np.int64)
        signals = [array[: len(items)] for array in self._buffers.take()]
        good = self.segments.read(items, epoch, *signals)
        if not good.all():
            signals, items = [array[good] for array in signals], items[good]
        columns = dict(zip(self.segments.names, signals, strict=False)) | {"subject": self.segments.subject_of(items)}
        columns |= self.segments.labels_of(items)
        return {name: torch.from_numpy(values) for name, values in columns.items()}


def _place(rank: int | None, world_size: int | None) -> tuple[int, int]:
    """(rank, world_size) as they are given, or else of torch.distributed, or else (0, 1)."""
    if (rank is None) != (world_size is None):
        raise ValueError(f"rank, world_size: expected both or neither, got {rank} and {world_size}")
    if rank is None or world_size is None:
        there = torch.distributed.is_available() and torch.distributed.is_initialized()
        return (torch.distributed.get_rank(), torch.distributed.get_world_size()) if there else (0, 1)
    if not 0 <= rank < world_size:
        raise ValueError(f"rank: expected 0 to world_size - 1 = {world_size - 1}, got {rank}")
    return rank, world_size
