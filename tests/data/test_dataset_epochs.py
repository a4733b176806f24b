"""Each pass over a map-style data set is the next epoch, with any workers, although nobody tells the data set."""

import copy
import pickle
import time
from itertools import islice

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, RandomSampler, SequentialSampler, Subset

from tests.data.layouts import write_published
from xmae_fast.data import PlainSegmentDataset, SegmentDataset
from xmae_fast.data.epochs import Epochs

KINDS = [SegmentDataset, PlainSegmentDataset]
COUNT, B, SEED = 18, 4, 79


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    path = tmp_path_factory.mktemp("shard") / "x.h5"
    write_published(path, np.random.default_rng(0).normal(size=(2, COUNT, 30)))
    return path


def make(kind, path):
    return kind(path, quality=0, augment=True, seed=SEED)


def signals(item):
    """PPG and ECG as one array: one signal has few augmentations, and two epochs sometimes have the same."""
    return torch.cat([item["ppg"], item["ecg"]], -1)


def table(path, count):
    """Each item in each epoch, [count, 18, 60]."""
    data, found = make(SegmentDataset, path), []
    for epoch in range(count):
        data.set_epoch(epoch)
        found.append(torch.stack([signals(item) for item in data]))
    for item in range(COUNT):
        assert len({x[item].numpy().tobytes() for x in found}) == count
    return torch.stack(found)


class Numbered(Dataset):
    """Gives items with their numbers, in batches, or one by one as a data set does that wraps another one."""

    def __init__(self, data, batched):
        self.data = data
        if batched:
            self.__getitems__ = self.get_batch

    def __len__(self):
        return len(self.data)

    def __getitem__(self, number):
        return self.data[number] | {"number": number}

    def get_batch(self, numbers):
        return [item | {"number": n} for item, n in zip(self.data.__getitems__(numbers), numbers, strict=True)]


def epochs_of(batches, want):
    """The epochs of the items in each batch, found by comparison."""
    found = []
    for batch in batches:
        match = (signals(batch) == want[:, batch["number"]]).all(-1)  # [epochs, b]
        assert match.any(0).all()
        found.append(match.int().argmax(0).tolist())
    return found


WORKERS = [{}, {"num_workers": 1}, {"num_workers": 2}, {"num_workers": 2, "persistent_workers": True}]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("options", WORKERS)
def test_every_whole_pass_is_the_next_epoch(small, kind, options):
    want, data = table(small, 9), make(kind, small)
    loader = DataLoader(Numbered(data, True), B, shuffle=True, drop_last=True, **options)
    for epoch in range(2):
        assert epochs_of(loader, want) == [[epoch] * B] * 4
    data.set_epoch(7)
    for epoch in (7, 8):
        assert epochs_of(loader, want) == [[epoch] * B] * 4


def test_workers_that_always_have_the_same_seed(small):
    """Elsewhere the seed of the workers says that they were started again; here only the items do."""
    want, generator = table(small, 3), torch.Generator()
    loader = DataLoader(Numbered(make(SegmentDataset, small), True), B, num_workers=1, generator=generator)
    for epoch in range(3):
        generator.manual_seed(0)
        assert {e for batch in epochs_of(loader, want) for e in batch} == {epoch}


def test_workers_that_are_not_forked(small):
    """Workers that are not persistent; test_dataset.py has persistent ones."""
    want, data = table(small, 2), make(SegmentDataset, small)
    loader = DataLoader(Numbered(data, True), B, num_workers=1, multiprocessing_context="spawn")
    for epoch in range(2):
        assert {e for batch in epochs_of(loader, want) for e in batch} == {epoch}


def test_passes_of_different_loaders_count_together(small):
    want, data = table(small, 5), make(SegmentDataset, small)
    numbered = Numbered(data, True)
    plain, workers = DataLoader(numbered, B), DataLoader(numbered, B, num_workers=1)
    kept = DataLoader(numbered, B, num_workers=1, persistent_workers=True)
    for epoch, loader in enumerate([plain, workers, kept, workers, kept]):
        assert {e for batch in epochs_of(loader, want) for e in batch} == {epoch}


