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
from xmae_fast.data.order import BLOCK, WINDOW, epoch_order, rank_order
from xmae_fast.data.segments import Segments

Batch = dict[str, torch.Tensor]
_COLD = 0.9  # share of segments in the page cache below which reading ahead is asked for
_SAMPLE = 256


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
    seed: with the epoch's number it decides order and augmentation, whatever the threads. The n-th pass over the loader
        is epoch n; `set_epoch` chooses another.
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

    One pass at a time. A batch stays valid for as long as it is kept. With on_bad="skip" a segment that has gone bad
    since it was indexed is left out of its batch, with a warning. Errors of the background thread are raised here.
    `state_dict` and `load_state_dict` resume in the middle of an epoch; `.stats` says how long the consumer waited."""

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
        self.epoch, self.stats = 0, LoaderStats()
        self._resume = 0  # batch that the next pass begins with
        self._consumed = 0  # batches of the current epoch
        self._buffers = BatchBuffers(batch_size, self.segments.seq_len, pin_memory)

    def __len__(self) -> int:
        """Batches of a whole epoch of this rank."""
        count = len(self._share(np.empty(len(self.segments), bool)))
        return count // self.batch_size if self.drop_last else -(-count // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        """One epoch, or what is left of one that `load_state_dict` resumes. Ending it moves on to the next epoch; one
        that is left early is begun anew by the next pass."""
        order, first = self.order(), self._resume
        self._resume, self._consumed = 0, first
        ready: queue.Queue = queue.Queue(self.prefetch)
        stop = threading.Event()
        arguments = order, self.epoch, first, ready, stop
        thread = threading.Thread(target=self._prepare, args=arguments, name="xmae_fast loader", daemon=True)
        thread.start()
        try:
            for number in range(first, len(self)):
                began = time.perf_counter()
                batch = ready.get()
                self._count(batch, time.perf_counter() - began, number == first)
                if isinstance(batch, BaseException):
                    raise batch
                self._consumed = number + 1
                yield batch
                del batch  # or its memory would not be free while the next one is prepared
            self.epoch, self._consumed = self.epoch + 1, 0
        finally:
            stop.set()
            while thread.is_alive():  # it may be waiting to hand over a batch
                with suppress(queue.Empty):
                    ready.get_nowait()
                thread.join(timeout=0.001)

    def order(self, epoch: int | None = None) -> np.ndarray:
        """(k,) int32: the segments that this rank visits in an epoch (default: the current one), in order."""
        order = epoch_order(
            len(self.segments), seed=self.segments.seed, epoch=self.epoch if epoch is None else epoch,
            shuffle=self.shuffle, block_size=self.block_size, window=self.window,
        )  # fmt: skip
        return self._share(order)

    def set_epoch(self, epoch: int) -> None:
        """The next pass is this epoch, from its first batch."""
        if epoch < 0:
            raise ValueError(f"epoch: expected at least 0, got {epoch}")
        self.epoch, self._resume, self._consumed = epoch, 0, 0

    def state_dict(self) -> dict:
        """Where the consumer is: plain numbers, to be stored with a checkpoint."""
        whole = self._consumed == len(self)  # after the last batch, before the pass has ended
        return {"epoch": self.epoch + whole, "batch": 0 if whole else self._consumed, **self._identity()}

    def load_state_dict(self, state: dict) -> None:
        """Go on behind the last batch that was consumed. ValueError where this loader's batches would be others."""
        for name, value in self._identity().items():
            if state.get(name) != value:
                raise ValueError(f"{name}: the state is of a loader with {state.get(name)!r}, this one has {value!r}")
        self.epoch = int(state["epoch"])
        self._resume = self._consumed = int(state["batch"])

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

    def _share(self, order: np.ndarray) -> np.ndarray:
        """This rank's part of an epoch."""
        return rank_order(order, self.rank, self.world_size, drop_last=self.drop_last, pad=self.pad)

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
            hints = _Hints(self, order)
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


class _Hints:
    """Asks for segments to be read ahead, where the page cache does not hold them already: span by span, and the next
    span bit by bit while this one is consumed, in the order of the file."""

    def __init__(self, loader: SegmentLoader, order: np.ndarray) -> None:
        self.segments, self.order, self.batch_size = loader.segments, order, loader.batch_size
        sample = order[:: max(1, len(order) // _SAMPLE)]
        self.cold = len(order) > 0 and self.segments.resident(sample) < _COLD
        blocks = loader.block_size * loader.window // loader.world_size if loader.shuffle == "blocks" else 0
        self.span = max(blocks, 4 * self.batch_size)
        self.current = -1  # number of the span that was asked for altogether
        self.ahead = order[:0]  # what is still to be asked for of the next one

    def before(self, number: int) -> None:
        """Before batch `number` is read."""
        if not self.cold:
            return
        span, at = divmod(number * self.batch_size, self.span)
        if span != self.current:
            self.segments.hint(self.ahead if span == self.current + 1 and self.current >= 0 else self._items(span))
            self.current, self.ahead = span, np.sort(self._items(span + 1))
        batches_left = max(1, (self.span - at) // self.batch_size)
        share = -(-len(self.ahead) // batches_left)
        self.segments.hint(self.ahead[:share])
        self.ahead = self.ahead[share:]

    def _items(self, span: int) -> np.ndarray:
        return self.order[span * self.span : (span + 1) * self.span]


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
