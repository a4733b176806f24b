"""How the stem's layers lie in the buffers of its Triton kernels. It follows from shapes alone. Imports no Triton.

The kernels run 17 convolutions with BatchNorm: the branches of an Inception, padded to seven taps, are one, because on
tensor cores each branch alone would be padded to as many columns. With skip and the four 1x1 convolutions of the
mixes these are the layers, in the order of `params.flatten`, so that a layer's weights are one range of the flat
buffer and its channels one range of the published order. Buffers:

    flat    weights, mixes, gammas, betas (, running means, running variances), concatenated
    packed  [tap][C_in padded][C_out padded] of each layer, padding zero; of one input channel: [16 taps][C_out padded]
    norms   float32 [5, channels + 1]: MEAN, RSTD, UNBIASED variance, SCALE = gamma rstd, BETA; last column: mean of x
    arena   float32, for each layer [splits][as packed]: partial weight gradients

Two stems of one layout may share the launches: then the second's part of `flat`, `packed` and `norms` and its splits
follow those of the first.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from xmae_fast.ops import _triton
from xmae_fast.ops.conv_stem.params import CONVS

UNITS = 17  # convolutions with BatchNorm and SiLU; unit u reads unit u - 1, except the first unit and those of mixes
DOWN1, DOWN2, SMOOTH2, SMOOTH1, HEAD = 4, 9, 14, 15, 16
E1, E2, E3 = 3, 8, 13  # the units that end the levels; mix2 = lat2(E2) + up(red3to2(E3)), mix1 likewise
SKIP, LAT2, LAT1, RED3TO2, RED2TO1 = range(UNITS, UNITS + 5)
# Units whose activation is stored, because its reader takes more than two taps of it per sample.
ACTIVATED = (1, 4, 6, 9, 11, 15)
CHUNK = 256  # elements of `packed` that are reduced together; all belong to one layer
PROGRAMS = 264  # at most so many for a stem's weight gradient: two on each of an H200's 132 multiprocessors
# A split has this many rows; fewer, but at least LEAST_ROWS, where a stem would have less than a quarter of PROGRAMS.
# The second of two stems sees a fifth of the signal, and as many splits for it would be as many partial sums to write.
ROWS_OF_SPLIT, LEAST_ROWS = 1024, 128


def padded(size: int) -> int:
    """The least power of two that holds `size`, at least 16, which tl.dot needs; `_launch.block` without Triton."""
    return max(16, 1 << (size - 1).bit_length())


class Layer(NamedTuple):
    """One convolution as the kernels run it."""

    k: int
    stride: int
    c_in: int
    c_out: int
    level: int  # level of its output, which has length L, L / 2 or L / 4
    packed: int  # where its weights begin in `packed`
    channel: int  # its first channel in `norms`

    @property
    def taps_inside(self) -> bool:
        """Whether it has a single input channel, so that taps are the rows of its matrix."""
        return self.c_in == 1

    @property
    def cin_pad(self) -> int:
        return 1 if self.taps_inside else padded(self.c_in)

    @property
    def cout_pad(self) -> int:
        return padded(self.c_out)

    @property
    def depth(self) -> int:
        """Rows of its packed matrix."""
        return 16 if self.taps_inside else self.k * self.cin_pad

    @property
    def size(self) -> int:
        return self.depth * self.cout_pad

    @property
    def constants(self) -> dict[str, int]:
        return {
            "C_IN": self.c_in, "CIN_PAD": self.cin_pad, "C_OUT": self.c_out, "COUT_PAD": self.cout_pad,
            "K": self.k, "STRIDE": self.stride,
        }  # fmt: skip


class Layout(NamedTuple):
    """All layers, and the sizes of the buffers."""

    layers: tuple[Layer, ...]
    packed: int
    weights: int  # numbers before the gammas in `flat`
    channels: int


@functools.lru_cache(maxsize=16)
def layout(widths: tuple[int, int, int], S: int) -> Layout:
    """The layout of a stem with these widths."""
    c1, c2, c3 = widths
    convs = []  # k, stride, c_in, c_out, level
    for level, (before, width) in enumerate(((1, c1), (c1, c2), (c2, c3))):
        convs += [(3, 2, before, width, level)] if level else []
        convs += [(7, 1, width if level else 1, width, level), (1, 1, width, width, level)]
        convs += [(7, 1, width, width, level), (1, 1, width, width, level)]
    convs += [(3, 1, c2, c2, 1), (3, 1, c1, c1, 0), (3, 1, c1, S, 0), (1, 1, 1, S, 0)]
    convs += [(1, 1, c2, c2, 1), (1, 1, c1, c1, 0), (1, 1, c3, c2, 2), (1, 1, c2, c1, 1)]
    layers, packed, weights, channels = [], 0, 0, 0
    for number, conv in enumerate(convs):
        layers.append(layer := Layer(*conv, packed, channels))
        packed += layer.size
        weights += sum(c_out * layer.c_in * k for c_out, k in _parts(layer))
        channels += layer.c_out if number <= SKIP else 0
    return Layout(tuple(layers), packed, weights, channels)


def layout_of(weights: Sequence[Tensor]) -> Layout:
    """The layout of a stem with these weights, in the order of `params.flatten`; further stems' are not looked at."""
    c1, (c2, c3) = weights[CONVS + 1].shape[0], weights[CONVS + 2].shape[:2]
    return layout((c1, c2, c3), weights[CONVS - 1].shape[0])


