"""Preparing PPG: the numbers of shards, and what is refused."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from tests.embedding.conftest import CFG, pulses
from tests.signals.test_signals import noisy_pulses
from xmae_fast.embedding.preprocess import normalise, prepare_ppg
from xmae_fast.model.recipe import Recipe


def test_normalisation_is_that_of_shards_and_loader():
    from xmae_fast.data.augment import min_max

    x = np.random.default_rng(2).normal(size=(5, 200))
    x[3] = 1.0
    found, good = normalise(x)
    assert good.tolist() == [True, True, True, False, True]
    assert not found[3].any()
    for row in (0, 1, 2, 4):
        low, high = x[row].min(), x[row].max()
        np.testing.assert_array_equal(found[row], min_max((2 * (x[row] - low) / (high - low) - 1).astype(np.float16)))
    wide, good = normalise(x, "float32")
    assert np.abs(wide[good] - found[good]).max() < 2e-3


def test_prepare_tells_what_is_wrong():
    fs, recipe = 100, Recipe.for_model(CFG)
    raw = np.stack([pulses(5, fs, seed=i) for i in range(6)])
    raw[1] = 7
    raw[2] = np.nan
    raw[3] = np.clip(raw[3], None, np.quantile(raw[3], 0.8))
    raw[4, 100:250] = raw[4, 99]
    raw[5, 10:20] = np.nan
    found = prepare_ppg(raw, fs, recipe)
    assert found.ppg.shape == (6, 500)
    assert found.usable.tolist() == [True, False, False, True, True, True]
    assert (found.ppg[found.usable].min(1) == -1).all()
    assert (found.ppg[found.usable].max(1) == 1).all()
    assert not found.ppg[~found.usable].any()
    np.testing.assert_allclose(found.missing, [0, 0, 1, 0, 0, 0.02])
    assert found.clipped[3] > 0.1 > found.clipped[0]
    assert found.flat[4] == pytest.approx(0.3, abs=0.01)
    assert found.flat[0] == 0
    assert found.slope_skewness[0] > 0.1 > -0.1 > prepare_ppg(-raw[:1], fs, recipe).slope_skewness[0]
    assert np.isnan(found.quality[1])
    assert np.isnan(prepare_ppg(raw[:1], fs, recipe, quality=False).quality).all()
    assert found.quality[0] > 0.8
    assert found.pulse_rate[0] == pytest.approx(72, abs=4)


def test_prepared_segments_do_not_depend_on_unit_or_neighbours():
    raw = noisy_pulses(125)
    together = prepare_ppg(raw, 125)
    alone = prepare_ppg(raw[4:5], 125)
    np.testing.assert_array_equal(together.ppg[4:5], alone.ppg)
    np.testing.assert_array_equal(together.quality[4], alone.quality[0])
    scaled = prepare_ppg(raw * 0.001 - 5, 125)
    assert np.abs(scaled.ppg - together.ppg).max() < 2e-3  # one float16 rounding may go the other way


def test_recipe_round_trip_and_errors():
    recipe = Recipe(sampling_freq=50, segment_s=4, high_hz=6.0)
    assert Recipe.from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe
    assert recipe.samples == 200
    for change, message in (
        ({"version": 2}, r"preprocessing.version: expected 1, got 2"),
        ({"signal": "ecg"}, "preprocessing.signal: expected 'ppg'"),
        ({"lowpass": 3}, "preprocessing: unknown key 'lowpass'"),
        ({"clean": "x"}, "preprocessing.clean: expected 'elgendi' or 'none', got 'x'"),
        ({"high_hz": 0.1}, "preprocessing.high_hz: expected more than low_hz"),
        ({"segment_s": -1}, "preprocessing.segment_s: expected a positive number"),
    ):
        with pytest.raises(ValueError, match=message):
            Recipe.from_dict(recipe.to_dict() | change)
    with pytest.raises(ValueError, match=r"segments: expected shape \[B, 1250\], 10 s at 125 Hz, got \[2, 1000\]"):
        prepare_ppg(np.zeros((2, 1000)), 125)
    with pytest.raises(ValueError, match="fs: expected more than 16 Hz, twice the upper end of the .*, got 10 Hz"):
        prepare_ppg(np.zeros((2, 100)), 10)
    with pytest.raises(ValueError, match="fs: expected a positive number of Hz, got nan"):
        prepare_ppg(np.zeros((2, 100)), float("nan"))


@pytest.mark.skipif("XMAE_FAST_REAL_DATA" not in os.environ, reason="XMAE_FAST_REAL_DATA names no shard of real data")
@pytest.mark.skipif("XMAE_FAST_REAL_RAW" not in os.environ, reason="XMAE_FAST_REAL_RAW names no folder of recordings")
def test_real_windows_are_those_of_the_shard():
    """bidmc_01 at 125 Hz, prepared here, against the segments of that record in the shard."""
    import gzip

    import h5py

    path = Path(os.environ["XMAE_FAST_REAL_RAW"]) / "bidmc_01_Signals.csv.gz"
    with gzip.open(path, "rt") as file:
        names = [name.strip() for name in file.readline().split(",")]
        ppg = np.loadtxt(file, delimiter=",")[:, names.index("PLETH")]
    raw = ppg[: len(ppg) // 1250 * 1250].reshape(-1, 1250)
    found = prepare_ppg(raw, 125)
    with h5py.File(os.environ["XMAE_FAST_REAL_DATA"]) as file:
        (subject,) = (name for name in file if "bidmc" in name)
        stored = [(int(k.split("+++")[0]), float(k.split("+++")[4]), x[:, 1]) for k, x in file[subject].items()]
    assert len(stored) > 10
    for number, quality, segment in stored:
        assert np.abs(found.ppg[number] - segment.astype(np.float32)).max() < 1e-3
        assert found.quality[number] == pytest.approx(quality, abs=6e-4)  # keys have three decimals
