"""conv_stem on a GPU: launchers of the forward, of one stem or of two; `triton_gradients.py` has the backward's.

Evaluation: BatchNorm and SiLU in the epilogue of each convolution, and the 1x1 convolution of an Inception with them.
Training: a convolution stores what it computed and moments of each tile; a small kernel merges them into the
normalisation of its channels, which the next kernel applies on load, or where it has many taps finds applied.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
from torch import Tensor

from xmae_fast.ops._launch import block, dot_precision, launch
from xmae_fast.ops.conv_stem.schema import TRAINED, WEIGHTS
from xmae_fast.ops.conv_stem.triton import layout as at
from xmae_fast.ops.conv_stem.triton.forward import (
    stem_activation_kernel,
    stem_conv_kernel,
    stem_end_kernel,
    stem_mix_kernel,
    stem_pack_kernel,
    stem_statistics_kernel,
)
from xmae_fast.ops.conv_stem.triton.layout import Layer, Layout

# Of kernels that merge what tiles left: one channel a program is quickest on a GPU with more multiprocessors than that.
MERGE_CONFIGS = {
    arch: tuple({"BLOCK_C": many, "BLOCK_T": tiles, "num_warps": 4} for many, tiles in options)
    for arch, options in ((80, ((8, 128), (4, 256), (1, 1024))), (90, ((1, 2048), (1, 1024), (4, 512))))
}


def tile_configs(
    block_m: int, block_n: int, compute: torch.dtype, depth: int, heavy: bool = False
) -> dict[int, tuple[dict[str, int], ...]]:
    """Configurations of a kernel with a [block_m, block_n] product whose loop goes over `depth` columns; heavy: more
    is done to it than BatchNorm."""
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

    Of two stems the second's rows, packed weights and norms lie behind the first's.
    """

    def __init__(
        self, plan: Layout, x: Tensor, sizes: Sequence[int], compute: torch.dtype, packed: Tensor, norms: Tensor
    ) -> None:
        """x: all samples of all stems, flat; sizes: B and L of each stem."""
        self.plan, self.x, self.compute, self.packed, self.norms = plan, x, compute, packed, norms
        self.batches = tuple(sizes[::2])
        self.levels = tuple(zip(*(at.lengths(L) for L in sizes[1::2]), strict=True))  # [level][stem]
        self.count = len(self.batches)
        self.stride_n = plan.channels + 1
        self.precision = dot_precision(compute)

    def rows(self, level: int) -> tuple[int, ...]:
        """Of each stem."""
        return tuple(B * L for B, L in zip(self.batches, self.levels[level], strict=True))

    def sizes(self, level: int, **lengths: int) -> dict[str, int]:
        """Arguments of a kernel: rows of a level, and by their names the lengths of other levels."""
        both = {"rows": self.rows(level), **{name: self.levels[of] for name, of in lengths.items()}}
        missing = {name: int(name != "rows") for name in both}
        return {
            **{name: sizes[0] for name, sizes in both.items()},
            **{f"{name}_2": sizes[1] if self.count > 1 else missing[name] for name, sizes in both.items()},
        }

    def tiles(self, level: int, block_m: int) -> int:
        """Of all stems."""
        return sum(triton.cdiv(rows, block_m) for rows in self.rows(level))

    def level_in(self, layer: Layer) -> int:
        return layer.level - (layer.stride == 2)

    def block_m(self, block_n: int) -> int:
        """Rows of a tile; the moments and sums of tiles need it to be the same for all configurations."""
        return 128 if self.compute != torch.float32 and block_n <= 64 else 64

    def empty(self, level: int, channels: int) -> Tensor:
        return self.x.new_empty((sum(self.rows(level)), channels), dtype=self.compute)

    def partial(self, channels: int, tiles: int) -> Tensor:
        """[2, channels, tiles], float32."""
        return self.x.new_empty((2, channels, tiles), dtype=torch.float32)

    def convolve(
        self, number: int, source: Tensor, norm_of: int | None = None, *,
        statistics: bool = False, activate: bool = False, fuse: bool = False, skip: bool = False,
    ) -> tuple[Tensor, Tensor | None, int]:  # fmt: skip
        """Output of layer `number`, moments of its tiles and the rows of a tile; norm_of: the unit that `source` is
        the pre-BatchNorm output of."""
        layer, layers = self.plan.layers[number], self.plan.layers
        block_n = min(layer.cout_pad, 128)
        block_m = self.block_m(block_n)
        tiles = self.tiles(layer.level, block_m)
        out = self.empty(layer.level, layer.c_out)
        partial = self.partial(layer.c_out + layer.taps_inside, tiles) if statistics else None
        launch(
            stem_conv_kernel,
            lambda c: (tiles, triton.cdiv(layer.c_out, block_n)),
            {
                "x_ptr": source, "w_ptr": self.packed, "norms_ptr": self.norms, "out_ptr": out, "partial_ptr": partial,
                "skip_x_ptr": self.x if skip else None,
                **self.sizes(layer.level, L_in=self.level_in(layer), L_out=layer.level),
                "stride_w": self.plan.packed, "stride_n": self.stride_n,
                "stride_p": partial.stride(0) if statistics else 0,
                "in_at": 0 if norm_of is None else layers[norm_of].channel, "out_at": layer.channel,
                "w_at": layer.packed, "fuse_at": layers[number + 1].packed if fuse else 0,
                "skip_at": layers[at.SKIP].packed if skip else 0,
                "skip_channel": layers[at.SKIP].channel if skip else 0,
            },
            {
                **layer.constants, "NORM": norm_of is not None, "STATISTICS": statistics, "ACTIVATE": activate,
                "FUSE": fuse, "SKIP": skip, "PRECISION": self.precision, "BLOCK_M": block_m, "BLOCK_N": block_n,
            },
            tile_configs(block_m, block_n, self.compute, max(layer.cin_pad, 16)),
            key=(layer.k, layer.stride, layer.c_in, layer.c_out, self.rows(layer.level)),
        )  # fmt: skip
        return out, partial, block_m

    def mix(self, number: int, fine: Tensor, coarse: Tensor, units: tuple[int, int] | None) -> Tensor:
        """lateral(fine) + up(reduce(coarse)) of the mix whose lateral layer is `number`; units: of pre-BatchNorm
        sources, None: they are activations."""
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


