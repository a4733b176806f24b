import os

import h5py
import numpy as np
import pytest
import torch

from tests.data.layouts import write_packed, write_published
from xmae_fast.data import Layout, PlainSegmentDataset, SegmentLoader, load_segments
from xmae_fast.data.order import epoch_order, rank_order

NAMES = ("ppg", "ecg", "subject")


def epoch(loader):
    """PPG, ECG and subjects of a whole pass."""
    batches = list(loader)
    return tuple(torch.cat([batch[name] for batch in batches]) for name in NAMES)


def plain_epoch(dataset, order=None):
    items = [dataset[i] for i in (range(len(dataset)) if order is None else order.tolist())]
    return (*(torch.stack([item[n] for item in items]) for n in NAMES[:2]), torch.tensor([i["subject"] for i in items]))


def assert_equal(got, want):
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


@pytest.mark.parametrize("normalize_dtype", ["float16", "float32"])
@pytest.mark.parametrize("impl", ["auto", "reference"])
def test_equals_the_plain_loader(shards, normalize_dtype, impl):
    loader = SegmentLoader(shards, 50, shuffle=False, normalize_dtype=normalize_dtype, impl=impl)
    plain = PlainSegmentDataset(shards, normalize_dtype=normalize_dtype)
    assert loader.subjects == plain.subjects
    assert loader.rejected == plain.rejected
    assert len(loader) == -(-len(plain) // 50)
    got = epoch(loader)
    assert_equal(got, plain_epoch(plain))
    assert [x.dtype for x in got] == [torch.float32, torch.float32, torch.int64]


@pytest.mark.parametrize(
    "options",
    [
        {"split": "train", "augment": True},
        {"split": "val", "augment": "published"},
        {"augment": True, "quality": (0.5, 0.95), "seed": 5},
        {"augment": True, "normalize_dtype": "float32", "split": "train"},
        {"split": "test", "exclude_prefixes": ("sim_00000",)},
    ],
)
def test_equals_the_plain_loader_augmented_and_split(shards, options):
    loader, plain = SegmentLoader(shards, 32, **options), PlainSegmentDataset(shards, **options)
    for number in (0, 3):
        loader.set_epoch(number)
        plain.set_epoch(number)
        assert_equal(epoch(loader), plain_epoch(plain, loader.order(number)))


@pytest.mark.skipif("XMAE_FAST_REAL_DATA" not in os.environ, reason="XMAE_FAST_REAL_DATA names no shard of real data")
@pytest.mark.parametrize("augment", [False, True])
def test_equals_the_plain_loader_on_real_data(tmp_path, augment):
    path = os.environ["XMAE_FAST_REAL_DATA"]
    loader = SegmentLoader(path, 16, augment=augment, cache_dir=tmp_path)
    plain = PlainSegmentDataset(path, augment=augment)
    assert len(loader.segments) == 67
    assert_equal(epoch(loader), plain_epoch(plain, loader.order(0)))


def test_shuffling(shards):
    loader = SegmentLoader(shards, 64)
    first, second = loader.order(0), loader.order(1)
    assert sorted(first.tolist()) == list(range(len(loader.segments)))
    assert first.tolist() != second.tolist()
    one, two = epoch(loader), epoch(loader)
    assert loader.epoch == 2
    assert not torch.equal(one[0], two[0])
    loader.set_epoch(0)
    assert_equal(epoch(loader), one)
    assert SegmentLoader(shards, 64, seed=78).order().tolist() != first.tolist()


def test_order_by_blocks():
    order = epoch_order(1000, seed=1, epoch=2, shuffle="blocks", block_size=10, window=5)
    assert sorted(order.tolist()) == list(range(1000))
    for start in range(0, 1000, 50):
        part = order[start : start + 50]
        assert len({int(i) // 10 for i in part}) == 5
        assert (np.diff(part) != 1).any()
    assert epoch_order(7, seed=1, epoch=0, shuffle="blocks", block_size=10).shape == (7,)
    assert epoch_order(0, seed=1, epoch=0, shuffle="blocks").shape == (0,)
    assert order.tolist() != epoch_order(1000, seed=1, epoch=3, shuffle="blocks", block_size=10, window=5).tolist()


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_ranks_together_are_one_process(shards, world_size):
    one = SegmentLoader(shards, 12 * world_size, drop_last=True, augment=True)
    options = {"drop_last": True, "augment": True, "world_size": world_size}
    ranks = [SegmentLoader(shards, 12, rank=rank, **options) for rank in range(world_size)]
    for together, *parts in zip(one, *ranks, strict=False):
        for name in NAMES:
            mixed = torch.stack([part[name] for part in parts], 1).flatten(0, 1)
            torch.testing.assert_close(mixed, together[name], rtol=0, atol=0)


@pytest.mark.parametrize(("drop_last", "pad"), [(True, True), (False, True), (False, False)])
def test_shares_of_ranks(drop_last, pad):
    order = np.random.default_rng(0).permutation(101)
    shares = [rank_order(order, r, 4, drop_last=drop_last, pad=pad) for r in range(4)]
    together = np.concatenate(shares)
    assert len(together) == {(True, True): 100, (False, True): 104, (False, False): 101}[drop_last, pad]
    assert len(set(together)) == (100 if drop_last else 101)
    assert len({len(share) for share in shares}) == (1 if drop_last or pad else 2)
    assert rank_order(np.arange(2), 4, 5, drop_last=False, pad=True).tolist() == [0]


def test_drop_last(shards):
    whole, cut = SegmentLoader(shards, 100), SegmentLoader(shards, 100, drop_last=True)
    count = len(whole.segments)
    assert [len(batch["ppg"]) for batch in whole] == [100] * (count // 100) + [count % 100]
    assert [len(batch["ppg"]) for batch in cut] == [100] * (count // 100)
    assert len(cut) == count // 100


def test_threads_and_prefetch_do_not_matter(shards):
    want = epoch(SegmentLoader(shards, 64, augment=True, num_threads=1, prefetch=1))
    for threads, prefetch in ((8, 1), (2, 5)):
        assert_equal(epoch(SegmentLoader(shards, 64, augment=True, num_threads=threads, prefetch=prefetch)), want)


def test_resuming_in_the_middle_of_an_epoch(shards):
    loader = SegmentLoader(shards, 32, augment=True)
    next_epoch = SegmentLoader(shards, 32, augment=True)
    next_epoch.set_epoch(1)
    want = [*loader, *next_epoch]
    loader.set_epoch(0)
    for stop in (1, 5):
        fresh = SegmentLoader(shards, 32, augment=True, num_threads=2)
        for number, _ in enumerate(loader, start=1):
            if number == stop:
                state = loader.state_dict()
                break
        fresh.load_state_dict(state)
        resumed = [*fresh, *fresh]
        assert len(resumed) == len(want) - stop
        for got, expected in zip(resumed, want[stop:], strict=True):
            assert_equal([got[n] for n in NAMES], [expected[n] for n in NAMES])
        loader.set_epoch(0)
    states = [loader.state_dict() for _ in loader]
    assert [(state["epoch"], state["batch"]) for state in states[-2:]] == [(0, len(loader) - 1), (1, 0)]
    with pytest.raises(ValueError, match="batch_size: the state is of a loader with 32, this one has 33"):
        SegmentLoader(shards, 33, augment=True).load_state_dict(state)
    with pytest.raises(ValueError, match="seed: the state is of a loader with 77, this one has 1"):
        SegmentLoader(shards, 32, augment=True, seed=1).load_state_dict(state)


def test_batches_that_are_kept_stay_what_they_are(shards):
    loader = SegmentLoader(shards, 16, prefetch=1)
    kept, copies = [], []
    for batch in loader:
        kept.append(batch["ppg"][3:5] if len(kept) % 2 else batch["ecg"])
        copies.append(kept[-1].clone())
    for a, b in zip(kept, copies, strict=True):
        assert torch.equal(a, b)
    del kept, batch
    pairs = len(loader._buffers.pairs)
    for _ in loader:
        pass
    assert len(loader._buffers.pairs) == pairs  # none is added while older ones are free


def test_memory_is_used_again(shards):
    loader = SegmentLoader(shards, 16, prefetch=2)
    for _ in range(3):
        for batch in loader:
            del batch
    assert len(loader._buffers.pairs) <= 5


def test_leaving_in_the_middle_ends_the_thread(shards):
    import threading

    before = threading.active_count()
    for batch in SegmentLoader(shards, 8, prefetch=1):
        assert len(batch["ppg"]) == 8
        break
    del batch
    assert threading.active_count() == before


@pytest.mark.parametrize("storage", [{}, {"compression": "gzip"}, {"chunks": (4, 60)}])
@pytest.mark.parametrize("dtype", ["<f2", ">f4", "<f8"])
def test_other_layouts_give_the_same_batches(tmp_path, storage, dtype):
    """One loader of shards with several layouts, orders of columns and byte orders, mapped and read through h5py."""
    signals = np.random.default_rng(0).normal(size=(2, 16, 60))
    write_published(tmp_path / "a.h5", signals[:, :8], dtype=dtype)
    write_packed(tmp_path / "b.h5", signals[:, 8:], dtype=dtype, **storage)
    loader = SegmentLoader([tmp_path / "a.h5", tmp_path / "b.h5"], 5, augment=True, seed=3)
    stored = signals.astype(dtype).astype(np.float16).astype(np.float64)
    write_published(tmp_path / "plain.h5", stored)
    plain = PlainSegmentDataset(tmp_path / "plain.h5", augment=True, seed=3)
    got, want = epoch(loader), plain_epoch(plain, loader.order(0))
    assert_equal(got[:2], want[:2])
    assert ("through h5py" in loader.explain()) == ("compression" in storage)
    compression = {"compression": "lzf"} if storage else {}
    write_published(tmp_path / "ep.h5", signals, dtype=dtype, columns=("ecg", "ppg"), **compression)
    swapped = SegmentLoader(tmp_path / "ep.h5", 5, augment=True, seed=3, layout=Layout(columns=("ecg", "ppg")))
    assert_equal(epoch(swapped)[:2], want[:2])


def test_lengths_and_rates_must_agree(tmp_path):
    rng = np.random.default_rng(0)
    for L in (60, 61):
        write_published(tmp_path / f"{L}.h5", rng.normal(size=(2, 4, L)))
    with pytest.raises(ValueError, match=r"61\.h5: expected segments of 60 samples as in .*60\.h5, got 61"):
        SegmentLoader([tmp_path / "60.h5", tmp_path / "61.h5"])
    with h5py.File(tmp_path / "60.h5", "r+") as file:
        file.attrs["sampling_freq"] = 125.0
    write_published(tmp_path / "60b.h5", rng.normal(size=(2, 4, 60)))
    with pytest.raises(ValueError, match="expected one sampling frequency, got 100, 125 Hz"):
        SegmentLoader([tmp_path / "60.h5", tmp_path / "60b.h5"])


def test_errors_of_the_background_thread_are_raised_here(shard):
    loader = SegmentLoader(shard, 64)

    def fail(*_):
        raise MemoryError("too much")

    loader.segments.read = fail
    with pytest.raises(MemoryError, match="too much"):
        list(loader)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size: expected at least 1, got 0"),
        ({"shuffle": "all"}, "shuffle: expected True, False or 'blocks', got 'all'"),
        ({"prefetch": 0}, "prefetch: expected at least 1"),
        ({"num_threads": 0}, "num_threads: expected at least 1 or None, got 0"),
        ({"rank": 1}, "rank, world_size: expected both or neither"),
        ({"rank": 2, "world_size": 2}, "rank: expected 0 to world_size - 1 = 1, got 2"),
        ({"on_bad": "ignore"}, "on_bad: expected one of 'skip', 'raise', got 'ignore'"),
        ({"normalize_dtype": "float64"}, "normalize_dtype: expected one of"),
        ({"split": "dev"}, "split: expected one of"),
        ({"augment": "published"}, 'augment: "published" depends on the split'),
        ({"quality": "good"}, "quality: expected a number or a pair"),
        ({"quality": 0.99}, r"paths: no segment remains of .* \(rejected: 400 low ppg quality\)"),
        ({"subjects": "m_1"}, "subjects: expected a list of names, got the text 'm_1'"),
        ({"exclude_prefixes": "vital_"}, "exclude_prefixes: expected a list of beginnings, got the text 'vital_'"),
        ({"seed": -1}, "seed: expected 0 to"),
        ({"impl": "gpu"}, "impl: expected one of"),
    ],
)
def test_bad_arguments_are_named(shard, options, message):
    with pytest.raises(ValueError, match=message):
        SegmentLoader(shard, **options)


def test_subjects(shard):
    chosen = SegmentLoader(shard, subjects=["m_1", "m_2", "m_3"], exclude_subjects=["m_2"])
    assert chosen.subjects == ["m_1", "m_3"]
    assert chosen.rejected["subject not selected"] == 396
    assert epoch(chosen)[2].tolist().count(1) == 2


def test_pinning_needs_an_accelerator(shard):
    if torch.accelerator.is_available():
        pytest.skip("there is one")
    with pytest.warns(UserWarning, match="pin_memory: no accelerator found"):
        assert len(next(iter(SegmentLoader(shard, pin_memory=True)))["ppg"]) == 400


def test_stats_and_load_segments(shards):
    loader = SegmentLoader(shards, 100, shuffle=False)
    ppg, ecg, _ = epoch(loader)
    assert loader.stats.segments == len(ppg)
    assert loader.stats.batches == len(loader)
    assert 0 < loader.stats.first_wait_s <= loader.stats.wait_s
    assert_equal((ppg, ecg), load_segments(shards))
