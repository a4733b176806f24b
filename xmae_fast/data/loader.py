"""Batches of segments, prepared ahead by a background thread."""

import queue
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from xmae_fast.data.agreement import together
from xmae_fast.data.buffers import BatchBuffers
from xmae_fast.data.epochs import check_identity
from xmae_fast.data.hints import Hints
from xmae_fast.data.order import BLOCK, WINDOW, epoch_order, rank_order
from xmae_fast.data.position import Position, TrainersBatchSampler
from xmae_fast.data.segments import Segments

Batch = dict[str, torch.Tensor]


@dataclass
class LoaderStats:
    """Of all epochs so far. `wait_s`: seconds that the consumer waited for a batch, the first of an epoch included."""

    batches: int = 0
    segments: int = 0
    wait_s: float = 0.0
    first_wait_s: float = 0.0


class SegmentLoader:
    """Iterates batches {"ppg": (B, L), "ecg": (B, L), "subject": (B,)} of shards, float32 and int64, prepared ahead by
    a background thread that reads from memory maps without the GIL; no worker processes. Labels of the layout come
    beside them, (B,) each.

    paths, quality, subjects, exclude_subjects, exclude_prefixes, split, augment, on_bad, normalize_dtype, num_threads,
        layout, cache_dir, impl, progress: as for `SegmentDataset`.
    shuffle: True: every order alike; "blocks": blocks of `block_size` neighbouring segments in random order, mixed
        within windows of `window` blocks, for files that are not in the page cache; False: the shards' order.
    seed: with the epoch's number it decides order and augmentation, whatever the threads.
    pin_memory: batches in page-locked memory, for copies to a device.
    drop_last: leave out a last batch of less than `batch_size`.
    rank, world_size: of this process among those that share an epoch; by default torch.distributed's. The batches of
        all ranks together are those that one process with batch_size * world_size would see. `pad` repeats the first
        segments so that all ranks get as many; pad=False repeats nothing, and some ranks may get one segment more.
        Taken from torch.distributed, every rank makes the loader, and all of them compare what they have: where
        segments or settings differ or a rank cannot open its shards, all raise the same ValueError. Given, as for a
        loader that some ranks alone make (0, 1), nothing is compared, and ranks with other shards may wait for each
        other without end.
    prefetch: batches prepared ahead.

    Each pass is the next epoch, the first one is epoch 0: also after one that was left early or never asked for its end
    (zip, islice, break, Lightning's Trainer). A pass begins when its first batch is asked for. `set_epoch` and
    `load_state_dict` choose otherwise, and so does Lightning's Trainer, which says which of its epochs begins; another
    fit goes on counting. One pass at a time: an older one raises RuntimeError when it is asked for more.

    `state_dict` and `load_state_dict` resume at any batch, in the middle of an epoch as well as between two.

    A batch stays valid for as long as it is kept. With on_bad="skip" a segment that has gone bad since it was indexed
    is left out of its batch, with a warning. Errors of the background thread are raised here. `.stats` says how long
    the consumer waited."""

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
        **options,
    ) -> None:
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

    def __len__(self) -> int:
        """Batches of a whole epoch of this rank."""
        return self._batches(self.rank)

    def __iter__(self) -> Iterator[Batch]:
        """The next epoch, or what is left of one that `load_state_dict` goes on with.

        Raises:
            RuntimeError: from the iterator, when another pass has begun since, or `set_epoch` or `load_state_dict` has
                chosen where the next one begins, and this one had more to give.
        """
        position, count = self._position, len(self)
        this = position.begin()
        first = min(position.batch, count)
        ready: queue.Queue = queue.Queue(self.prefetch)
        stop = threading.Event()
        arguments = self.order(), position.epoch, first, ready, stop
        thread = threading.Thread(target=self._prepare, args=arguments, name="xmae_fast loader", daemon=True)
        thread.start()
        try:
            for number in range(first, count):
                if not position.counts(this):
                    raise RuntimeError(
                        f"this pass is over after {number} of {count} batches: another one has begun, or set_epoch or"
                        " load_state_dict was called; a SegmentLoader gives one pass at a time"
                    )
                began = time.perf_counter()
                batch = ready.get()
                self._count(batch, time.perf_counter() - began, number == first)
                if isinstance(batch, BaseException):
                    raise batch
                position.batch = number + 1
                yield batch
                del batch  # or its memory would not be free while the next one is prepared
            if position.counts(this):
                position.end()
        finally:
            stop.set()
            while thread.is_alive():  # it may be waiting to hand over a batch
                with suppress(queue.Empty):
                    ready.get_nowait()
                thread.join(timeout=0.001)

    @property
    def epoch(self) -> int:
        """Of the pass that has begun last, also after it was left early; of the next one where it has ended."""
        return self._position.epoch

    def order(self, epoch: int | None = None) -> np.ndarray:
        """(k,) int32: the segments that this rank visits in an epoch (default: `epoch`), in order."""
        order = epoch_order(
            len(self.segments), seed=self.segments.seed, epoch=self.epoch if epoch is None else epoch,
            shuffle=self.shuffle, block_size=self.block_size, window=self.window,
        )  # fmt: skip
        return self._share(order, self.rank)

    def set_epoch(self, epoch: int) -> None:
        """The next pass is this epoch: from its first batch, or, where `load_state_dict` has just chosen a batch of
        this very epoch, from there.

        Raises:
            ValueError: below 0.
        """
        if epoch < 0:
            raise ValueError(f"epoch: expected at least 0, got {epoch}")
        self._position.set(epoch)

    def state_dict(self) -> dict:
        """Where the consumer is: plain numbers, to be stored with a checkpoint. After a pass that was left early that
        is the middle of it, where `load_state_dict` goes on; `set_epoch` says that it was meant to end there."""
        return self._position.state_dict(self._batches(0)) | self._identity()

    def load_state_dict(self, state: dict) -> None:
        """Go on after the last batch that was taken.

        Raises:
            ValueError: this loader's batches would be others, or the state has no such batch.
        """
        check_identity(state, self._identity())
        self._position.load(state, self._batches(0))

    def explain(self) -> str:
        """What is read and how, what was left out, and how long the consumer waited."""
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
        return self.segments.subjects

    @property
    def rejected(self):
        return self.segments.rejected

    def _share(self, order: np.ndarray, rank: int) -> np.ndarray:
        """A rank's part of an epoch."""
        return rank_order(order, rank, self.world_size, drop_last=self.drop_last, pad=self.pad)

    def _batches(self, rank: int) -> int:
        """Batches of a whole epoch of a rank; no rank has more than rank 0."""
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
        if isinstance(batch, dict):
            self.stats.batches += 1
            self.stats.segments += len(batch["subject"])

    def _prepare(self, order: np.ndarray, epoch: int, first: int, ready: queue.Queue, stop: threading.Event) -> None:
        """The background thread: batches from number `first` on, or the exception that ended it."""
        try:
            hints = Hints(self, order)
            for number in range(first, len(self)):
                if stop.is_set():
                    return
                hints.before(number)
                ready.put(self._batch(order[number * self.batch_size : (number + 1) * self.batch_size], epoch))
        except BaseException as error:
            ready.put(error)

    def _batch(self, items: np.ndarray, epoch: int) -> Batch:
        items = items.astype(np.int64)
        signals = [array[: len(items)] for array in self._buffers.take()]
        good = self.segments.read(items, epoch, *signals)
        if not good.all():
            signals, items = [array[good] for array in signals], items[good]
        ppg, ecg = map(torch.from_numpy, signals)
        others = {"subject": self.segments.subject_of(items)} | self.segments.labels_of(items)
        return {"ppg": ppg, "ecg": ecg} | {name: torch.from_numpy(values) for name, values in others.items()}


def _place(rank: int | None, world_size: int | None) -> tuple[int, int]:
    """Given, or torch.distributed's, or alone."""
    if (rank is None) != (world_size is None):
        raise ValueError(f"rank, world_size: expected both or neither, got {rank} and {world_size}")
    if rank is None:
        there = torch.distributed.is_available() and torch.distributed.is_initialized()
        return (torch.distributed.get_rank(), torch.distributed.get_world_size()) if there else (0, 1)
    if not 0 <= rank < world_size:
        raise ValueError(f"rank: expected 0 to world_size - 1 = {world_size - 1}, got {rank}")
    return rank, world_size
