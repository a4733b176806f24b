"""The epoch of a map-style data set, which nobody tells of a new pass: found out by what it is asked for."""

import multiprocessing
import os
import sys
import weakref
import zlib

import numpy as np
import torch
from torch.utils.data import get_worker_info
from torch.utils.data._utils import fetch

_SLOTS = 64  # passes of worker processes that are remembered
_LIMIT = 2**31


class Epochs:
    """Epochs of the batches that a data set of `count` items gives, in memory that worker processes share. With `count`
    0 nothing is counted, for data sets in which all epochs are alike.

    A batch belongs to the epoch after the last one that gave any of its items, and so to the next one as soon as
    something comes again; `set` chooses where that begins. Worker processes that were started for a pass of their own
    begin the next epoch even with items that no epoch has given yet: what earlier workers had read ahead when their
    pass was left does not count. Items do not come twice in a pass, so that it does not matter which worker is
    first, and nothing is locked."""

    def __init__(self, count: int) -> None:
        self._given = torch.full((count,), -1, dtype=torch.int32)  # epoch that has given an item last
        self._start = torch.tensor([0, 1, 0])  # epoch that was set, number of the next pass of workers then, how often
        self._passes = torch.zeros(_SLOTS, dtype=torch.int64)  # of workers: number, family, key in one word
        self._own: tuple[int, int, int] | None = None  # this worker's process, key and number
        self._asking: tuple[weakref.ref, int] | None = None  # who asks in this worker, how often was set when it began
        self._share()

    def of(self, items: np.ndarray) -> int:
        """The epoch of a batch of `items` [k]; it counts as given from now on."""
        given = self._given.numpy()
        if not len(given) or not len(items):
            return int(self._start[0])
        epoch = max(self._first(), int(given[items].max()) + 1)
        if self._is_of_now():
            given[items] = epoch
        return epoch

    def set(self, epoch: int) -> None:
        """The next pass is this epoch.

        Raises:
            ValueError: not 0 to 2**31 - 1.
        """
        if not 0 <= epoch < _LIMIT:
            raise ValueError(f"epoch: expected 0 to 2**31 - 1, got {epoch}")
        self._begin(epoch, epoch - 1)

    def state_dict(self) -> dict:
        """What has been given: the least epoch of the next pass, and the last one of each item (a number where all have
        the same)."""
        newest, (epoch, number, _) = self._newest(_family()), self._start.tolist()
        given = self._given
        whole = not len(given) or bool((given == given[0]).all())
        last = (int(given[0]) if len(given) else epoch - 1) if whole else given.clone()
        return {"epoch": epoch + max(0, newest + 1 - number), "given": last}

    def load_state_dict(self, state: dict) -> None:
        """Go on after what has been given."""
        self._begin(int(state["epoch"]), state["given"])

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_own": None, "_asking": None}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        self._share()  # a copy that did not go to another process through torch's own pickler has memory of its own

    def _share(self) -> None:
        for tensor in (self._given, self._start, self._passes):
            tensor.share_memory_()

    def _begin(self, epoch: int, given: int | torch.Tensor) -> None:
        self._start.copy_(torch.tensor([epoch, self._newest(_family()) + 1, int(self._start[2]) + 1]))
        self._given[:] = given

    def _first(self) -> int:
        """The least epoch of a batch that is asked for here."""
        epoch, number, _ = self._start.tolist()
        worker = get_worker_info()
        if worker is None:
            return epoch
        return epoch + max(0, self._number(worker.seed - worker.id) - number)

    def _is_of_now(self) -> bool:
        """Whether the pass that asks has begun after `set`: persistent workers may still be reading ahead for one that
        was left before, and what they give is thrown away."""
        asking, times = _asking() if get_worker_info() is not None else None, int(self._start[2])
        if asking is None:
            return True
        if self._asking is None or self._asking[0]() is not asking:
            self._asking = weakref.ref(asking), times
        return self._asking[1] == times

    def _number(self, seed: int) -> int:
        """Of the pass whose workers have this seed: DataLoader draws one for all the workers that it starts together.
        They may ask at once: all find the same number, and write the same word."""
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
        """Number of the last pass that had workers of its own, 0 before the first."""
        words = self._passes.numpy() if words is None else words
        numbers = words[(words >> 24 & 0xFFFF) == family] >> 40
        return int(numbers.max(initial=0))


def _family() -> int:
    """Of the process whose DataLoader it is; several that train together may share this memory and count apart."""
    parent = multiprocessing.parent_process() if get_worker_info() is not None else None
    return (parent.pid if parent is not None else os.getpid()) & 0xFFFF


def _asking() -> object | None:
    """DataLoader's fetcher, of which every pass has another one; None where something else asks."""
    code, frame = getattr(getattr(fetch, "_MapDatasetFetcher", None), "fetch", None), sys._getframe(1)
    while code is not None and frame is not None:
        if frame.f_code is code.__code__:
            return frame.f_locals.get("self")
        frame = frame.f_back
    return None


def check_identity(state: dict, identity: dict) -> None:
    """ValueError where `state` is of another loader or data set than the one with this `identity`."""
    for name, value in identity.items():
        if state.get(name) != value:
            raise ValueError(f"{name}: the state is of a loader with {state.get(name)!r}, this one has {value!r}")


class CountsEpochs:
    """A data set's epoch, told and kept. The data set has `_epochs`, and its `_identity()` names seed and segments."""

    _epochs: Epochs

    def set_epoch(self, epoch: int) -> None:
        """The next pass is this epoch, and those after it the next ones; call it between passes. Running workers see it
        too (shared memory).

        Raises:
            ValueError: not 0 to 2**31 - 1.
        """
        self._epochs.set(epoch)

    def state_dict(self) -> dict:
        """Which epoch is to come, to be stored with a checkpoint between two passes."""
        return self._epochs.state_dict() | self._identity()

    def load_state_dict(self, state: dict) -> None:
        """Go on with the epoch that was to come.

        Raises:
            ValueError: the state is of another seed or other segments.
        """
        check_identity(state, self._identity())
        self._epochs.load_state_dict(state)
