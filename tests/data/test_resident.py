"""Batches of a loader whose segments are in the memory of a device: those of the ordinary loader, bit for bit."""

from __future__ import annotations

import warnings

import h5py
import numpy as np
import pytest
import torch

from xmae_fast.data import Layout, SegmentLoader, augment
from xmae_fast.data.augment import AugmentDraw, draw_augmentation
from xmae_fast.data.device_draws import draw_augmentations, rounded, uniforms
from xmae_fast.data.resident import augmented, min_max

ON = {"resident": True, "device": "cpu"}


def same(a: dict, b: dict) -> bool:
    return list(a) == list(b) and all(x.dtype == b[name].dtype and torch.equal(x, b[name]) for name, x in a.items())


def both(paths, batch_size=32, **options) -> tuple[SegmentLoader, SegmentLoader]:
    return SegmentLoader(paths, batch_size, **options), SegmentLoader(paths, batch_size, **options, **ON)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"augment": True},
        {"augment": True, "normalize_dtype": "float32", "shuffle": "blocks", "block_size": 16, "window": 2},
        {"split": "train", "augment": "published", "drop_last": True, "seed": 4_000_000_000},
        {"split": "val", "augment": "published", "shuffle": False},
        {"signals": "ppg", "augment": True},
        {"augment": True, "rank": 1, "world_size": 3, "pad": False},
    ],
    ids=str,
)
def test_same_batches_in_every_epoch(shards, options):
    ordinary, resident = both(shards, **options)
    assert len(ordinary) == len(resident)
    for epoch in (0, 1, 5):
        ordinary.set_epoch(epoch)
        resident.set_epoch(epoch)
        assert all(same(a, b) for a, b in zip(ordinary, resident, strict=True))
    assert resident.stats.batches == ordinary.stats.batches
    assert resident.stats.segments == ordinary.stats.segments


@pytest.mark.parametrize("normalize_dtype", ["float16", "float32"])
@pytest.mark.parametrize("dtype", ["<f2", ">f4", "<f8"])
def test_values_of_every_type(tmp_path, dtype, normalize_dtype):
    """Stored by chunks, so that h5py reads them, and as they are; with labels."""
    rng = np.random.default_rng(0)
    signals = rng.normal(size=(2, 90, 500)) * 10.0 ** rng.integers(-3, 3, (2, 90, 1))
    for name, options in (("a.h5", {}), ("b.h5", {"compression": "gzip", "chunks": (7, 100)})):
        with h5py.File(tmp_path / name, "w") as file:
            for signal, values in zip(("ppg", "ecg"), signals, strict=True):
                file.create_dataset(signal, data=values.astype(dtype), **options)
            file["subject"] = np.arange(90) // 3
            file["age"] = np.arange(90.0)
            file["ppg_quality"] = file["ecg_quality"] = np.ones(90)
    layout = Layout(labels=("age",))
    paths = [str(tmp_path / "a.h5"), str(tmp_path / "b.h5")]
    ordinary, resident = both(paths, augment=True, normalize_dtype=normalize_dtype, layout=layout)
    found = list(zip(ordinary, resident, strict=True))
    assert all(same(a, b) for a, b in found)
    assert "age" in found[0][1]


def test_resumes_within_an_epoch_and_gives_one_pass_at_a_time(shards):
    ordinary, resident = both(shards, augment=True)
    batches = iter(resident)
    taken = [next(batches) for _ in range(3)]
    state = resident.state_dict()
    assert all(same(a, b) for a, b in zip(ordinary, taken, strict=False))
    again = SegmentLoader(shards, 32, augment=True, **ON)
    again.load_state_dict(state)
    rest = list(ordinary_rest(ordinary, state))
    assert all(same(a, b) for a, b in zip(rest, again, strict=True))
    next(iter(resident))
    with pytest.raises(RuntimeError, match="this pass is over after 3 of"):
        next(batches)


