"""What is special to random_masking: distribution, streams, seeds, threads, errors. Values are in test_ops."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from xmae_fast import random_masking
from xmae_fast.ops.random_masking import MODES, masks_from_seed
from xmae_fast.ops.random_masking.reference import philox_words

IMPLS = ("reference", "cpu")


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def runs(mask_row: torch.Tensor) -> int:
    """Number of maximal runs of True."""
    row = mask_row.int()
    return int(row[0] + ((row[1:] - row[:-1]) == 1).sum())


@pytest.mark.parametrize("rng", ["fast", "exact"])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("impl", IMPLS)
def test_result_is_a_mask(mode, rng, impl, need_impl):
    need_impl("random_masking", impl)
    mask = random_masking(200, 25, 0.8, mode, rng=rng, generator=seeded(1), impl=impl)
    assert mask.patch_mask.dtype == torch.bool
    assert mask.ids_keep.dtype == mask.ids_restore.dtype == torch.int64
    assert (mask.patch_mask.sum(1) == 20).all()
    shuffled = torch.cat([mask.ids_keep, mask.patch_mask.nonzero()[:, 1].view(200, 20)], dim=1)
    assert torch.equal(shuffled.gather(1, mask.ids_restore), torch.arange(25).expand(200, 25))
    assert torch.equal(mask.ids_keep, mask.ids_keep.sort(1).values)
    assert not mask.patch_mask.gather(1, mask.ids_keep).any()
    if mode == "anchor":
        assert all(runs(~row) == 1 for row in mask.patch_mask)
    if mode == "block":
        assert all(runs(row) == 1 for row in mask.patch_mask)
    if mode == "mixed":
        blocks = sum(runs(row) == 1 for row in mask.patch_mask)
        assert 60 < blocks < 140  # half of 200, and a scatter row is a single run about once in 9000


@pytest.mark.parametrize("mode", ["scatter", "block", "anchor"])
def test_fast_and_exact_have_the_same_distribution(mode):
    """Start positions (or patch frequencies) of 40,000 rows against the uniform law: chi-square at 1e-6."""
    B, N, k = 40_000, 10, 4
    for rng in ("fast", "exact"):
        mask = random_masking(B, N, k / N, mode, rng=rng, generator=seeded(3)).patch_mask
        if mode == "scatter":
            counts, expected, spread = mask.sum(0), B * k / N, 1 - k / N
        else:
            run = mask if mode == "block" else ~mask
            starts = run.int().argmax(1)
            choices = N - k + 1 if mode == "block" else k + 1
            counts, expected, spread = torch.bincount(starts, minlength=choices), B / choices, 1.0
            assert len(counts) == choices
        chi_square = float(((counts - expected) ** 2).sum() / expected / spread)
        assert chi_square < 60, (rng, counts)  # at most 10 degrees of freedom


def test_philox_words_are_those_of_the_paper():
    """Known answers of Random123 for philox4x32-10: counter and key all zero, and all ones."""
    zero = philox_words(torch.zeros(2, dtype=torch.int64), 1, 1)[0]
    assert [hex(int(word)) for word in zero] == ["0x6627e8d5", "0xe169c58d", "0xbc57ac4c", "0x9b00dbd8"]


@pytest.mark.parametrize("impl", IMPLS)
def test_seed_decides_and_offsets_differ(impl, need_impl):
    need_impl("random_masking", impl)
    first = random_masking(64, 25, 0.8, generator=seeded(5), impl=impl)
    again = random_masking(64, 25, 0.8, generator=seeded(5), impl=impl)
    other = random_masking(64, 25, 0.8, generator=seeded(6), impl=impl)
    assert torch.equal(first.ids_restore, again.ids_restore)
    assert not torch.equal(first.ids_restore, other.ids_restore)
    at = [masks_from_seed(torch.tensor([7, offset]), 64, 25, 20, "anchor", impl=impl).ids_keep for offset in (0, 1)]
    assert not torch.equal(*at)


def test_default_generator_is_used_and_advances():
    torch.manual_seed(4)
    first, second = random_masking(64, 25, 0.8), random_masking(64, 25, 0.8)
    assert not torch.equal(first.ids_keep, second.ids_keep)
    torch.manual_seed(4)
    assert torch.equal(random_masking(64, 25, 0.8).ids_keep, first.ids_keep)


@pytest.mark.parametrize("mode", MODES)
def test_same_for_every_thread_count(mode, need_impl):
    need_impl("random_masking", "cpu")
    seed = torch.tensor([11, 0])
    masks = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        masks.append(masks_from_seed(seed, 20_000, 25, 20, mode, impl="cpu"))
    for other in masks[1:]:
        assert all(torch.equal(a, b) for a, b in zip(masks[0], other, strict=True))


def test_rows_do_not_depend_on_the_batch(need_impl):
    need_impl("random_masking", "cpu")
    seed = torch.tensor([12, 0])
    small, large = (masks_from_seed(seed, B, 25, 20, "scatter", impl="cpu").ids_keep for B in (10, 1000))
    assert torch.equal(small, large[:10])


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("rng", ["fast", "exact"])
@pytest.mark.parametrize("ratio", [0.0, 1.0, 0.01])
def test_nothing_to_choose_draws_nothing(mode, rng, ratio):
    generator = seeded(9)
    before = generator.get_state()
    mask = random_masking(3, 25, ratio, mode, rng=rng, generator=generator)
    assert torch.equal(generator.get_state(), before)
    assert mask.patch_mask.float().mean() == round(ratio)
    assert torch.equal(mask.ids_restore, torch.arange(25).expand(3, 25))
    assert mask.ids_keep.shape == (3, 25 if ratio < 1 else 0)


@pytest.mark.parametrize("impl", IMPLS)
def test_exact_follows_the_default_dtype(impl, need_impl):
    """The published torch.rand draws in the default dtype; float64 scores give other masks than float32 ones."""
    need_impl("random_masking", impl)
    torch.set_default_dtype(torch.float64)
    try:
        got = random_masking(6, 25, 0.5, "mixed", rng="exact", generator=seeded(2), impl=impl)
        want = random_masking(6, 25, 0.5, "mixed", rng="exact", generator=seeded(2), impl="reference")
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(got.ids_restore, want.ids_restore)


def test_equal_scores_are_taken_by_position(need_impl):
    need_impl("random_masking", "cpu")
    scores = torch.tensor([[0.5, 0.5, 0.25, 0.5, 0.5, 0.25, 0.5]])
    draws = scores, torch.zeros(1, dtype=torch.int64), torch.zeros(1)
    patch_mask, _, _ = torch.ops.xmae_fast.masks_from_draws(*draws, 4, 0)
    assert patch_mask.int().tolist() == [[1, 1, 1, 0, 0, 1, 0]]


def test_python_rounding():
    assert random_masking(1, 10, 0.25).patch_mask.sum() == 2  # 2.5 rounds to even
    assert random_masking(1, 10, 0.35).patch_mask.sum() == 4


def test_unknown_mode_means_anchor_only_in_exact():
    with pytest.warns(UserWarning, match="'nonsense' is unknown"):
        mask = random_masking(4, 25, 0.8, "nonsense", rng="exact", generator=seeded(1))
    want = random_masking(4, 25, 0.8, "anchor", rng="exact", generator=seeded(1))
    assert torch.equal(mask.ids_keep, want.ids_keep)
    with pytest.raises(
        ValueError, match=r"mode: expected one of 'scatter', 'block', 'anchor', 'mixed', got 'nonsense'"
    ):
        random_masking(4, 25, 0.8, "nonsense")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((-1, 25, 0.5), "B: expected a whole number >= 0, got -1"),
        ((2.5, 25, 0.5), "B: expected a whole number >= 0, got 2.5"),
        ((2, 0, 0.5), "N: expected a whole number >= 1, got 0"),
        ((2, 25, 1.5), r"ratio: expected a number in \[0, 1\], got 1.5"),
        ((2, 25, -0.1), r"ratio: expected a number in \[0, 1\], got -0.1"),
        ((2, 25, float("nan")), r"ratio: expected a number in \[0, 1\], got nan"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        random_masking(*arguments)


def test_bad_choices():
    with pytest.raises(ValueError, match="rng: expected 'fast' or 'exact', got 'slow'"):
        random_masking(2, 25, 0.5, rng="slow")
    with pytest.raises(ValueError, match="impl: expected 'auto' or one of .*, got 'gpu'"):
        random_masking(2, 25, 0.5, impl="gpu")
    with pytest.raises(RuntimeError, match="impl='triton' was asked for random_masking(, but|: expected)"):
        random_masking(2, 25, 0.5, impl="triton")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda op: op.masks_philox(torch.zeros(2), 2, 25, 5, 0), "seed to be a contiguous int64"),
        (lambda op: op.masks_philox(torch.zeros(2, dtype=torch.int64), 2, 25, 26, 0), "0 <= k <= N = 25, got k = 26"),
        (lambda op: op.masks_philox(torch.zeros(2, dtype=torch.int64), 2, 0, 0, 0), "N >= 1"),
        (lambda op: op.masks_philox(torch.zeros(2, dtype=torch.int64), 2, 25, 5, 7), "mode 0..3, got 7"),
        (
            lambda op: op.masks_from_draws(torch.rand(2, 9), torch.tensor([0, 99]), torch.rand(2), 3, 1),
            "every start in 0..6",
        ),
        (
            lambda op: op.masks_from_draws(torch.rand(2, 9).half(), torch.tensor([0, 1]), torch.rand(2), 3, 0),
            "float32 or float64",
        ),
    ],
)
def test_the_operator_itself_refuses_what_it_cannot_do(call, message, need_impl):
    need_impl("random_masking", "cpu")
    with pytest.raises(RuntimeError, match=message):
        call(torch.ops.xmae_fast)


def test_bad_arguments_of_masks_from_seed():
    seed = torch.zeros(2, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"k: expected a whole number in 0\.\.25, got 26"):
        masks_from_seed(seed, 2, 25, 26, "anchor")
    with pytest.raises(ValueError, match="mode: expected one of .*, got 'run'"):
        masks_from_seed(seed, 2, 25, 20, "run")
    with pytest.raises(ValueError, match=r"seed: expected int64 of shape \[2\], got torch.float32 of shape \[2\]"):
        masks_from_seed(seed.float(), 2, 25, 20, "anchor")


def test_numpy_sizes_are_welcome():
    assert random_masking(np.int64(2), np.int32(25), np.float32(0.8)).ids_keep.shape == (2, 5)