def _packed_stem(
    x: Tensor, weights: Sequence[Tensor], sizes: Sequence[int], compute: torch.dtype, running: bool
) -> tuple[Stem, Tensor]:
    """Pack the weights; running: also normalisation from running statistics. -> the call and the flat weights."""
    plan, count, used = at.layout_of(weights), len(sizes) // 2, WEIGHTS if running else TRAINED
    flat = torch.cat([weight.reshape(-1) for number, weight in enumerate(weights) if number % WEIGHTS < used])
    packed = x.new_empty((count, plan.packed), dtype=compute)
    norms = x.new_empty((count, 5, plan.channels + 1), dtype=torch.float32)
    total = plan.packed + (plan.channels + 1 if running else 0)
    launch(
        stem_pack_kernel,
        lambda c: (triton.cdiv(total, c["BLOCK"]), count),
        {
            "flat_ptr": flat, "map_ptr": at.gather_map(x, plan), "packed_ptr": packed, "norms_ptr": norms,
            "packed_size": plan.packed, "flat_size": flat.numel() // count, "weights": plan.weights,
            "channels": plan.channels,
        },
        {"RUNNING": running},
        {80: tuple({"BLOCK": size, "num_warps": 4} for size in (1024, 512, 2048))},
    )  # fmt: skip
    return Stem(plan, x, sizes, compute, packed, norms), flat


def conv_stem_eval(x: Tensor, weights: Sequence[Tensor], compute: torch.dtype) -> Tensor:
    """Features [B, L, S] with running statistics: x [B, 1, L], weights in the order of `schema.flatten`."""
    B, _, L = x.shape
    stem, _ = _packed_stem(x.contiguous(), weights, (B, L), compute, running=True)
    outputs: dict[int, Tensor] = {}
    source = stem.x
    widest = 64 if compute == torch.float32 else 128  # of a second product in registers
    unit = 0
    while unit < at.UNITS:
        if unit == at.SMOOTH2:
            source = stem.mix(at.LAT2, outputs[at.E2], outputs[at.E3], None)
        elif unit == at.SMOOTH1:
            source = stem.mix(at.LAT1, outputs[at.E1], outputs[at.SMOOTH2], None)
        layer = stem.plan.layers[unit]
        fuse = layer.k == 7 and layer.cout_pad <= widest
        source, _, _ = stem.convolve(unit, source, activate=True, fuse=fuse, skip=unit == at.HEAD)
        unit += 1 + fuse
        outputs[unit - 1] = source
    return source.view(B, L, -1)