def ordinary_rest(loader: SegmentLoader, state: dict):
    loader.load_state_dict(state)
    return loader


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_signals_that_augmentation_would_spoil_are_left_as_they_are(dtype):
    """Constant once their only change is shifted out, or beyond float16 once they are scaled."""
    x = np.zeros((4, 40), dtype)
    x[0, -1] = 1
    x[1, 0] = -1
    x[2] = np.linspace(0, 26000, 40)
    x[3] = np.random.default_rng(0).normal(size=40)
    draws = [
        AugmentDraw(1.0, 3, True),
        AugmentDraw(1.0, -7, False),
        AugmentDraw(1.19, 0, True),
        AugmentDraw(0.9, 0, True),
    ]
    factors = torch.tensor([[-d.scale if d.flip else d.scale] for d in draws], dtype=torch.float64)
    factors = rounded(factors, getattr(torch, dtype))
    shifts = torch.tensor([[d.shift] for d in draws])
    got = augmented(torch.from_numpy(x), factors, shifts)
    for row, values, draw in zip(got, x, draws, strict=True):
        want = augment.augmented(values, draw, is_ecg=True)
        assert np.array_equal(row.numpy(), want)
        assert np.array_equal(min_max(row[None])[0].numpy(), augment.min_max(want))
    assert torch.equal(got[0], torch.from_numpy(x[0]))


@pytest.mark.parametrize(("seed", "epoch"), [(77, 0), (0, 3), (2**32 - 1, 2**31), (5, 2**40)])
def test_draws_are_those_of_numpy(seed, epoch):
    items = torch.tensor([0, 1, 77, 2**31 - 1, 2**31, 2**40 + 3, 5_200_000])
    drawn = [torch.stack(uniforms(items, seed, epoch, block), 1) for block in (1, 2)]
    factors, shifts = draw_augmentations(items, seed, epoch, torch.float32)
    for row, item in enumerate(items.tolist()):
        rng = np.random.Generator(np.random.Philox(key=[seed, epoch], counter=[0, 0, 0, item]))
        assert np.array_equal(torch.cat([x[row] for x in drawn]).numpy(), rng.random(8))
        rng = np.random.Generator(np.random.Philox(key=[seed, epoch], counter=[0, 0, 0, item]))
        for k, draw in enumerate((draw_augmentation(rng), draw_augmentation(rng))):
            assert shifts[row, k] == draw.shift
            assert factors[row, k] == np.float32(-draw.scale if k and draw.flip else draw.scale)


def test_float64_is_rounded_once():
    """Numbers next to the middle of two float16 numbers, which rounding by way of float32 takes for the middle."""
    half = np.random.default_rng(0).uniform(0.8, 1.2, 2000).astype(np.float16)
    middle = half.astype(float) + np.spacing(half).astype(float) / 2
    x = np.concatenate([middle, middle * (1 + 2.0**-50), middle * (1 - 2.0**-50), -middle * (1 - 2.0**-51)])
    assert np.array_equal(rounded(torch.from_numpy(x), torch.float16).numpy(), x.astype(np.float16))
    assert not np.array_equal(torch.from_numpy(x).half().numpy(), x.astype(np.float16))  # what this is for
    assert np.array_equal(rounded(torch.from_numpy(x), torch.float32).numpy(), x.astype(np.float32))


def test_bad_arguments_and_too_little_memory(shards, monkeypatch):
    for options in ({"resident": True}, {"device": "cpu"}):
        with pytest.raises(ValueError, match="^resident, device: expected both or neither"):
            SegmentLoader(shards, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(ValueError, match="^pin_memory: expected False with resident=True"):
            SegmentLoader(shards, pin_memory=True, **ON)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (500_000, 1_000_000))
    with pytest.raises(ValueError, match=r"^resident: expected segments that fit cuda, which has 0.0 GB .*would fit"):
        SegmentLoader(shards, resident=True, device="cuda")


@pytest.mark.gpu
@pytest.mark.parametrize("normalize_dtype", ["float16", "float32"])
def test_a_gpu_makes_the_same_batches(shards, normalize_dtype):
    """Eagerly at first, then as a graph, the last and smaller one eagerly again; batches stay as they are."""
    options = {"augment": True, "normalize_dtype": normalize_dtype}
    ordinary = SegmentLoader(shards, 32, **options)
    resident = SegmentLoader(shards, 32, **options, resident=True, device="cuda")
    for _ in range(2):
        found = list(resident)
        assert all(x.is_cuda for batch in found for x in batch.values())
        on_cpu = [{name: x.cpu() for name, x in batch.items()} for batch in found]
        assert all(same(a, b) for a, b in zip(ordinary, on_cpu, strict=True))
    assert resident._resident._replay is not None
