"""The random numbers of augmentations, drawn on any device with the bits of NumPy's Philox4x64-10."""

from __future__ import annotations

import torch
from torch import Tensor

_MULTIPLIERS = 0xD2E7470EE14C6C93, 0xCA5A826395121157
_WEYL = 0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B
_LOW = (1 << 32) - 1
_PORTION = 1 << 20  # segments at a time


def draw_augmentations(items: Tensor, seed: int, epoch: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """What `augment.draw_augmentation` draws for PPG and ECG of each segment.

    Args:
        items: [k] int64, the numbers of the segments in the data set.
        seed, epoch: decide the draws together with the item.
        dtype: of the factors.

    Returns:
        factors [k, 2], negative where the ECG is flipped, and shifts [k, 2] int64.
    """
    parts = [_draw(part, seed, epoch, dtype) for part in items.split(_PORTION)]
    factors, shifts = zip(*parts, strict=True)
    return torch.cat(factors), torch.cat(shifts)


def _draw(items: Tensor, seed: int, epoch: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    factors, shifts = [], []
    for k in range(2):
        choice, scale, shift, flip = uniforms(items, seed, epoch, k + 1)
        scaling = choice < 0.5
        factor = torch.where(scaling, 0.8 + 0.4 * scale, 1.0)
        factors.append(torch.where(flip < 0.5, -factor, factor) if k else factor)
        shifts.append(torch.where(scaling, 0, (14 * shift - 7).trunc().long()))
    return rounded(torch.stack(factors, 1), dtype), torch.stack(shifts, 1)


def uniforms(items: Tensor, seed: int, epoch: int, block: int) -> list[Tensor]:
    """Four numbers in [0, 1) for each item [k], float64 [k] each: those of numbers 4 (block - 1) to 4 block - 1 of
    numpy.random.Generator(Philox(key=[seed, epoch], counter=[0, 0, 0, item])).random()."""
    zero = torch.zeros_like(items)
    c = [zero + block, zero, zero, items]
    keys = [seed, epoch]
    for _ in range(10):
        (high_a, low_a), (high_b, low_b) = _product(_MULTIPLIERS[0], c[0]), _product(_MULTIPLIERS[1], c[2])
        c = [high_b ^ c[1] ^ _signed(keys[0]), low_b, high_a ^ c[3] ^ _signed(keys[1]), low_a]
        keys = [key + weyl for key, weyl in zip(keys, _WEYL, strict=True)]
    return [((word >> 11) & ((1 << 53) - 1)).double() * 2.0**-53 for word in c]


def _product(factor: int, x: Tensor) -> tuple[Tensor, Tensor]:
    """The upper and the lower 64 bits of the product of unsigned numbers; int64 holds their bits."""
    f0, f1, x0, x1 = factor & _LOW, factor >> 32, x & _LOW, (x >> 32) & _LOW
    p00, p01, p10, p11 = (a * _signed(b) for a, b in ((x0, f0), (x1, f0), (x0, f1), (x1, f1)))
    middle = _upper(p00) + (p01 & _LOW) + (p10 & _LOW)
    return p11 + _upper(p01) + _upper(p10) + _upper(middle), x * _signed(factor)


def _upper(x: Tensor) -> Tensor:
    return (x >> 32) & _LOW


def _signed(value: int) -> int:
    """The number that has in int64 the lowest 64 bits of `value`."""
    value &= (1 << 64) - 1
    return value - (1 << 64) if value >> 63 else value


def rounded(x: Tensor, dtype: torch.dtype) -> Tensor:
    """x, float64, rounded to the nearest number of `dtype` once.

    torch rounds float64 to float16 by way of float32, and twice: so float32 numbers are rounded to odd first.
    """
    single = x.float()
    if dtype != torch.float16:
        return single.to(dtype)
    bits = single.view(torch.int32)
    towards_zero = torch.where(single.double().abs() > x.abs(), bits - 1, bits)
    odd = torch.where(single.double() == x, bits, towards_zero | 1)
    return odd.view(torch.float32).half()
