import os
import pickle
import re

import h5py
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from xmae_fast.data import PlainSegmentDataset, load_segments, parse_key, split_subjects, write_shard


@pytest.fixture
def awkward(tmp_path):
    """One shard: 4 good records, 1 low PPG, 1 low ECG quality, 1 vital_ subject, 2 constant, 1 non-finite."""
    rng = np.random.default_rng(0)
    ppg, ecg = rng.uniform(-1, 1, (2, 10, 40))
    subjects = ["m_1", "m_1", "m_2", "m_3", "m_1", "m_2", "vital_9", "m_2", "m_3", "m_3"]
    ppg_quality, ecg_quality = np.full((2, 10), 0.95)
    ppg_quality[4], ecg_quality[5] = 0.899, 0.2
    ppg[7], ecg[8] = 0.5, -0.25
    path = tmp_path / "awkward.h5"
    names = write_shard(path, ppg, ecg, subjects, ppg_quality=ppg_quality, ecg_quality=ecg_quality)
    with h5py.File(path, "r+") as file:
        file[names[9]][3, 1] = np.nan
    return path


REJECTED = {"low ppg quality": 1, "low ecg quality": 1, "excluded subject": 1, "constant": 2, "non-finite": 1}


def test_items_match_the_records(shards):
    data = PlainSegmentDataset(shards, quality=0)
    assert len(data) == 480
    with h5py.File(data.records[300].path) as file:
        record = file[data.records[300].subject][data.records[300].key][:]
    item = data[300]
    for column, name in ((1, "ppg"), (2, "ecg")):
        x = record[:, column]
        expected = (2 * (x - x.min()) / (x.max() - x.min()) - 1).astype(np.float32)
        assert item[name].dtype == torch.float32
        assert item[name].is_contiguous()
        np.testing.assert_array_equal(item[name].numpy(), expected)
    assert data.subjects[item["subject"]] == data.records[300].subject


def test_iteration_ends_and_negative_items_count_back(awkward):
    data = PlainSegmentDataset(awkward, augment=True)
    assert len(list(data)) == 4
    data.set_epoch(0)
    last = data[-1]
    data.set_epoch(0)
    torch.testing.assert_close(last, data[3], rtol=0, atol=0)
    with pytest.raises(IndexError):
        data[4]


def test_quality_threshold(shards):
    default = PlainSegmentDataset(shards)
    pair = PlainSegmentDataset(shards, quality=(0.0, 0.97))
    everything = PlainSegmentDataset(shards, quality=0.0).records
    expected = [r for r in everything if min(parse_key(r.key)[4:]) >= 0.9]
    assert default.records == expected
    assert 0 < len(default) < 480
    assert pair.records == [r for r in everything if r.ecg_quality >= 0.97]
    assert sum(default.rejected.values()) + len(default) == 480


def test_threshold_is_reached_not_exceeded(awkward):
    assert len(PlainSegmentDataset(awkward, quality=0.95)) == 4
    with pytest.raises(ValueError, match="no segment remains"):
        PlainSegmentDataset(awkward, quality=0.951)


def test_bad_records_are_skipped_and_counted(awkward):
    data = PlainSegmentDataset(awkward)
    assert len(data) == 4
    assert dict(data.rejected) == REJECTED
    assert data.subjects == ["m_1", "m_2", "m_3"]
    assert all(torch.isfinite(item[name]).all() for item in data for name in ("ppg", "ecg"))


def test_bad_records_raise_on_request(awkward):
    data = PlainSegmentDataset(awkward, on_bad="raise")
    assert len(data) == 7
    bad = {"m_2/0002": "constant", "m_3/0001": "constant", "m_3/0002": "non-finite"}
    for i, record in enumerate(data.records):
        name = f"{record.subject}/{record.key}"
        problem = bad.pop(name[:8], "")
        if problem:
            with pytest.raises(ValueError, match=re.escape(f"shard {awkward}, record {name}: segment is {problem}")):
                data[i]
        else:
            assert torch.isfinite(data[i]["ppg"]).all()
    assert not bad


def test_vital_subjects_can_be_let_in_and_subjects_chosen(awkward):
    assert "vital_9" in PlainSegmentDataset(awkward, exclude_prefixes=()).subjects
    chosen = PlainSegmentDataset(awkward, subjects=["m_1", "vital_9"])
    assert chosen.subjects == ["m_1"]
    assert chosen.rejected["excluded subject"] == 1
    assert chosen.rejected["subject not selected"] == 6


def test_splits_share_no_subject_and_cover_all(shards):
    parts = {name: PlainSegmentDataset(shards, quality=0, split=name) for name in ("train", "val", "test")}
    expected = split_subjects([f"sim_{i:06d}" for i in range(60)])
    for name, part in parts.items():
        assert part.subjects == sorted(expected[name])
    assert sum(len(part) for part in parts.values()) == 480


