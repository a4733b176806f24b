"""Each pass over a SegmentLoader is the next epoch, however it is read; a state goes on where it was taken."""

import pickle
from itertools import islice

import numpy as np
import pytest
import torch

from tests.data.layouts import write_published
from xmae_fast.data import SegmentLoader

B = 4


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A loader of 18 segments in five batches, the last one of two segments."""
    path = tmp_path_factory.mktemp("shard") / "x.h5"
    write_published(path, np.random.default_rng(0).normal(size=(2, 18, 30)))
    return path


def make(path, **options):
    return SegmentLoader(path, B, quality=0, augment=True, num_threads=1, **options)


def epochs(path, count, **options):
    """The batches of the first epochs, each chosen by set_epoch."""
    loader, found = make(path, **options), []
    for number in range(count):
        loader.set_epoch(number)
        found.append(list(loader))
    return found


def same(got, want):
    got, want = list(got), list(want)
    return len(got) == len(want) and all(torch.equal(a[n], b[n]) for a, b in zip(got, want, strict=True) for n in b)


def by_next(loader, count):
    iterator = iter(loader)
    return [next(iterator) for _ in range(count)]


def by_break(loader, count):
    batches = []
    for batch in loader:
        batches.append(batch)
        if len(batches) == count:
            break
    return batches


WAYS = {
    "zip": lambda loader, count: [batch for _, batch in zip(range(count), loader, strict=False)],
    "islice": lambda loader, count: list(islice(loader, count)),
    "next": by_next,
    "break": by_break,
}


@pytest.mark.parametrize("count", [1, 3, 5])
@pytest.mark.parametrize("way", WAYS)
def test_every_pass_is_the_next_epoch(small, way, count):
    want, loader = epochs(small, 3), make(small)
    for number in range(3):
        assert same(WAYS[way](loader, count), want[number][:count])
        assert loader.epoch == number
        state = loader.state_dict()
        assert (state["epoch"], state["batch"]) == ((number, count) if count < 5 else (number + 1, 0))
    assert same(loader, epochs(small, 4)[3])
    assert loader.epoch == 4


@pytest.mark.parametrize("options", [{}, {"shuffle": False}, {"shuffle": "blocks", "block_size": 2, "window": 2}])
def test_orders_and_augmentations_of_epochs_differ(small, options):
    loader = make(small, **options)
    first, second = ([torch.cat([b[n] for b in loader]) for n in ("ecg", "subject")] for _ in range(2))
    assert not torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1]) == (options == {"shuffle": False})


@pytest.mark.parametrize("options", [{}, {"drop_last": True}, {"shuffle": "blocks", "block_size": 2, "window": 2}])
@pytest.mark.parametrize("stop", range(12))
def test_a_resumed_run_equals_the_uninterrupted_one(small, options, stop):
    """Stopped after any number of batches: before the first, in the middle, at an epoch's end before and after the pass
    was asked for more; once and twice."""
    want = [batch for epoch in epochs(small, 4, **options) for batch in epoch]
    loader, taken, states = make(small, **options), [], []
    while len(taken) < stop:
        for batch in loader:
            taken.append(batch)
            if len(taken) == stop:
                states.append(loader.state_dict())  # the pass is under way
                break
    states.append(loader.state_dict())  # it is not
    for state in states:
        resumed = make(small, **options)
        resumed.load_state_dict(state)
        assert resumed.state_dict() == state
        got = [batch for _ in range(5) for batch in resumed]
        assert same(got[: len(want) - stop], want[stop:])
    again = make(small, **options)
    again.load_state_dict(states[0])
    got = list(islice(again, 1))
    last = make(small, **options)
    last.load_state_dict(again.state_dict())
    got += [batch for _ in range(5) for batch in last]
    assert same(got[: len(want) - stop], want[stop:])


def test_a_state_after_the_end_of_a_pass(small):
    want, loader = epochs(small, 2), make(small)
    assert same(loader, want[0])
    state = loader.state_dict()
    assert (state["epoch"], state["batch"]) == (1, 0)
    fresh = make(small)
    fresh.load_state_dict(state)
    assert same(fresh, want[1])
    assert same(loader, want[1])


def test_set_epoch_rules(small):
    want, loader = epochs(small, 6), make(small)
    loader.set_epoch(4)
    assert same(islice(loader, 2), want[4][:2])
    assert same(loader, want[5])
    list(islice(loader, 2))
    loader.set_epoch(1)
    assert loader.state_dict()["batch"] == 0
    assert same(loader, want[1])
    assert same(loader, want[2])
    with pytest.raises(ValueError, match="epoch: expected at least 0, got -1"):
        loader.set_epoch(-1)


def test_set_epoch_keeps_what_a_state_of_this_epoch_goes_on_with(small):
    """The loop `for epoch in range(start, n): loader.set_epoch(epoch); ...` after loading a state."""
    want, loader = epochs(small, 3), make(small)
    list(islice(loader, 3))
    state = loader.state_dict()
    for start, expected in ((0, [want[0][3:], want[1]]), (1, [want[1], want[2]])):
        fresh = make(small)
        fresh.load_state_dict(state)
        for number in range(2):
            fresh.set_epoch(start + number)
            assert same(fresh, expected[number])
    loader.set_epoch(0)  # the pass had begun here: from its first batch
    assert same(loader, want[0])


def test_passes_that_give_nothing_do_not_count(small):
    want, loader = epochs(small, 2), make(small)
    unused = [iter(loader) for _ in range(3)]
    assert len(loader) == 5
    assert same(loader, want[0])
    assert same(unused[0], want[1])


def test_one_pass_at_a_time(small):
    want, loader = epochs(small, 3), make(small)
    old = iter(loader)
    assert same(islice(old, 2), want[0][:2])
    new = iter(loader)
    next(new)
    with pytest.raises(RuntimeError, match="this pass is over after 2 of 5 batches: another one has begun"):
        next(old)
    assert same(new, want[1][1:])
    third = iter(loader)
    next(third)
    loader.set_epoch(0)
    with pytest.raises(RuntimeError, match="set_epoch or load_state_dict was called"):
        next(third)
    assert same(loader, want[0])


def test_an_old_pass_that_has_given_all_ends_quietly(small):
    want, loader = epochs(small, 3), make(small)
    for number, _ in enumerate(loader, start=1):
        if number == len(loader):
            loader.set_epoch(2)
    assert same(loader, want[2])


@pytest.mark.parametrize("pad", [True, False])
def test_ranks_stay_in_the_same_epoch(small, pad):
    """18 segments for four ranks in batches of two: three batches for the first two ranks, without `pad` two for the
    last two."""
    options = {"world_size": 4, "pad": pad}

    def ranks():
        return [SegmentLoader(small, 2, quality=0, rank=rank, augment=True, **options) for rank in range(4)]

    want = [[list(loader) for loader in together] for together in [ranks()] for _ in range(3)]
    assert [len(batches) for batches in want[0]] == ([3] * 4 if pad else [3, 3, 2, 2])
    for stop in range(4):
        together, states, seen = ranks(), [], []
        for loader in together:
            seen.append(list(islice(loader, stop)))
            states.append(loader.state_dict())
        for source in (states, [states[0]] * 4):  # each rank's own, or the first one's, as Lightning keeps it
            resumed = ranks()
            for loader, state in zip(resumed, source, strict=True):
                loader.load_state_dict(state)
            rest = [list(loader) for loader in resumed] if 0 < stop < 3 else [[] for _ in resumed]
            for rank in range(4):
                whole = seen[rank] + rest[rank] if stop else want[0][rank]
                assert same(whole, want[0][rank])
            following = [list(loader) for loader in resumed]
            assert all(same(a, b) for a, b in zip(following, want[1 if stop else 0], strict=True))


def test_a_rank_without_batches(small):
    """With more ranks than segments, and none repeated, a pass without batches counts too."""
    loader = SegmentLoader(small, 2, quality=0, rank=19, world_size=20, pad=False)
    assert (len(loader), list(loader), loader.epoch) == (0, [], 1)
    assert (list(loader), loader.epoch, loader.state_dict()["epoch"]) == ([], 2, 2)
    cut = make(small, drop_last=True, rank=0, world_size=5)
    assert (len(cut), list(cut), cut.state_dict()["epoch"]) == (0, [], 1)


def test_states_of_earlier_versions_are_loaded(small):
    want, loader = epochs(small, 2), make(small)
    old = {"epoch": 1, "batch": 2, "seed": 77, "segments": 18, "augmenting": True, "batch_size": B, "shuffle": True,
           "drop_last": False, "pad": True, "world_size": 1, "block_size": 256, "window": 16}  # fmt: skip
    loader.load_state_dict(old)
    assert same(loader, want[1][2:])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch": 6}, "batch: expected a state with 0 to 5, the batches of an epoch, got 6"),
        ({"batch": -1}, "batch: expected a state with 0 to 5"),
        ({"epoch": -1}, "epoch: expected a state with at least 0, got -1"),
        ({"segments": 17}, "segments: the state is of a loader with 17, this one has 18"),
    ],
)
def test_impossible_states_are_refused(small, change, message):
    loader = make(small)
    with pytest.raises(ValueError, match=message):
        loader.load_state_dict(loader.state_dict() | change)


def test_an_error_ends_its_pass_and_not_the_loader(small):
    want, loader = epochs(small, 2), make(small)
    read = loader.segments.read

    def fail(*_):
        raise MemoryError("too much")

    loader.segments.read = fail
    with pytest.raises(MemoryError):
        list(loader)
    loader.segments.read = read
    assert same(loader, want[1])


class Trainer:
    """Does to a loader what Lightning's Trainer does; test_lightning_trainer.py has the real one."""

    def __init__(self, loader):
        self.loader = loader

    def passes(self, *epochs, count=2):
        """The epoch of the loader in each epoch of the trainer."""
        found = []
        for epoch in epochs:
            self.loader.batch_sampler.sampler.set_epoch(epoch)
            assert len(list(islice(self.loader, count))) == count
            found.append(self.loader.epoch)
        return found


