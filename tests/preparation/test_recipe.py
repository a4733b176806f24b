"""The batched recipe is compared with neurokit2, which works window by window."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.studies.recording_files import FS, windows
from tests.signals.test_signals import hard_windows
from xmae_fast.data import apply_recipe


@pytest.fixture(scope="module")
def nk():
    return pytest.importorskip("neurokit2", reason="neurokit2, the oracle, is not installed")


def test_same_segments_as_neurokit2(nk):
    raw, rates = hard_windows(), {"ppg_fs": FS, "ecg_fs": FS}
    found, expected = (apply_recipe(*raw, **rates, recipe=which) for which in ("batched", "neurokit2"))
    np.testing.assert_array_equal(found.reason, expected.reason)
    assert {"too few ppg beats", "too few ecg beats", ""} <= set(expected.reason)
    for name in ("ppg", "ecg"):
        np.testing.assert_allclose(
            getattr(found, name).astype(float), getattr(expected, name).astype(float), rtol=0, atol=5e-4
        )
        quality = getattr(expected, f"{name}_quality")
        np.testing.assert_allclose(getattr(found, f"{name}_quality"), quality, atol=1e-9, rtol=0)
        np.testing.assert_array_equal(getattr(found, f"{name}_quality") >= 0.9, quality >= 0.9)
        usable = quality[expected.reason == ""] >= 0.9
        assert 3 < usable.sum() < len(usable) - 3  # both decisions occur


def at_rate(x: np.ndarray, fs: float) -> np.ndarray:
    """Windows of 10 s at 125 Hz as they are at another rate."""
    t = np.linspace(0, 1249, round(10 * fs))
    return np.array([np.interp(t, np.arange(1250), row) for row in x])


@pytest.mark.parametrize(("ppg_fs", "ecg_fs"), [(62.4725, 249.89), (40, 500)])
def test_other_rates(nk, ppg_fs, ecg_fs):
    ppg, ecg = (at_rate(x[:4], fs) for x, fs in zip(windows(1, 4), (ppg_fs, ecg_fs), strict=True))
    rates = {"ppg_fs": ppg_fs, "ecg_fs": ecg_fs}
    found, expected = (apply_recipe(ppg, ecg, **rates, recipe=which) for which in ("batched", "neurokit2"))
    assert found.ppg.shape == (4, 1000)
    for name in ("ppg", "ppg_quality", "ecg_quality"):  # the ECG is taken at the times of the slower PPG
        a, b = getattr(found, name), getattr(expected, name)
        np.testing.assert_allclose(a.astype(float), b.astype(float), atol=1e-3, rtol=0)
    assert not np.array_equal(found.ecg, expected.ecg)
    for x, fs in ((ppg, ppg_fs), (ecg, ecg_fs)):
        both = [apply_recipe(x, x, ppg_fs=fs, ecg_fs=fs, recipe=which) for which in ("batched", "neurokit2")]
        for a, b in zip(*(made[:4] for made in both), strict=True):
            np.testing.assert_allclose(a.astype(float), b.astype(float), atol=1e-3, rtol=0)


@pytest.mark.parametrize("fs", [20, 25, 29.97])
def test_low_rates(nk, fs):
    ppg, ecg = (at_rate(x[::2], fs) for x in hard_windows())
    rates = {"ppg_fs": fs, "ecg_fs": fs}
    found, expected = (apply_recipe(ppg, ecg, **rates, recipe=which) for which in ("batched", "neurokit2"))
    assert len(set(found.reason)) > 1
    np.testing.assert_array_equal(found.reason, expected.reason)
    for name in ("ppg", "ecg"):
        a, b = (getattr(made, name).astype(float) for made in (found, expected))
        np.testing.assert_allclose(a, b, rtol=0, atol=5e-4)
        quality = [getattr(made, f"{name}_quality") for made in (found, expected)]
        np.testing.assert_allclose(*quality, atol=1e-9, rtol=0)


@pytest.mark.parametrize("recipe", ["batched", "neurokit2"])
def test_ppg_alone_gives_the_same_ppg(nk, recipe):
    ppg, ecg = (x[:30:3] for x in hard_windows())
    both = apply_recipe(ppg, ecg, ppg_fs=FS, ecg_fs=FS, recipe=recipe)
    alone = apply_recipe(ppg, None, ppg_fs=FS, ecg_fs=None, recipe=recipe)
    assert alone.ecg.shape == (len(ppg), 0)
    assert np.isnan(alone.ecg_quality).all()
    good = both.reason == ""
    assert good.any()
    assert (alone.reason[good] == "").all()
    np.testing.assert_array_equal(alone.ppg[good], both.ppg[good])
    np.testing.assert_array_equal(alone.ppg_quality[good], both.ppg_quality[good])
    assert set(alone.reason) <= {"", "missing ppg", "constant ppg", "too few ppg beats"}
    assert apply_recipe(ppg[:0], ppg_fs=FS).ecg.shape == (0, 0)


def test_missing_and_constant_windows():
    ppg, ecg = (x[:6].copy() for x in windows(2, 3))
    ppg[0, 100:110] = np.nan
    ppg[1, :200] = np.nan
    ecg[2] = 1.5
    ecg[3] = np.inf
    ppg[4, :10] = np.nan
    found = apply_recipe(ppg, ecg, ppg_fs=FS, ecg_fs=FS)
    assert found.reason.tolist() == ["", "missing ppg", "constant ecg", "missing ecg", "", ""]
    assert np.isfinite(found.ppg).all()
    assert not found.ppg[1].any()
    filled = ppg.copy()
    filled[0, 100:110], filled[4, :10] = ppg[0, 99], ppg[4, 10]
    expected = apply_recipe(filled, ecg, ppg_fs=FS, ecg_fs=FS)
    np.testing.assert_array_equal(found.ppg[[0, 4]], expected.ppg[[0, 4]])
    assert apply_recipe(ppg[:0], ecg[:0], ppg_fs=FS, ecg_fs=FS).ppg.shape == (0, 1000)
    single = apply_recipe(ppg[5:], ecg[5:], ppg_fs=FS, ecg_fs=FS)
    np.testing.assert_array_equal(single.ecg[0], found.ecg[5])  # windows do not know each other


def test_bad_arguments():
    x = np.zeros((2, 1250))
    rates = {"ppg_fs": FS, "ecg_fs": FS}
    with pytest.raises(ValueError, match=r"ecg: expected windows \[K, samples\].* got shape \(3, 1250\)"):
        apply_recipe(x, np.zeros((3, 1250)), **rates)
    for name, low in (("ppg_fs", 10), ("ecg_fs", 16)):
        with pytest.raises(ValueError, match=f"{name}: expected more than 16 Hz, twice the .*band-pass, got {low} Hz"):
            apply_recipe(x, x, **rates | {name: low})
    with pytest.raises(ValueError, match="ecg_fs: expected a rate if and only if there is ECG, got 125"):
        apply_recipe(x, **rates)
    with pytest.raises(ValueError, match="ppg: expected windows of at least 4 s, got 1250 samples at 500 Hz"):
        apply_recipe(x, x, ppg_fs=500, ecg_fs=FS)
    with pytest.raises(ValueError, match="recipe: expected one of 'batched', 'neurokit2', got 'x'"):
        apply_recipe(x, x, **rates, recipe="x")
