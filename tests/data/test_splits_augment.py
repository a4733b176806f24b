from itertools import chain

import numpy as np
import pytest

from xmae_fast.data import AugmentDraw, apply_augmentation, draw_augmentation, split_subjects
from xmae_fast.data.augment import min_max, segment_problem


def names(n):
    return [f"mimic_p{i:05d}" for i in range(n)]


@pytest.mark.parametrize("size", [3, 4, 5, 10, 19, 20, 21, 39, 40, 41, 60, 100, 399, 400, 401, 1000, 5361])
@pytest.mark.parametrize("seed", [0, 77, 2**32 - 1])
def test_split_equals_scikit_learn(size, seed):
    model_selection = pytest.importorskip("sklearn.model_selection", reason="scikit-learn: pip install xmae_fast[eval]")
    everyone = names(size)
    shuffled = list(np.random.default_rng(1).permutation(everyone))
    rest, test = model_selection.train_test_split(everyone, test_size=0.05, random_state=seed)
    train, val = model_selection.train_test_split(rest, test_size=0.05, random_state=seed)
    assert split_subjects(map(str, shuffled), seed) == {"train": train, "val": val, "test": test}


@pytest.mark.parametrize(("size", "parts"), [(3, (1, 1, 1)), (10, (8, 1, 1)), (5361, (4837, 255, 269))])
def test_split_sizes_and_disjointness(size, parts):
    split = split_subjects(names(size))
    assert tuple(len(split[k]) for k in ("train", "val", "test")) == parts
    assert sorted(chain(*split.values())) == names(size)


def test_repeated_names_do_not_leak():
    assert split_subjects(names(50) * 3) == split_subjects(names(50))
    assert split_subjects(names(50), 1) != split_subjects(names(50), 2)


def test_vital_subjects_are_left_out():
    assert split_subjects([*names(30), "vital_1", "vital_2"]) == split_subjects(names(30))
    let_in = split_subjects(["vital_1", *names(30)], exclude_prefixes=())
    assert "vital_1" in chain(*let_in.values())


@pytest.mark.parametrize("few", [[], names(1), names(2), [*names(2), "vital_1"]])
def test_too_few_subjects(few):
    with pytest.raises(ValueError, match="subjects: expected at least 3"):
        split_subjects(few)


def test_draws_have_the_published_distribution():
    rng = np.random.default_rng(0)
    draws = [draw_augmentation(rng) for _ in range(20_000)]
    scaled = np.array([d.scale for d in draws if d.scale != 1])
    shifts = np.array([d.shift for d in draws if d.scale == 1])
    assert all(d.shift == 0 for d in draws if d.scale != 1)
    assert abs(len(scaled) / 20_000 - 0.5) < 0.015
    assert abs(np.mean([d.flip for d in draws]) - 0.5) < 0.015
    assert scaled.min() >= 0.8
    assert scaled.max() <= 1.2
    assert abs(scaled.mean() - 1) < 0.005
    values, counts = np.unique(shifts, return_counts=True)
    np.testing.assert_array_equal(values, np.arange(-6, 7))
    share = counts / counts.sum()
    np.testing.assert_allclose(share[6], 2 / 14, atol=0.015)
    np.testing.assert_allclose(np.delete(share, 6), 1 / 14, atol=0.012)


def test_a_draw_always_takes_four_numbers():
    rng, twin = np.random.default_rng(1), np.random.default_rng(1)
    for _ in range(50):
        draw_augmentation(rng)
        twin.random(4)
    assert rng.random() == twin.random()


@pytest.mark.parametrize("shift", [-6, -1, 0, 1, 6])
def test_shift_repeats_the_edge(shift):
    x = np.arange(10, dtype=np.float16)
    expected = np.clip(np.arange(10) - shift, 0, 9).astype(np.float16)
    np.testing.assert_array_equal(apply_augmentation(x, AugmentDraw(1.0, shift, False), is_ecg=False), expected)


def test_flip_is_for_ecg_only_and_input_is_untouched():
    x = np.linspace(-1, 1, 11, dtype=np.float16)
    before = x.copy()
    flip = AugmentDraw(1.0, 0, True)
    np.testing.assert_array_equal(apply_augmentation(x, flip, is_ecg=True), -before)
    out = apply_augmentation(x, flip, is_ecg=False)
    np.testing.assert_array_equal(out, before)
    out[:] = 0
    np.testing.assert_array_equal(x, before)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_scale_keeps_the_arithmetic_type(dtype):
    x = np.linspace(-1, 1, 100, dtype=dtype)
    out = apply_augmentation(x, AugmentDraw(0.87, 0, False), is_ecg=False)
    assert out.dtype == dtype
    np.testing.assert_array_equal(out, x * dtype(0.87))


def test_min_max_in_float16_is_the_published_rounding():
    x = np.random.default_rng(2).uniform(-1, 1, 1000).astype(np.float16)
    half, single = min_max(x), min_max(x.astype(np.float32))
    for out in (half, single):
        assert out.dtype == np.float32
        assert (out.min(), out.max()) == (-1, 1)
    np.testing.assert_array_equal(half, half.astype(np.float16))
    assert 0 < np.abs(half - single).max() < 0.003


@pytest.mark.parametrize(
    ("column", "problem"),
    [
        (np.linspace(-1, 1, 20), ""),
        (np.r_[np.zeros(19), 6e-8], ""),
        (np.full(20, 0.3), "constant"),
        (np.r_[np.zeros(19), np.nan], "non-finite"),
        (np.r_[np.zeros(19), -np.inf], "non-finite"),
        (np.full(20, np.inf), "non-finite"),
        (np.r_[np.zeros(19), 30000.0], "non-finite"),
    ],
)
@pytest.mark.parametrize("position", [0, 1])
def test_problem_segments(column, problem, position):
    signals = np.tile(np.linspace(-1, 1, 20), (2, 1)).T.astype(np.float16)
    signals[:, position] = column
    assert segment_problem(signals) == problem
    if not problem:
        for scale in (0.8, 1.2):
            scaled = apply_augmentation(signals[:, position], AugmentDraw(scale, 0, True), is_ecg=True)
            assert np.isfinite(min_max(scaled)).all()