@pytest.mark.parametrize(
    ("augment", "split", "augmented"),
    [
        (False, "train", False),
        (True, "train", True),
        (True, None, True),
        (True, "val", False),
        (True, "test", False),
        ("published", "train", False),
        ("published", "val", True),
        ("published", "test", True),
    ],
)
def test_what_is_augmented(shards, augment, split, augmented):
    plain = PlainSegmentDataset(shards, split=split)
    data = PlainSegmentDataset(shards, split=split, augment=augment)
    changed = [not torch.equal(data[i]["ecg"], plain[i]["ecg"]) for i in range(min(20, len(data)))]
    assert any(changed) == augmented


def test_augmentation_repeats_and_moves_with_the_epoch(shards):
    data, other = (PlainSegmentDataset(shards, split="train", augment=True, seed=s) for s in (77, 78))
    first = [data[i]["ecg"] for i in range(20)]
    data.set_epoch(0)
    assert all(torch.equal(a, data[i]["ecg"]) for i, a in enumerate(first))
    data.set_epoch(1)
    assert not all(torch.equal(a, data[i]["ecg"]) for i, a in enumerate(first))
    data.set_epoch(0)
    assert all(torch.equal(a, data[i]["ecg"]) for i, a in enumerate(first))
    assert other.seed != data.seed


def test_normalisation_type(shards):
    half, single = (PlainSegmentDataset(shards, normalize_dtype=d)[0]["ppg"] for d in ("float16", "float32"))
    assert not torch.equal(half, single)
    torch.testing.assert_close(half, single, rtol=0, atol=0.003)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_give_the_same_items(shards, method):
    data = PlainSegmentDataset(shards, split="val", augment="published")
    assert data[0]["ppg"].shape == (1000,)  # the parent's file is open before the workers start
    loader = DataLoader(data, batch_size=5, num_workers=2, multiprocessing_context=method, persistent_workers=True)
    for epoch in (0, 1):
        data.set_epoch(epoch)
        batches = list(loader)
        data.set_epoch(epoch)
        items = list(data)
        for name in ("ppg", "ecg"):
            loaded = torch.cat([batch[name] for batch in batches])
            torch.testing.assert_close(loaded, torch.stack([item[name] for item in items]), rtol=0, atol=0)
        assert batches[0]["subject"].dtype == torch.int64


def test_pickled_dataset_opens_its_own_file(shards):
    data = PlainSegmentDataset(shards)
    item = data[1]
    torch.testing.assert_close(pickle.loads(pickle.dumps(data))[1], item, rtol=0, atol=0)


def test_another_process_does_not_use_the_parents_file(shards):
    data = PlainSegmentDataset(shards)
    item, (path, parents) = data[1], *data._reader.files.items()
    data._reader.pid = -1
    torch.testing.assert_close(data[1], item, rtol=0, atol=0)
    assert data._reader.files[path] is not parents


def test_shard_that_vanishes_is_named(awkward):
    data = PlainSegmentDataset(awkward)
    awkward.unlink()
    with pytest.raises(FileNotFoundError, match=r"awkward\.h5"):
        data[0]


@pytest.mark.parametrize(
    "bad", [{"split": "dev"}, {"augment": "yes"}, {"on_bad": "ignore"}, {"normalize_dtype": "float64"}]
)
def test_unknown_options_are_named(awkward, bad):
    with pytest.raises(ValueError, match=f"{next(iter(bad))}: expected one of .*, got "):
        PlainSegmentDataset(awkward, **bad)


def test_published_augmentation_needs_a_split(awkward):
    with pytest.raises(ValueError, match='augment: "published" depends on the split'):
        PlainSegmentDataset(awkward, augment="published")


def test_load_segments(shards, awkward):
    data = PlainSegmentDataset(shards)
    ppg, ecg = load_segments(shards)
    assert ppg.dtype == ecg.dtype == torch.float32
    torch.testing.assert_close(ppg, torch.stack([item["ppg"] for item in data]), rtol=0, atol=0)
    torch.testing.assert_close(ecg, torch.stack([item["ecg"] for item in data]), rtol=0, atol=0)
    few, _ = load_segments(shards, limit=250)
    torch.testing.assert_close(few, ppg[:250], rtol=0, atol=0)
    assert load_segments(awkward)[0].shape == (4, 40)
    with pytest.raises(ValueError, match=r"no usable segment.*low ppg quality"):
        load_segments(awkward, quality=0.99)
    with pytest.raises(ValueError, match="limit: expected at least 1"):
        load_segments(awkward, limit=0)


@pytest.mark.skipif("XMAE_FAST_REAL_DATA" not in os.environ, reason="XMAE_FAST_REAL_DATA names no shard of real data")
def test_real_recordings():
    path = os.environ["XMAE_FAST_REAL_DATA"]
    data = PlainSegmentDataset(path)
    assert len(data) == 67
    assert len(PlainSegmentDataset(path, quality=0)) == 78
    ppg, ecg = load_segments(path)
    assert ppg.shape == ecg.shape == (67, 1000)
    assert ppg.abs().max() == ecg.abs().max() == 1