def test_a_trainer_says_which_epoch_begins(small):
    trainer = Trainer(make(small))
    list(islice(trainer.loader, 1))  # someone looks at a batch before
    assert trainer.passes(0, 1, 2) == [0, 1, 2]
    assert trainer.passes(0, 1) == [3, 4]  # another fit
    list(trainer.loader)  # a pass of the user's own
    assert trainer.passes(2) == [6]
    trainer.loader.set_epoch(9)
    assert trainer.passes(0, 1) == [9, 10]
    assert Trainer(make(small)).passes(4, 5) == [4, 5]  # resumed between two epochs, without a state
    copy = pickle.loads(pickle.dumps(trainer.loader))
    assert Trainer(copy).passes(2) == [11]


@pytest.mark.parametrize("told", [0, 3])
def test_a_trainer_that_goes_on_and_one_that_goes_on_after_an_epoch(small, told):
    """The state is the same whether or not the epoch was meant to end after two batches."""
    trainer, want = Trainer(make(small)), epochs(small, 6)
    trainer.passes(*range(told + 1))
    state = trainer.loader.state_dict()
    for said, following in ((told, want[told][2:]), (told + 1, want[told + 1])):
        loader = make(small)
        loader.load_state_dict(state)
        loader.batch_sampler.sampler.set_epoch(said)
        assert same(loader, following)
        loader.batch_sampler.sampler.set_epoch(said + 1)
        assert same(loader, want[said + 1])


def test_a_state_that_was_loaded_by_hand_rules_over_a_new_fit(small):
    want, before = epochs(small, 6), make(small)
    Trainer(before).passes(0, 1, 2, 3)
    states = [before.state_dict()]
    before = make(small)
    before.set_epoch(3)
    list(islice(before, 2))
    states.append({k: v for k, v in before.state_dict().items() if k not in ("told", "offset")})
    for state in states:
        loader = make(small)
        loader.load_state_dict(state)
        loader.batch_sampler.sampler.set_epoch(0)
        assert same(loader, want[3][2:])
        assert Trainer(loader).passes(1, 2) == [4, 5]
