"""Batches of simulated patients in place of shards: an endless stream without files."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from xmae_fast.data.epochs import check_identity
from xmae_fast.data.loader import LoaderStats
from xmae_fast.data.position import Position
from xmae_fast.simulation.population import simulate_population
from xmae_fast.simulation.population.random import BLOCK
from xmae_fast.training.simulation_source import VALIDATION, SimulationSource
from xmae_fast.training.truth import truth_of

_LANES = 8  # neighbours in a batch come from as many blocks in turn
_NAMES = ("ppg", "ecg", "subject", "segment", "truth")  # of what a batch has
_AHEAD = 4  # blocks that each worker has ready


class SimulatedLoader:
    """Batches of an endless population, which worker processes simulate ahead.

    It is used as a `SegmentLoader`: each pass is the next epoch, and `state_dict` and `load_state_dict` resume at any
    batch. A batch is {"ppg": [B, L] float32, "ecg": [B, L] float32, "subject": [B] int64, "segment": [B] int64,
    "truth": [B, T] float32}: segments are numbered in the stream, and `truth_of` describes the truth. The batches of
    all ranks together are those that one process with batch_size * world_size would see, whatever the number of
    workers.

    Args:
        source: what is simulated.
        batch_size: B.
        rank, world_size: the number of this process and how many share each batch.
        pin_memory: put batches into page-locked memory, for copies to a device.
    """

    def __init__(
        self, source: SimulationSource, batch_size: int, *, rank: int = 0, world_size: int = 1, pin_memory: bool = False
    ) -> None:
        self.source, self.batch_size, self.rank, self.world_size = source, batch_size, rank, world_size
        self.pin_memory = pin_memory
        self.stats = LoaderStats()
        self._position = Position()
        self._blocks = _Blocks(source, self._needed)

    def __len__(self) -> int:
        """The number of batches of an epoch."""
        return self.source.segments // (self.batch_size * self.world_size)

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        """Iterate over the next epoch, or over the rest of the one that `load_state_dict` has chosen."""
        position = self._position
        this, first = position.begin(), min(position.batch, len(self))
        for number in range(first, len(self)):
            if not position.counts(this):
                raise RuntimeError(
                    "this pass is over: another one has begun, or set_epoch or load_state_dict was called"
                )
            began = time.perf_counter()
            batch = self.read(position.epoch, number)
            waited = time.perf_counter() - began
            self.stats.wait_s += waited
            if number == first:
                self.stats.first_wait_s = waited
            self.stats.batches += 1
            self.stats.segments += self.batch_size
            position.batch = number + 1
            yield batch
        if position.counts(this):
            position.end()

    def read(self, epoch: int, number: int) -> dict[str, Tensor]:
        """Batch `number` of an epoch, both from 0. Batches in their order are cheapest."""
        whole = self.batch_size * self.world_size
        start = (epoch * len(self) + number) * whole
        at = np.arange(start + self.rank, start + whole, self.world_size)
        rounds, rest = np.divmod(at, _LANES * BLOCK)
        block, row = rounds * _LANES + rest % _LANES, rest // _LANES
        parts: dict[str, Tensor] = {}
        for one in np.unique(block).tolist():
            place = np.flatnonzero(block == one)
            for name, values in self._blocks.take(one).items():
                if name not in parts:
                    shape = (self.batch_size, *values.shape[1:])
                    parts[name] = torch.empty(shape, dtype=values.dtype, pin_memory=self.pin_memory)
                parts[name][place] = values[row[place]]
        return parts

    @property
    def epoch(self) -> int:
        """The epoch of the last pass that has begun; if it has ended, the epoch of the next pass."""
        return self._position.epoch

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next pass."""
        self._position.set(epoch)

    def state_dict(self) -> dict:
        """Which batch comes next: plain numbers, to be stored with a checkpoint."""
        return self._position.state_dict(len(self)) | self._identity()

    def load_state_dict(self, state: dict) -> None:
        """Go on after the last batch that had been taken when `state` was stored.

        Raises:
            ValueError: this loader would give other batches, or the epoch does not have such a batch.
        """
        check_identity(state, self._identity())
        self._position.load(state, len(self))

    def close(self) -> None:
        """End the workers. Another pass starts them again."""
        self._blocks.close()

    def _identity(self) -> dict:
        source = self.source
        return {
            "seed": source.seed, "segments": source.segments, "population": repr(source.population),
            "stages": repr(source.stages),
            "batch_size": self.batch_size, "world_size": self.world_size,
        }  # fmt: skip

    def _needed(self, block: int) -> Iterator[int]:
        """The blocks from `block` on that this rank needs, in order."""
        lanes = {lane for lane in range(_LANES) if self._has_lane(lane)}
        while True:
            if block % _LANES in lanes:
                yield block
            block += 1

    def _has_lane(self, lane: int) -> bool:
        """Whether any row of this rank can be of the lane: rows are rank, rank + world_size, ... of whole batches."""
        step = np.gcd(self.world_size, _LANES)  # whole batches have a multiple of world_size rows
        return lane % step == self.rank % step


