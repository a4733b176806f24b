import pickle

import pytest
import torch
from torch.utils.data import DataLoader

from xmae_fast.data import PlainSegmentDataset, SegmentDataset, SegmentLoader


def test_items_equal_the_plain_data_sets(shards):
    data, plain = (kind(shards, split="train", augment=True) for kind in (SegmentDataset, PlainSegmentDataset))
    assert len(data) == len(plain)
    for epoch in (0, 2):
        data.set_epoch(epoch)
        plain.set_epoch(epoch)
        for i in (0, 7, len(data) - 1, -1):
            assert data[i]["subject"] == plain[i]["subject"]
            for name in ("ppg", "ecg"):
                assert torch.equal(data[i][name], plain[i][name])
    with pytest.raises(IndexError):
        data[len(data)]
    assert len(list(data)) == len(data)
    assert (data.subjects, data.rejected) == (plain.subjects, plain.rejected)
    assert (data.seq_len, data.sampling_freq) == (1000, 100)


def test_many_items_at_once(shards):
    data = SegmentDataset(shards)
    items = data.__getitems__([5, 3, 5])
    assert torch.equal(items[0]["ppg"], items[2]["ppg"])
    assert torch.equal(items[1]["ecg"], data[3]["ecg"])
    assert data.__getitems__([]) == []
    with pytest.raises(IndexError, match="items: expected 0 to"):
        data.__getitems__([0, -1])


@pytest.mark.parametrize(("workers", "method"), [(0, None), (2, "fork"), (2, "spawn"), (1, "forkserver")])
def test_any_number_of_workers_gives_the_same_sequence(shards, workers, method):
    data = SegmentDataset(shards, split="train", augment=True)
    data[0]  # maps are open before workers start
    loader = DataLoader(
        data, batch_size=50, num_workers=workers, multiprocessing_context=method, persistent_workers=workers > 0
    )
    ours = SegmentLoader(shards, 50, shuffle=False, split="train", augment=True)
    for epoch in (0, 1):
        data.set_epoch(epoch)
        for got, want in zip(loader, ours, strict=True):
            for name in ("ppg", "ecg", "subject"):
                torch.testing.assert_close(got[name], want[name], rtol=0, atol=0)


def test_pickled_data_set_opens_its_own_files(shards):
    data = SegmentDataset(shards)
    item = data[1]
    copy = pickle.loads(pickle.dumps(data))
    assert copy.segments._open is None
    torch.testing.assert_close(copy[1], item, rtol=0, atol=0)