@pytest.mark.parametrize("kind", KINDS)
def test_passes_that_are_left_early(small, kind):
    """If each pass starts workers, it is the next epoch; if not, no item has the same epoch twice."""
    want = table(small, 5)
    loader = DataLoader(Numbered(make(kind, small), True), B, shuffle=True, num_workers=2)
    for epoch in range(3):
        assert epochs_of(islice(loader, 2), want) == [[epoch] * B] * 2
    loader, seen = DataLoader(Numbered(make(kind, small), True), B, shuffle=True), [[] for _ in range(COUNT)]
    for _ in range(5):
        for batch in islice(loader, 2):
            for number, epoch in zip(batch["number"].tolist(), *epochs_of([batch], want), strict=True):
                assert epoch not in seen[number]
                seen[number].append(epoch)
    assert max(map(len, seen)) > 1


class Slow(Numbered):
    """Workers are still reading ahead when the next pass is chosen."""

    def __init__(self, data):
        super().__init__(data, False)

    def __getitems__(self, numbers):
        time.sleep(0.05)
        return self.get_batch(numbers)


@pytest.mark.parametrize("persistent", [False, True])
def test_set_epoch_rules_over_what_was_read_ahead(small, persistent):
    want, data = table(small, 5), make(SegmentDataset, small)
    loader = DataLoader(Slow(data), B, num_workers=1, persistent_workers=persistent)
    for epoch in (3, 0, 1, 1):
        data.set_epoch(epoch)
        assert epochs_of(islice(loader, 2), want) == [[epoch] * B] * 2
    data.set_epoch(2)
    for epoch in (2, 3):
        assert {e for batch in epochs_of(loader, want) for e in batch} == {epoch}


@pytest.mark.parametrize("options", [{}, {"num_workers": 2, "persistent_workers": True}])
def test_a_data_set_that_wraps_it_reads_one_by_one(small, options):
    want = table(small, 3)
    loader = DataLoader(Numbered(make(SegmentDataset, small), False), B, shuffle=True, **options)
    for epoch in range(3):
        assert {e for batch in epochs_of(loader, want) for e in batch} == {epoch}


def test_subsets_and_samplers(small):
    want, data = table(small, 4), make(SegmentDataset, small)
    numbered = Numbered(data, True)
    for sampler in (RandomSampler(numbered), SequentialSampler(numbered)):
        data.set_epoch(0)
        loader = DataLoader(numbered, B, sampler=sampler)
        assert [{e for batch in epochs_of(loader, want) for e in batch} for _ in range(3)] == [{0}, {1}, {2}]
    data.set_epoch(0)
    half = DataLoader(Subset(data, range(9)), B)
    found = [torch.cat([signals(batch) for batch in half]) for _ in range(2)]
    assert all(torch.equal(a, b) for a, b in zip(found, want[:, :9], strict=False))


