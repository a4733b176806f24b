"""random_masking: which patches a sample shows and which it hides."""

from __future__ import annotations

import numbers
import warnings
from typing import NamedTuple

import torch
from torch import Tensor

from xmae_fast import backend
from xmae_fast.ops.random_masking import reference
from xmae_fast.ops.random_masking.operators import OPERATORS

backend.declare("random_masking", in_model=False)
backend.register("random_masking", "cpu", ("masks_philox", "masks_from_draws"))
backend.register("random_masking", "triton", ("masks_philox_triton", "masks_from_draws_triton"))

MODES = tuple(reference.MODES)


class PatchMask(NamedTuple):
    """Result of `random_masking`."""

    patch_mask: Tensor  # [B, N] bool, True where a patch is masked
    ids_keep: Tensor  # [B, N - k] int64, the visible patches in ascending order
    ids_restore: Tensor  # [B, N] int64, the inverse of the permutation [kept..., masked...]


def random_masking(
    B: int,
    N: int,
    ratio: float,
    mode: str = "anchor",
    *,
    rng: str = "fast",
    generator: torch.Generator | None = None,
    device: torch.device | str | None = None,
    impl: str = "auto",
) -> PatchMask:
    """Draw a patch mask for each of B samples.

    k = round(ratio * N) patches are masked (Python's rounding), V = N - k stay visible.

    Args:
        B: number of samples, >= 0.
        N: number of patches of a sample, >= 1.
        ratio: the share of patches that is masked, in [0, 1].
        mode: "scatter" masks k random patches; "block" masks one contiguous run; "anchor" leaves one contiguous run
            visible; "mixed" does to each row either what "block" or what "scatter" does, with equal chances.
        rng: "fast" draws one seed from `generator` and takes counter-based numbers from it (Philox4x32-10): the same on
            every device and for any number of threads. "exact" makes the random calls of the published code, so a given
            generator state gives its masks bit for bit; there, as published, any other mode name means "anchor".
        generator: where random numbers come from; default: torch's default generator (of the CPU for "fast", of
            `device` for "exact").
        device: where the result lies; default: torch's default device.
        impl: which implementation runs, see `xmae_fast.backend`.

    Returns:
        patch_mask [B, N], ids_keep [B, N - k] and ids_restore [B, N].

    Raises:
        ValueError: an argument is out of its range; the message names it.
        BackendError: `impl` cannot serve this call.

    k = 0 and k = N draw nothing. Source: the masking of xMAE, arXiv 2605.00973; Philox: Salmon et al., SC'11.
    """
    k, mode = _check(B, N, ratio, mode, rng)
    device = torch.empty(0).device if device is None else torch.device(device)
    chosen = backend.resolve("random_masking", impl, device)
    if rng == "exact":
        if not 0 < k < N:
            draws = (
                torch.zeros(B, N, device=device),
                torch.zeros(B, dtype=torch.int64, device=device),
                torch.zeros(B, device=device),
            )
        else:
            draws = reference.published_draws(B, N, k, mode, generator, device)
        if chosen != "reference":
            try:
                return PatchMask(*OPERATORS[chosen].masks_from_draws(*draws, k, reference.MODES[mode]))
            except backend.KernelFailure as failure:
                backend.do_without("random_masking", chosen, impl, failure)
        return PatchMask(*reference.masks_from_draws(*draws, k, mode))
    seed = _draw_seed(generator, device) if 0 < k < N else torch.zeros(2, dtype=torch.int64, device=device)
    return _masks_from_seed(seed, B, N, k, mode, impl, chosen)


def masks_from_seed(seed: Tensor, B: int, N: int, k: int, mode: str, *, impl: str = "auto") -> PatchMask:
    """`random_masking(rng="fast")` with the seed given.

    One seed with offsets 0, 1, 2, ... gives independent masks without asking a generator (and so without
    synchronising a GPU).

    Args:
        seed: [2] int64, (seed, offset), on the device on which the result is to be.
        B, N, mode, impl: as in `random_masking`.
        k: number of masked patches, 0 <= k <= N.

    Returns:
        patch_mask [B, N], ids_keep [B, N - k] and ids_restore [B, N].

    Raises:
        ValueError: an argument is out of its range; the message names it.
        BackendError: `impl` cannot serve this call.
    """
    _check(B, N, 0.0, mode, "fast")
    if not 0 <= k <= N:
        raise ValueError(f"k: expected a whole number in 0..{N}, got {k!r}")
    if seed.shape != (2,) or seed.dtype != torch.int64:
        raise ValueError(f"seed: expected int64 of shape [2], got {seed.dtype} of shape {list(seed.shape)}")
    return _masks_from_seed(seed, B, N, k, mode, impl, backend.resolve("random_masking", impl, seed.device))


def _masks_from_seed(seed: Tensor, B: int, N: int, k: int, mode: str, impl: str, chosen: str) -> PatchMask:
    if chosen != "reference":
        try:
            return PatchMask(*OPERATORS[chosen].masks_philox(seed, B, N, k, reference.MODES[mode]))
        except backend.KernelFailure as failure:
            backend.do_without("random_masking", chosen, impl, failure)
    return PatchMask(*reference.masks_philox(seed, B, N, k, mode))


def _draw_seed(generator: torch.Generator | None, device: torch.device) -> Tensor:
    source = "cpu" if generator is None else generator.device
    return torch.empty(2, dtype=torch.int64, device=source).random_(generator=generator).to(device)


def _check(B: int, N: int, ratio: float, mode: str, rng: str) -> tuple[int, str]:
    if not (type(B) is int or isinstance(B, numbers.Integral)) or B < 0:  # the ABC's check costs 0.3 us
        raise ValueError(f"B: expected a whole number >= 0, got {B!r}")
    if not (type(N) is int or isinstance(N, numbers.Integral)) or N < 1:
        raise ValueError(f"N: expected a whole number >= 1, got {N!r}")
    if not (type(ratio) is float or isinstance(ratio, numbers.Real)) or not 0 <= ratio <= 1:
        raise ValueError(f"ratio: expected a number in [0, 1], got {ratio!r}")
    if rng not in ("fast", "exact"):
        raise ValueError(f"rng: expected 'fast' or 'exact', got {rng!r}")
    if mode not in reference.MODES:
        if rng == "fast":
            raise ValueError(f"mode: expected one of {', '.join(map(repr, MODES))}, got {mode!r}")
        warnings.warn(
            f"mode {mode!r} is unknown; rng='exact' takes it for 'anchor', as the published code does", stacklevel=3
        )
        mode = "anchor"
    return min(max(round(ratio * N), 0), N), mode
