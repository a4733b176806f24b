"""Mask kernels give the masks of the oracle, and so of the CPU kernels, bit for bit."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.ops.interpreted.checks import CONFIGS, check, each, poisoned_memory
from xmae_fast.ops import random_masking
from xmae_fast.ops.cases import cases
from xmae_fast.ops.random_masking import MODES
from xmae_fast.ops.random_masking.cases import CASES

# A key is compared with all others one by one, each in a turn of Python's: long rows of "mixed" would add nothing.
CHECKED = replace(CASES, tests=tuple(c for c in CASES.tests if c.sizes["N"] < 64 or c.sizes["mode"] != "mixed"))


@each(CHECKED)
def test_masks_of_a_seed(case):
    check(CASES, case)


@pytest.mark.parametrize("config", CONFIGS[1:])
@pytest.mark.parametrize("mode", MODES)
def test_other_configurations(mode, config):
    (case,) = cases({"B": 9, "N": 25, "k": 20, "mode": mode})
    check(CASES, case, config=config)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("B", "N", "ratio"), [(9, 25, 0.8), (3, 1, 0.0), (4, 7, 1.0), (3, 33, 0.5)])
def test_masks_of_published_draws(mode, B, N, ratio):
    def draw(impl):
        generator = torch.Generator().manual_seed(5)
        return random_masking(B, N, ratio, mode, rng="exact", generator=generator, impl=impl)

    with poisoned_memory():
        for got, want in zip(draw("triton"), draw("reference"), strict=True):
            assert torch.equal(got, want)
            assert got.dtype == want.dtype