def lengths(L: int) -> tuple[int, int, int]:
    """The lengths of the three levels."""
    return L, (L + 1) // 2, ((L + 1) // 2 + 1) // 2


def kept_shapes(plan: Layout, sizes: Sequence[int]) -> list[tuple[int, ...]]:
    """Shapes of what training keeps: outputs of the units before BatchNorm, mix2, mix1, activations of `ACTIVATED`,
    packed weights.

    sizes: B and L of each stem.
    """
    each = [(B, lengths(L)) for B, L in zip(sizes[::2], sizes[1::2], strict=True)]
    rows = [sum(B * of_stem[level] for B, of_stem in each) for level in range(3)]
    layers = [*plan.layers[:UNITS], plan.layers[LAT2], plan.layers[LAT1], *(plan.layers[u] for u in ACTIVATED)]
    return [*((rows[layer.level], layer.c_out) for layer in layers), (len(each), plan.packed)]


def layout_of_kept(kept: Sequence[Tensor]) -> Layout:
    """The layout of a stem that kept these tensors."""
    c1, c2, c3, S = (kept[unit].shape[1] for unit in (0, DOWN1, DOWN2, HEAD))
    return layout((c1, c2, c3), S)


def _parts(layer: Layer) -> list[tuple[int, int]]:
    """Output channels and taps of the convolutions that make up a layer."""
    third = layer.c_out // 3
    return [(third, 3), (third, 5), (layer.c_out - 2 * third, 7)] if layer.k == 7 else [(layer.c_out, layer.k)]


def _gather(plan: Layout) -> np.ndarray:
    """int32 [packed]: which number of `flat` each number of `packed` is; -1: padding."""
    out = np.full(plan.packed, -1, np.int32)
    at = 0
    for layer in plan.layers:
        matrix = out[layer.packed : layer.packed + layer.size].reshape(layer.depth, layer.cout_pad)
        taps = matrix[: layer.k * layer.cin_pad].reshape(layer.k, layer.cin_pad, layer.cout_pad)
        first = 0
        for c_out, k in _parts(layer):
            numbers = at + np.arange(c_out * layer.c_in * k).reshape(c_out, layer.c_in, k)
            margin = (layer.k - k) // 2
            taps[margin : margin + k, : layer.c_in, first : first + c_out] = numbers.transpose(2, 1, 0)
            at, first = at + numbers.size, first + c_out
    return out


def splits(layer: Layer, rows: int, block_j: int, block_co: int) -> int:
    """Into how many parts the rows of a weight gradient are split; the same on every device."""
    tiles = -(-layer.depth // block_j) * -(-layer.cout_pad // block_co)
    wanted = max(-(-rows // ROWS_OF_SPLIT), min(-(-rows // LEAST_ROWS), PROGRAMS // (4 * tiles)))
    return max(1, min(PROGRAMS // tiles, wanted))


def _reductions(plan: Layout, parts: tuple[tuple[int, ...], ...]) -> np.ndarray:
    """int32 [stems, packed / CHUNK, 3]: for each chunk of `packed` where its first part lies in the arena, the distance
    to the next part, and how many parts there are (0 for skip, whose gradient has a formula).

    parts: for each layer, how many parts each stem has.
    """
    stems: list[list[tuple[int, int, int]]] = [[] for _ in parts[0]]
    at = 0
    for layer, counts in zip(plan.layers, parts, strict=True):
        for out, count in zip(stems, counts, strict=True):
            out += [(at + chunk, layer.size, count) for chunk in range(0, layer.size, CHUNK)]
            at += layer.size * count
    return np.array(stems, np.int32)


@functools.lru_cache(maxsize=64)
def _kept_on(device: torch.device, make, *args) -> Tensor:
    return torch.from_numpy(make(*args)).to(device)


def _on(like: Tensor, make, *args) -> Tensor:
    """`make(*args)` on the device of `like`, made once and then kept; while launches are recorded nothing is kept."""
    if _triton.recorded_launches() is not None:
        return like.new_empty(make(*args).shape, dtype=torch.int32)
    return _kept_on(like.device, make, *args)


def gather_map(like: Tensor, plan: Layout) -> Tensor:
    """`_gather` on the device of `like`."""
    return _on(like, _gather, plan)


def reduction_table(like: Tensor, plan: Layout, parts: tuple[tuple[int, ...], ...]) -> Tensor:
    """`_reductions` on the device of `like`."""
    return _on(like, _reductions, plan, parts)