def conv_stem_train(
    x: Tensor, weights: Sequence[Tensor], sizes: Sequence[int], batch_statistics: bool, compute: torch.dtype
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Features [rows, S], `norms`, and what backward needs: 17 outputs before BatchNorm, mix2, mix1, the activations
    of `ACTIVATED`, packed weights.

    x: the samples of one or two stems, flat; sizes: B and L of each; weights of each, in the order of `schema.flatten`.
    """
    stem, flat = _packed_stem(x, weights, sizes, compute, running=not batch_statistics)
    pre: list[Tensor] = []
    mixes: list[Tensor] = []
    activations: dict[int, Tensor] = {}
    for unit in range(at.UNITS):
        norm_of: int | None = None
        if unit == 0:
            source = stem.x
        elif unit == at.SMOOTH2:
            mixes.append(source := stem.mix(at.LAT2, pre[at.E2], pre[at.E3], (at.E2, at.E3)))
        elif unit == at.SMOOTH1:
            mixes.append(source := stem.mix(at.LAT1, pre[at.E1], pre[at.SMOOTH2], (at.E1, at.SMOOTH2)))
        elif unit - 1 in at.ACTIVATED:
            source = activations[unit - 1] = _activate(stem, unit - 1, pre[unit - 1])
        else:
            source, norm_of = pre[unit - 1], unit - 1
        out, partial, tile = stem.convolve(unit, source, norm_of, statistics=batch_statistics)
        pre.append(out)
        if partial is not None:
            _merge_statistics(stem, flat, unit, partial, tile)
    return _end(stem, pre[at.HEAD]), stem.norms, [*pre, *mixes, *activations.values(), stem.packed]


def _merge_statistics(stem: Stem, flat: Tensor, unit: int, partial: Tensor, tile: int) -> None:
    plan, layer, skip = stem.plan, stem.plan.layers[unit], stem.plan.layers[at.SKIP]
    launch(
        stem_statistics_kernel,
        lambda c: (triton.cdiv(layer.c_out, c["BLOCK_C"]) + layer.taps_inside, stem.count),
        {
            "partial_ptr": partial, "flat_ptr": flat, "w_ptr": stem.packed, "norms_ptr": stem.norms,
            **stem.sizes(layer.level), "stride_w": plan.packed, "flat_size": flat.numel() // stem.count,
            "stride_p": partial.stride(0), "channels": plan.channels, "weights": plan.weights, "out_at": layer.channel,
            "skip_at": skip.packed, "skip_channel": skip.channel,
        },
        {"C_OUT": layer.c_out, "S": skip.c_out, "SKIP": layer.taps_inside, "TILE": tile, "BLOCK_S": skip.cout_pad},
        MERGE_CONFIGS,
        key=(partial.shape[2],),
    )  # fmt: skip


def _activate(stem: Stem, unit: int, pre: Tensor) -> Tensor:
    layer, out = stem.plan.layers[unit], torch.empty_like(pre)
    block_c = block(layer.c_out)
    launch(
        stem_activation_kernel,
        lambda c: (stem.tiles(layer.level, c["BLOCK_M"]),),
        {
            "x_ptr": pre, "norms_ptr": stem.norms, "out_ptr": out, **stem.sizes(layer.level),
            "stride_n": stem.stride_n, "in_at": layer.channel,
        },
        {"C": layer.c_out, "BLOCK_C": block_c},
        {80: tuple({"BLOCK_M": max(1, size // block_c), "num_warps": 4} for size in (4096, 2048, 8192))},
        key=(layer.c_out, stem.rows(layer.level)),
    )  # fmt: skip
    return out


def _end(stem: Stem, head: Tensor) -> Tensor:
    skip, out = stem.plan.layers[at.SKIP], torch.empty_like(head)
    launch(
        stem_end_kernel,
        lambda c: (stem.tiles(0, c["BLOCK_M"]),),
        {
            "head_ptr": head, "x_ptr": stem.x, "w_ptr": stem.packed, "norms_ptr": stem.norms, "out_ptr": out,
            **stem.sizes(0), "stride_w": stem.plan.packed, "stride_n": stem.stride_n,
            "head_at": stem.plan.layers[at.HEAD].channel,
            "skip_at": skip.packed, "skip_channel": skip.channel,
        },
        {"S": skip.c_out, "BLOCK_S": skip.cout_pad},
        {80: tuple({"BLOCK_M": max(1, size // skip.cout_pad), "num_warps": 4} for size in (4096, 2048, 8192))},
        key=(skip.c_out, stem.rows(0)),
    )  # fmt: skip
    return out


def conv_stem_backward(*args):
    """See `triton_gradients.conv_stem_backward`."""
    from xmae_fast.ops.conv_stem.triton.gradients import conv_stem_backward as run

    return run(*args)