def test_reading_by_hand(small):
    want, data = table(small, 3), make(SegmentDataset, small)
    assert [torch.equal(signals(data[2]), want[epoch, 2]) for epoch in range(3)] == [True] * 3
    assert torch.equal(signals(data[3]), want[0, 3])
    data.set_epoch(1)
    assert torch.equal(signals(data[2]), want[1, 2])
    with pytest.raises(ValueError, match=r"epoch: expected 0 to 2\*\*31 - 1, got -1"):
        data.set_epoch(-1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("options", [{}, {"num_workers": 2}, {"num_workers": 2, "persistent_workers": True}])
@pytest.mark.parametrize("stop", range(3))
def test_a_resumed_run_equals_the_uninterrupted_one(small, kind, options, stop):
    want, data = table(small, 4), make(kind, small)
    loader = DataLoader(Numbered(data, True), B, **options)
    for _ in range(stop):
        list(loader)
    state = pickle.loads(pickle.dumps(data.state_dict()))
    assert state["given"] == stop - 1
    other = make(kind, small)
    other.load_state_dict(state)
    assert other.state_dict() == state
    loader = DataLoader(Numbered(other, True), B, **options)
    for epoch in (stop, stop + 1):
        assert {e for batch in epochs_of(loader, want) for e in batch} == {epoch}


def test_a_state_in_the_middle_of_a_pass(small):
    want, data = table(small, 4), make(SegmentDataset, small)
    for _ in range(2):
        list(DataLoader(data, B))
    list(islice(DataLoader(data, B), 3))
    other = make(SegmentDataset, small)
    other.load_state_dict(data.state_dict())
    for one in (data, other):
        rest = one.__getitems__(range(12, COUNT))
        assert torch.equal(torch.stack([signals(item) for item in rest]), want[2, 12:])
        assert torch.equal(signals(one[0]), want[3, 0])
    with pytest.raises(ValueError, match=f"seed: the state is of a loader with {SEED}, this one has 5"):
        SegmentDataset(small, quality=0, augment=True, seed=5).load_state_dict(data.state_dict())


@pytest.mark.parametrize("kind", KINDS)
def test_copies_count_for_themselves_and_for_their_workers(small, kind):
    want, data = table(small, 4), make(kind, small)
    list(data)
    copies = [pickle.loads(pickle.dumps(data)), copy.deepcopy(data)]
    list(data)
    for one in copies:
        loader = DataLoader(Numbered(one, True), B, num_workers=2, persistent_workers=True)
        for epoch in (1, 2):
            assert {e for batch in epochs_of(loader, want) for e in batch} == {epoch}


def test_without_augmentation_nothing_is_counted(small):
    data = SegmentDataset(small, quality=0, seed=SEED)
    assert data._epochs._given.numel() == 0
    assert all(torch.equal(data[0]["ecg"], data[0]["ecg"]) for _ in range(2))
    other = SegmentDataset(small, quality=0, seed=SEED)
    other.load_state_dict(data.state_dict())
    with pytest.raises(ValueError, match="augmenting: the state is of a loader with False, this one has True"):
        make(SegmentDataset, small).load_state_dict(data.state_dict())


class Worker:
    """Stands in for the worker processes of a DataLoader, all in this process."""

    def __init__(self, seed, number):
        self.seed, self.id = seed + number, number


@pytest.fixture
def workers(monkeypatch):
    """Choose which worker asks; None is the main process."""

    def become(worker):
        monkeypatch.setattr("xmae_fast.data.epochs.get_worker_info", lambda: worker)

    return become


def test_workers_of_a_pass_agree_in_any_order(workers):
    """What later workers see depends neither on which of them is first nor on what earlier ones had read ahead."""
    epochs = Epochs(100)
    for number in range(200):  # more than are remembered
        seed = 1000 * number + 7
        order = np.random.default_rng(number).permutation(4)
        for worker in order[: 1 + number % 4]:
            workers(Worker(seed, int(worker)))
            epochs._own = None  # another process
            assert epochs.of(np.arange(5) + 10 * worker) == number
    workers(None)
    assert epochs.state_dict()["epoch"] == 200
    epochs.set(3)
    workers(Worker(1, 0))
    assert epochs.of(np.arange(5)) == 3


def test_workers_that_were_started_before_set_follow_it(workers):
    epochs = Epochs(10)
    for seed in (5, 6):
        workers(Worker(seed, 0))
        assert epochs.of(np.arange(10)) == seed - 5
    workers(None)
    epochs.set(4)
    workers(Worker(6, 0))
    assert [epochs.of(np.arange(10)) for _ in range(2)] == [4, 5]
    workers(Worker(7, 0))
    assert epochs.of(np.arange(10)) == 6


def test_processes_that_train_together_count_apart(workers, monkeypatch):
    """Ranks that were forked from one process share the memory, but each has its own workers."""
    epochs = Epochs(40)
    for number in range(3):
        for rank in (1, 0, 2):
            monkeypatch.setattr("xmae_fast.data.epochs._family", lambda rank=rank: 100 + rank)
            workers(Worker(50 * number + 1000 * rank, 0))
            epochs._own = None
            assert epochs.of(np.arange(10) + 10 * ((rank + number) % 3)) == number
