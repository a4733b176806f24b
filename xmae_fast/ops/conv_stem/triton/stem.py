"""One call of the stem's Triton kernels: its layout, lengths and buffers, and the launches that all passes share."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
import triton
from torch import Tensor

from xmae_fast.ops._launch import dot_precision, launch
from xmae_fast.ops.conv_stem.triton import layout as at
from xmae_fast.ops.conv_stem.triton import merge
from xmae_fast.ops.conv_stem.triton.forward import stem_conv_kernel, stem_mix_kernel
from xmae_fast.ops.conv_stem.triton.layout import Layer, Layout


def tile_configs(
    block_m: int, block_n: int, compute: torch.dtype, depth: int, heavy: bool = False
) -> dict[int, tuple[dict[str, int], ...]]:
    """Configurations of a kernel with a [block_m, block_n] product whose loop goes over `depth` columns.

    heavy: whether the kernel does more to the product than BatchNorm.
    """
    if compute == torch.float32:
        return {80: tuple({"BLOCK_K": k, "num_warps": 8, "num_stages": 2} for k in (16, min(depth, 32)))}
    warps = 8 if heavy and block_m * block_n >= 8192 else 4
    deep = min(depth, 64)
    return {
        80: (
            {"BLOCK_K": min(depth, 32), "num_warps": warps, "num_stages": 4},
            {"BLOCK_K": deep, "num_warps": warps, "num_stages": 2},
        ),
        90: (
            {"BLOCK_K": deep, "num_warps": warps, "num_stages": 3},
            {"BLOCK_K": deep, "num_warps": warps, "num_stages": 2},
            {"BLOCK_K": min(depth, 32), "num_warps": warps, "num_stages": 4},
        ),
    }


class Stem:
    """One call: its layout, lengths and buffers, and the launches that forward and backward share.

    The rows, packed weights and norms of a second stem follow those of the first.
    """

    def __init__(
        self, plan: Layout, x: Tensor, sizes: Sequence[int], compute: torch.dtype, packed: Tensor, norms: Tensor
    ) -> None:
        """x holds all samples of all stems, flat; sizes are B and L of each stem."""
        self.plan, self.x, self.compute, self.packed, self.norms = plan, x, compute, packed, norms
        self.batches = tuple(sizes[::2])
        self.levels = tuple(zip(*(at.lengths(L) for L in sizes[1::2]), strict=True))  # [level][stem]
        self.count = len(self.batches)
        self.stride_n = plan.channels + 1
        self.precision = dot_precision(compute)

    @functools.cached_property
    def counters(self) -> Tensor:
        """Those of merge.py, enough for the launch with the most tiles and blocks. Each launch leaves them at 0."""
        blocks = triton.cdiv(max(layer.cout_pad for layer in self.plan.layers), 128)
        groups = merge.groups_of(self.tiles_of_stems(0, min(64, self.end_tile)))
        return torch.zeros(blocks * (groups + 2), dtype=torch.int32, device=self.x.device)

    def rows(self, level: int) -> tuple[int, ...]:
        """How many rows each stem has on a level."""
        return tuple(B * L for B, L in zip(self.batches, self.levels[level], strict=True))

    def sizes(self, level: int, **lengths: int) -> dict[str, int]:
        """The arguments of a kernel that are sizes: the rows of a level, and by the names of `lengths` the lengths of
        the levels that these give."""
        both = {"rows": self.rows(level), **{name: self.levels[of] for name, of in lengths.items()}}
        missing = {name: int(name != "rows") for name in both}
        return {
            **{name: sizes[0] for name, sizes in both.items()},
            **{f"{name}_2": sizes[1] if self.count > 1 else missing[name] for name, sizes in both.items()},
        }

    def tiles_of_stems(self, level: int, block_m: int) -> tuple[int, ...]:
        """How many tiles of block_m rows each stem has on a level."""
        return tuple(triton.cdiv(rows, block_m) for rows in self.rows(level))

    def tiles(self, level: int, block_m: int) -> int:
        """How many tiles of block_m rows all stems have on a level."""
        return sum(self.tiles_of_stems(level, block_m))

    def level_in(self, layer: Layer) -> int:
        return layer.level - (layer.stride == 2)

    @property
    def end_tile(self) -> int:
        """Rows of a tile where the stem's end is differentiated."""
        return max(1, 4096 // self.plan.layers[at.SKIP].cout_pad)

    def block_m(self, block_n: int) -> int:
        """Rows of a tile. All configurations have the same, since moments and sums are stored for each tile."""
        return 128 if self.compute != torch.float32 and block_n <= 64 else 64

    def empty(self, level: int, channels: int) -> Tensor:
        return self.x.new_empty((sum(self.rows(level)), channels), dtype=self.compute)

    def partial(self, columns: int, tiles: Sequence[int]) -> Tensor:
        """An uninitialised tensor for what the tiles of each stem leave behind, see merge.py."""
        return self.x.new_empty((merge.rows_of_partial(tiles), 2, columns), dtype=torch.float32)

    def convolve(
        self, number: int, source: Tensor, norm_of: int | None = None, *,
        statistics_with: Tensor | None = None, activate: bool = False, fuse: bool = False, skip: bool = False,
    ) -> Tensor:  # fmt: skip
        """The output of layer `number`.

        Args:
            number: of the layer.
            source: its input; the output of unit `norm_of` before BatchNorm, where that is given.
            statistics_with: the flat weights, whose gammas and betas make the normalisation of the output's channels
                from its moments, which then is stored.
            activate, fuse, skip: see the kernel.
        """
        layer, layers = self.plan.layers[number], self.plan.layers
        block_n = min(layer.cout_pad, 128)
        block_m = self.block_m(block_n)
        tiles, of_skip = self.tiles_of_stems(layer.level, block_m), layers[at.SKIP]
        out, flat = self.empty(layer.level, layer.c_out), statistics_with
        partial = None if flat is None else self.partial(layer.c_out + layer.taps_inside, tiles)
        reads_skip = skip or (flat is not None and layer.taps_inside)
        launch(
            stem_conv_kernel,
            lambda c: (sum(tiles), triton.cdiv(layer.c_out, block_n)),
            {
                "x_ptr": source, "w_ptr": self.packed, "norms_ptr": self.norms, "out_ptr": out, "flat_ptr": flat,
                "partial_ptr": partial, "counters_ptr": None if flat is None else self.counters,
                "skip_x_ptr": self.x if skip else None,
                **self.sizes(layer.level, L_in=self.level_in(layer), L_out=layer.level),
                "stride_w": self.plan.packed, "stride_n": self.stride_n,
                "stride_f": 0 if flat is None else flat.numel() // self.count, "weights": self.plan.weights,
                "in_at": 0 if norm_of is None else layers[norm_of].channel, "out_at": layer.channel,
                "w_at": layer.packed, "fuse_at": layers[number + 1].packed if fuse else 0,
                "skip_at": of_skip.packed if reads_skip else 0, "skip_channel": of_skip.channel if reads_skip else 0,
            },
            {
                **layer.constants, "NORM": norm_of is not None, "STATISTICS": flat is not None,
                "ACTIVATE": activate, "FUSE": fuse, "SKIP": skip, "S": of_skip.c_out, "BLOCK_S": of_skip.cout_pad,
                "PRECISION": self.precision, "BLOCK_M": block_m, "BLOCK_N": block_n,
            },
            tile_configs(block_m, block_n, self.compute, max(layer.cin_pad, 16)),
            key=(layer.k, layer.stride, layer.c_in, layer.c_out, self.rows(layer.level)),
        )  # fmt: skip
        return out

    def mix(self, number: int, fine: Tensor, coarse: Tensor, units: tuple[int, int] | None) -> Tensor:
        """lateral(fine) + up(reduce(coarse)) of the mix whose lateral layer is `number`.

        units: the units of which fine and coarse are the outputs before BatchNorm; None where they are activations.
        """
        lateral, reduce = self.plan.layers[number], self.plan.layers[number + 2]
        block_n = min(lateral.cout_pad, 128)
        block_m = self.block_m(block_n)
        out = self.empty(lateral.level, lateral.c_out)
        fine_at, coarse_at = (self.plan.layers[unit].channel for unit in units or (0, 0))
        launch(
            stem_mix_kernel,
            lambda c: (self.tiles(lateral.level, block_m), triton.cdiv(lateral.c_out, block_n)),
            {
                "fine_ptr": fine, "coarse_ptr": coarse, "w_ptr": self.packed, "norms_ptr": self.norms, "out_ptr": out,
                **self.sizes(lateral.level, L=lateral.level, L_coarse=reduce.level),
                "stride_w": self.plan.packed, "stride_n": self.stride_n, "fine_at": fine_at, "coarse_at": coarse_at,
                "lateral_at": lateral.packed, "reduce_at": reduce.packed,
            },
            {
                "C": lateral.c_out, "C_PAD": lateral.cout_pad, "CC": reduce.c_in, "CC_PAD": reduce.cin_pad,
                "NORM": units is not None, "PRECISION": self.precision, "BLOCK_M": block_m, "BLOCK_N": block_n,
            },
            tile_configs(block_m, block_n, self.compute, min(lateral.cout_pad, reduce.cin_pad), heavy=True),
            key=(lateral.c_out, reduce.c_in, self.rows(lateral.level)),
        )  # fmt: skip
        return out