class SimulatedValidation:
    """The segments of a population to validate on: the same batches in every pass, simulated once.

    Args:
        source: what is simulated.
        batch_size: B, of this process.
        rank, world_size: the number of this process and how many share each batch.
    """

    def __init__(self, source: SimulationSource, batch_size: int, *, rank: int = 0, world_size: int = 1) -> None:
        count, seed = source.val_segments, source.seed + VALIDATION
        simulated = simulate_population(count, seed=seed, cfg=source.population)
        mine = slice(rank, None, world_size)
        self._arrays = {name: torch.from_numpy(simulated[name][mine].copy()) for name in ("ppg", "ecg", "subject")}
        self.batch_size = batch_size

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        parts = [values.split(self.batch_size) for values in self._arrays.values()]
        for values in zip(*parts, strict=True):
            yield dict(zip(self._arrays, values, strict=True))

    def set_epoch(self, epoch: int) -> None:
        """Nothing depends on the epoch."""


class _SimulatedBlocks(Dataset):
    """Blocks by number: their segments, of which those of a subject are neighbours, in a random order."""

    def __init__(self, source: SimulationSource) -> None:
        self.source = source

    def __getitem__(self, block: int) -> tuple[int, dict[str, Tensor]]:
        first, seed = block * BLOCK, self.source.seed
        made = simulate_population(BLOCK, seed=seed, start=first, cfg=self.source.population_of(first))
        made["truth"], made["segment"] = truth_of(made), made["index"]
        order = np.random.default_rng([seed, block]).permutation(BLOCK)
        return block, {name: torch.from_numpy(made[name][order]) for name in _NAMES}


class _Blocks:
    """Hands out blocks by number; asked for in their order, they come from workers that are ahead.

    Args:
        source: what is simulated.
        needed: gives the blocks from a number on that will be asked for, in order and without end.
    """

    def __init__(self, source: SimulationSource, needed: Callable[[int], Iterator[int]]) -> None:
        self.source, self.needed = source, needed
        self._kept: dict[int, dict[str, Tensor]] = {}
        self._coming: Iterator[tuple[int, dict[str, Tensor]]] | None = None
        self._last = -1

    def take(self, block: int) -> dict[str, Tensor]:
        """The signals of a block."""
        if block not in self._kept:
            first = block // _LANES * _LANES  # of its round, whose blocks are used together
            if self._coming is None or not self._last < block <= self._last + 2 * _LANES:
                self._begin(first)
            self._kept = {number: values for number, values in self._kept.items() if number >= first}
            assert self._coming is not None  # `_begin` has made it
            while self._last < block:
                self._last, values = next(self._coming)
                self._kept[self._last] = values
        return self._kept[block]

    def close(self) -> None:
        """End the workers."""
        self._kept, self._coming = {}, None

    def _begin(self, first: int) -> None:
        self.close()
        workers = self.source.workers
        made = DataLoader(
            _SimulatedBlocks(self.source), batch_size=None, sampler=_Order(self.needed, first), num_workers=workers,
            prefetch_factor=_AHEAD if workers else None,
            generator=torch.Generator(),  # or it would draw from torch's own, which a resumed run restores
        )  # fmt: skip
        self._last, self._coming = first - 1, iter(made)


class _Order(Sampler):
    """The numbers that `needed` gives."""

    def __init__(self, needed: Callable[[int], Iterator[int]], first: int) -> None:
        self.needed, self.first = needed, first

    def __iter__(self) -> Iterator[int]:
        return self.needed(self.first)
