"""Finds out which epoch a map-style data set is in by the items that it is asked for: DataLoader does not say."""

import multiprocessing
import os
import sys
import weakref
import zlib
from collections.abc import Callable

import numpy as np
import torch
from torch.utils.data import get_worker_info
from torch.utils.data._utils import fetch

_SLOTS = 64  # how many passes with worker processes are remembered
_LIMIT = 2**31


class Epochs:
    """The epochs of the batches that a data set gives, in memory that worker processes share.

    A batch belongs to the epoch after the last one that gave any of its items. So the next epoch begins as soon as an
    item comes again; `set` chooses the number from which this counts. Worker processes that were started for a new pass
    begin the next epoch even with items that no epoch has given yet: what earlier workers had read ahead when their
    pass was left does not count. Within a pass no item comes twice, so that it does not matter which worker is first,
    and nothing needs a lock.

    Args:
        count: the number of items. With 0 nothing is counted, for data sets that give the same in all epochs.
    """

    def __init__(self, count: int) -> None:
        # [count], the last epoch that has given each item.
        self._given = torch.full((count,), -1, dtype=torch.int32)
        # The epoch that was set, the number of the next pass with workers at that time, and how often `set` was called.
        self._start = torch.tensor([0, 1, 0])
        # The last passes with workers: the number, the family and the key of each in one word.
        self._passes = torch.zeros(_SLOTS, dtype=torch.int64)
        # In a worker: its process, and the seed and the number of its pass.
        self._own: tuple[int, int, int] | None = None
        # In a worker: the fetcher that asks, and how often `set` had been called when that began.
        self._asking: tuple[weakref.ref, int] | None = None
        self._share()

    def of(self, items: np.ndarray) -> int:
        """The epoch of a batch of `items` [k], which count as given in it from now on."""
        given = self._given.numpy()
        if not len(given) or not len(items):
            return int(self._start[0])
        epoch = max(self._first(), int(given[items].max()) + 1)
        if self._is_of_now():
            given[items] = epoch
        return epoch

    def set(self, epoch: int) -> None:
        """Choose the epoch of the next pass.

        Raises:
            ValueError: `epoch` is not in 0 to 2**31 - 1.
        """
        if not 0 <= epoch < _LIMIT:
            raise ValueError(f"epoch: expected 0 to 2**31 - 1, got {epoch}")
        self._begin(epoch, epoch - 1)

    def state_dict(self) -> dict:
        """What has been given: the least epoch of the next pass, and the last epoch that has given each item (one
        number where it is the same for all)."""
        newest, (epoch, number, _) = self._newest(_family()), self._start.tolist()
        given = self._given
        whole = not len(given) or bool((given == given[0]).all())
        last = (int(given[0]) if len(given) else epoch - 1) if whole else given.clone()
        return {"epoch": epoch + max(0, newest + 1 - number), "given": last}

    def load_state_dict(self, state: dict) -> None:
        """Go on after what `state` says was given."""
        self._begin(int(state["epoch"]), state["given"])

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_own": None, "_asking": None}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        self._share()  # a copy that torch's own pickler did not send to another process has memory of its own

    def _share(self) -> None:
        for tensor in (self._given, self._start, self._passes):
            tensor.share_memory_()

    def _begin(self, epoch: int, given: int | torch.Tensor) -> None:
        self._start.copy_(torch.tensor([epoch, self._newest(_family()) + 1, int(self._start[2]) + 1]))
        self._given[:] = given

    def _first(self) -> int:
        """The least epoch that a batch which is asked for in this process can have."""
        epoch, number, _ = self._start.tolist()
        worker = get_worker_info()
        if worker is None:
            return epoch
        return epoch + max(0, self._number(worker.seed - worker.id) - number)

    def _is_of_now(self) -> bool:
        """Whether the pass that asks began after the last call of `set`. Persistent workers may still be reading ahead
        for a pass that was left before; what they give is thrown away and must not count."""
        asking, times = _asking() if get_worker_info() is not None else None, int(self._start[2])
        if asking is None:
            return True
        if self._asking is None or self._asking[0]() is not asking:
            self._asking = weakref.ref(asking), times
        return self._asking[1] == times

    def _number(self, seed: int) -> int:
        """The number of the pass whose workers have this seed: DataLoader draws one seed for all workers that it starts
        together. If these workers ask at the same time, all find the same number and write the same word."""
        if self._own is None or self._own[:2] != (os.getpid(), seed):
            family, key = _family(), zlib.crc32(seed.to_bytes(9, "little", signed=True)) & 0xFFFFFF
            words = self._passes.numpy().copy()
            known = words[(words & 0xFFFFFFFFFF) == (family << 24 | key)]
            number = int(known.max()) >> 40 if len(known) else self._newest(family, words) + 1
            if not len(known):
                self._passes[(number + family) % _SLOTS] = number << 40 | family << 24 | key
            self._own = os.getpid(), seed, number
        return self._own[2]

    def _newest(self, family: int, words: np.ndarray | None = None) -> int:
        """The number of the last pass for which workers were started; 0 before the first."""
        words = self._passes.numpy() if words is None else words
        numbers = words[(words >> 24 & 0xFFFF) == family] >> 40
        return int(numbers.max(initial=0))


def _family() -> int:
    """Stands for the process that has the DataLoader. Several processes that train together may share this memory; each
    counts for itself."""
    parent = multiprocessing.parent_process() if get_worker_info() is not None else None
    pid = parent.pid if parent is not None else None
    return (pid if pid is not None else os.getpid()) & 0xFFFF


def _asking() -> object | None:
    """The fetcher of the DataLoader that asks, which is another object in every pass; None if something else asks."""
    code, frame = getattr(getattr(fetch, "_MapDatasetFetcher", None), "fetch", None), sys._getframe(1)
    while code is not None and frame is not None:
        if frame.f_code is code.__code__:
            return frame.f_locals.get("self")
        frame = frame.f_back
    return None


def check_identity(state: dict, identity: dict) -> None:
    """Check that a state belongs to the loader or data set that has this identity.

    Raises:
        ValueError: `state` has another value for one of the names in `identity`.
    """
    for name, value in identity.items():
        if state.get(name) != value:
            raise ValueError(f"{name}: the state is of a loader with {state.get(name)!r}, this one has {value!r}")


class CountsEpochs:
    """Methods of a data set that choose, store and restore its epoch.

    The data set has the attribute `_epochs`, and a method `_identity()` that gives what its states must agree in."""

    _epochs: Epochs
    _identity: Callable[[], dict]

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next pass; the passes after it are the epochs that follow.

        Call this between two passes. Workers that are running notice it too, through shared memory.

        Raises:
            ValueError: `epoch` is not in 0 to 2**31 - 1.
        """
        self._epochs.set(epoch)

    def state_dict(self) -> dict:
        """Which epoch comes next, to be stored with a checkpoint between two passes."""
        return self._epochs.state_dict() | self._identity()

    def load_state_dict(self, state: dict) -> None:
        """Go on with the epoch that came next when `state` was taken.

        Raises:
            ValueError: the state belongs to a data set with another seed or other segments.
        """
        check_identity(state, self._identity())
        self._epochs.load_state_dict(state)
