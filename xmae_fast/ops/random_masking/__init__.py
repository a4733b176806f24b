"""random_masking: which patches a sample shows and which it hides."""

from __future__ import annotations

import numbers
import warnings
from typing import NamedTuple

import torch
from torch import Tensor

from xmae_fast import backend
from xmae_fast.ops.random_masking import reference, schema

backend.register("random_masking", "cpu", "masks_philox")
backend.register("random_masking", "triton", "masks_philox_triton")

MODES = tuple(reference.MODES)


class PatchMask(NamedTuple):
    """Result of `random_masking`.

    patch_mask: [B, N] bool, True = masked. ids_keep: [B, N - k] int64, visible patches ascending.
    ids_restore: [B, N] int64, the inverse of the permutation [kept..., masked...].
    """

    patch_mask: Tensor
    ids_keep: Tensor
    ids_restore: Tensor


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
        B: samples, >= 0.
        N: patches of a sample, >= 1.
        ratio: masked share, in [0, 1].
        mode: "scatter" k random patches; "block" one contiguous masked run; "anchor" one contiguous visible run;
            "mixed" each row block or scatter, half and half.
        rng: "fast" draws one seed from `generator` and takes counter-based numbers from it (Philox4x32-10): the same on
            every device and for any number of threads. "exact" makes the random calls of the published code, so a given
            generator state gives its masks bit for bit; there, as published, any other mode name means "anchor".
        generator: where random numbers come from; default: torch's default generator (of the CPU for "fast", of
            `device` for "exact").
        device: where the result lies; default: torch's default device.
        impl: "auto", "reference", "cpu", "triton" or "cuda".

    Returns:
        PatchMask(patch_mask, ids_keep, ids_restore).

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
        if chosen == "reference":
            return PatchMask(*reference.masks_from_draws(*draws, k, mode))
        return PatchMask(*schema.MASKS_FROM_DRAWS[chosen](*draws, k, reference.MODES[mode]))
    seed = _draw_seed(generator, device) if 0 < k < N else torch.zeros(2, dtype=torch.int64, device=device)
    return _masks_from_seed(seed, B, N, k, mode, chosen)


def masks_from_seed(seed: Tensor, B: int, N: int, k: int, mode: str, *, impl: str = "auto") -> PatchMask:
    """`random_masking(rng="fast")` with the seed given: int64 [2], (seed, offset), on the device of the result.

    One seed with offsets 0, 1, 2, ... gives independent masks without asking a generator (and so without
    synchronising a GPU). k is the number of masked patches, 0 <= k <= N. ValueError names a wrong argument.
    """
    _check(B, N, 0.0, mode, "fast")
    if not 0 <= k <= N:
        raise ValueError(f"k: expected a whole number in 0..{N}, got {k!r}")
    if seed.shape != (2,) or seed.dtype != torch.int64:
        raise ValueError(f"seed: expected int64 of shape [2], got {seed.dtype} of shape {list(seed.shape)}")
    return _masks_from_seed(seed, B, N, k, mode, backend.resolve("random_masking", impl, seed.device))


def _masks_from_seed(seed: Tensor, B: int, N: int, k: int, mode: str, chosen: str) -> PatchMask:
    if chosen == "reference":
        return PatchMask(*reference.masks_philox(seed, B, N, k, mode))
    return PatchMask(*schema.MASKS_PHILOX[chosen](seed, B, N, k, reference.MODES[mode]))


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
