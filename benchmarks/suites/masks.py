"""Masks of one training batch: the published row loop, vectorised PyTorch, and random_masking."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

from benchmarks.harness.contest import BASELINE, OURS, PLAIN, Contestant, Group
from benchmarks.harness.context import MASK_RATIO, Context
from benchmarks.harness.numerics import check_equal
from benchmarks.harness.timing import Run
from benchmarks.models.stock import Masks, published_masks, sorted_masks
from xmae_fast import random_masking
from xmae_fast.ops.random_masking import MODES
from xmae_fast.testing import Error

B, N = 512, 25
K = round(MASK_RATIO * N)
NAMES = ("patch_mask", "ids_keep", "ids_restore", "next random number")
SEED = 77


def groups(context: Context) -> Iterator[Group]:
    """One group per mode, B=512, N=25, ratio 0.8."""
    for mode in MODES:
        title = f"masks {mode}: B={B} N={N} ratio={MASK_RATIO}"
        yield Group(title, _contestants(mode, context.device), items=B, unit="rows")


def _contestants(mode: str, device: torch.device) -> list[Contestant]:
    def exact(impl: str) -> Masks:
        return tuple(random_masking(B, N, MASK_RATIO, mode, rng="exact", device=device, impl=impl))

    def published(name: str, role: str, make: Callable[[], Masks]) -> Contestant:
        return Contestant(name, lambda: lambda i: make(), lambda run: _check_exact(run, mode, device), role)

    def fast(i: int) -> Masks:
        return tuple(random_masking(B, N, MASK_RATIO, mode, device=device))

    return [
        published("published row loop", PLAIN, lambda: published_masks(B, N, K, mode, device)),
        published("vectorised, sorts (as MAE)", BASELINE, lambda: sorted_masks(B, N, K, mode, device)),
        published("vectorised, rng=exact reference", BASELINE, lambda: exact("reference")),
        published("xmae_fast rng=exact", OURS, lambda: exact("auto")),
        Contestant("xmae_fast rng=fast", lambda: fast, lambda run: _check_fast(run, mode, device), OURS),
    ]


def _check_exact(run: Run, mode: str, device: torch.device) -> list[Error]:
    """The masks, and the state of the generator afterwards, are those of the published procedure."""

    def draw(make: Callable[[], Masks]) -> tuple[torch.Tensor, ...]:
        torch.manual_seed(SEED)
        return *make(), torch.rand(1, device=device)

    return check_equal(draw(lambda: run(0)), draw(lambda: published_masks(B, N, K, mode, device)), NAMES)


def _check_fast(run: Run, mode: str, device: torch.device) -> list[Error]:
    """The masks are the reference's from the same state of the generator."""
    torch.manual_seed(SEED)
    got = run(0)
    torch.manual_seed(SEED)
    return check_equal(got, random_masking(B, N, MASK_RATIO, mode, device=device, impl="reference"), NAMES[:3])
