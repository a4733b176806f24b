import pickle

import h5py
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from tests.data.layouts import write_packed, write_published
from xmae_fast.data import Layout, PlainSegmentDataset, SegmentDataset, SegmentLoader
from xmae_fast.data.index.scan import scan_shard
from xmae_fast.data.index.sidecar import fingerprint, sidecar_paths, write_sidecar


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
    for epoch in (0, 1, None):
        if epoch is not None:  # the layout of the last one is found out
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


def test_labels_come_beside_the_signals(tmp_path):
    signals = np.random.default_rng(0).normal(size=(2, 12, 40))
    paths = [write_packed(tmp_path / f"{k}.h5", signals) for k in "ab"]
    for k, path in enumerate(paths):
        with h5py.File(path, "r+") as file:
            file["age"], file["sbp"] = np.arange(12, dtype=np.int16) + 12 * k, np.linspace(90, 150, 12)
    layout = Layout(labels=("age", "sbp"))
    loader = SegmentLoader(paths, 5, layout=layout)
    for batch, items in zip(loader, np.split(loader.order(), range(5, 24, 5)), strict=True):
        assert batch["age"].dtype == torch.int64
        assert batch["age"].tolist() == items.tolist()
        torch.testing.assert_close(batch["sbp"], torch.linspace(90, 150, 12)[items % 12], rtol=1e-6, atol=0)
    item = SegmentDataset(paths, layout=layout)[13]
    assert item["age"] == 13
    assert item["sbp"] == pytest.approx(90 + 60 / 11)
    with pytest.raises(ValueError, match="labels: expected a data set 'weight'"):
        SegmentLoader(paths, layout=Layout(labels="weight"), on_bad="raise")
    with pytest.raises(ValueError, match="labels: expected other names than those of a batch, got ecg"):
        Layout(labels=("ecg",))


FORMS = {"published": write_published, "packed": write_packed}
STORAGES = [{}, {"compression": "gzip"}, {"chunks": True}, {"shuffle": True, "compression": "lzf"}]


@given(st.data())
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_layout_type_order_and_batch_size(tmp_path_factory, data):
    """Batches equal what NumPy computes of the stored signals, in the order that the loader states."""
    n, L = 2 * data.draw(st.integers(1, 9)), data.draw(st.integers(2, 70))
    dtype = data.draw(st.sampled_from(["<f2", ">f2", "<f4", ">f4", "<f8", ">f8"]))
    signals = np.random.default_rng(data.draw(st.integers(0, 1000))).normal(size=(2, n, L))
    path = tmp_path_factory.mktemp("any") / "x.h5"
    columns = tuple(data.draw(st.permutations(["ppg", "ecg", "time", "other"])))
    form = data.draw(st.sampled_from(list(FORMS)))
    extra = {"columns": columns} if form == "published" else {}
    FORMS[form](path, signals, dtype=dtype, **data.draw(st.sampled_from(STORAGES)), **extra)
    layout = Layout(columns=columns)
    write_sidecar(sidecar_paths(str(path), None)[0], scan_shard(str(path), layout), fingerprint(str(path), layout))

    half = data.draw(st.booleans())
    loader = SegmentLoader(
        path, data.draw(st.integers(1, 20)), layout=layout, quality=0.0, num_threads=data.draw(st.integers(1, 4)),
        shuffle=data.draw(st.sampled_from([True, False, "blocks"])), block_size=3, window=2, prefetch=1,
        normalize_dtype="float16" if half else "float32", drop_last=data.draw(st.booleans()),
        impl=data.draw(st.sampled_from(["auto", "reference"])),
    )  # fmt: skip
    x = signals.astype(dtype).astype(np.float16 if half else np.float32)
    low, high = x.min(-1, keepdims=True), x.max(-1, keepdims=True)
    want = (2 * (x - low) / (high - low) - 1).astype(np.float32)
    batches = list(loader)
    assert len(batches) == len(loader)
    order = loader.order(0)[: sum(len(batch["ppg"]) for batch in batches)]
    for k, name in enumerate(("ppg", "ecg")):
        got = torch.cat([batch[name] for batch in batches]) if batches else torch.empty(0, L)
        np.testing.assert_array_equal(got.numpy(), want[k, order])
