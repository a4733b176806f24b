"""The launcher of the stem's backward: sums, weight and input gradient of each unit, from the last to the first."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
from torch import Tensor

from xmae_fast.ops._launch import block, launch
from xmae_fast.ops.conv_stem.triton import layout as at
from xmae_fast.ops.conv_stem.triton.backward import (
    stem_end_backward_kernel,
    stem_input_gradient_kernel,
    stem_waveform_gradient_kernel,
)
from xmae_fast.ops.conv_stem.triton.layout import Layer
from xmae_fast.ops.conv_stem.triton.pointwise import stem_pointwise_gradient_kernel
from xmae_fast.ops.conv_stem.triton.stem import Stem, tile_configs
from xmae_fast.ops.conv_stem.triton.weights import stem_reduce_kernel, stem_weight_gradient_kernel

_MIX_OF = {at.SMOOTH2: (at.LAT2, at.E2, at.E3), at.SMOOTH1: (at.LAT1, at.E1, at.SMOOTH2)}  # lateral, fine, coarse


class Backward:
    """One backward: what the forward kept, and the buffers that the launches of the backward fill."""

    def __init__(
        self, x: Tensor, norms: Tensor, kept: Sequence[Tensor], sizes: Sequence[int], batch_statistics: bool
    ) -> None:
        plan = at.layout_of_kept(kept)
        self.stem = Stem(plan, x, sizes, kept[0].dtype, kept[-1], norms)
        self.batch = batch_statistics
        self.pre = kept[: at.UNITS]
        self.activations = dict(zip(at.ACTIVATED, kept[at.UNITS + 2 :], strict=False))
        self.mixed = {at.SMOOTH2: kept[at.UNITS], at.SMOOTH1: kept[at.UNITS + 1]}
        self.sums = x.new_empty((self.stem.count, 2, plan.channels + plan.layers[at.SKIP].c_out), dtype=torch.float32)
        self.tiles = [self._tile(layer) for layer in plan.layers]
        self.parts = tuple(
            tuple(
                0 if number == at.SKIP else at.splits(layer, rows, *self.tiles[number])
                for rows in self.stem.rows(layer.level)
            )
            for number, layer in enumerate(plan.layers)
        )
        room = [layer.size * sum(parts) for layer, parts in zip(plan.layers, self.parts, strict=True)]
        self.first = [sum(room[:number]) for number in range(len(room))]
        self.arena = x.new_empty(sum(room), dtype=torch.float32)

    def _tile(self, layer: Layer) -> tuple[int, int]:
        """How many (tap, c_in) pairs and output channels a program of the weight gradient has."""
        most_j, most_n = (64, 32) if self.stem.compute == torch.float32 else (128, 128)
        return min(block(layer.depth), most_j), min(layer.cout_pad, most_n)

    def _weight_configs(self, block_j: int, block_n: int, out: str) -> dict[int, tuple[dict[str, int], ...]]:
        if self.stem.compute == torch.float32:
            options = {80: ((8, 16, 2), (4, 16, 2))}
        elif block_j * block_n > 4096:
            few, many = (8, 16, 4), (8, 32, 2)  # each spills on sm_80 in the other case
            options = {80: (many, few) if out == "up" else (few, many), 90: ((8, 64, 2), (8, 32, 3), (8, 64, 3))}
        else:
            options = {80: ((4, 32, 2), (4, 16, 4)), 90: ((4, 64, 2), (4, 32, 3), (4, 64, 3))}
        return _named(options)

    def _pointwise_configs(self, layer: Layer) -> dict[int, tuple[dict[str, int], ...]]:
        """None of these spills, and most others do: a program holds the matrix, its gradient and two blocks of rows."""
        size = layer.cin_pad * layer.cout_pad
        if self.stem.compute == torch.float32:
            options = {80: ((8, 16, 2), (8, 16, 3))}
        elif size > 4096:
            options = {80: ((8, 32, 2), (8, 32, 3)), 90: ((8, 32, 3), (16, 32, 2), (8, 32, 2))}
        elif size > 1024:
            options = {80: ((8, 32, 2), (8, 32, 3)), 90: ((8, 32, 3), (8, 64, 2), (4, 32, 2))}
        else:
            options = {80: ((4, 32, 2), (8, 64, 2)), 90: ((4, 64, 2), (8, 64, 2), (4, 32, 2))}
        return _named(options)

    def source(self, unit: int) -> tuple[Tensor, int | None]:
        """The activation of a unit: as it was stored, with None, or its values before BatchNorm and SiLU, with the unit
        whose BatchNorm and SiLU are to be applied."""
        stored = self.activations.get(unit)
        return (self.pre[unit], unit) if stored is None else (stored, None)

    def end(self, grads: Sequence[Tensor]) -> Tensor:
        """Return dz of head from the gradients of the features, of any strides; fill the sums of head and skip."""
        stem, layers = self.stem, self.stem.plan.layers
        head, skip = layers[at.HEAD], layers[at.SKIP]
        tiles = stem.tiles_of_stems(0, stem.end_tile)
        dz, partial = torch.empty_like(self.pre[at.HEAD]), stem.partial(3 * skip.c_out, tiles)
        launch(
            stem_end_backward_kernel,
            lambda c: (sum(tiles),),
            {
                **_gradients(grads), "head_ptr": self.pre[at.HEAD], "x_ptr": stem.x, "w_ptr": stem.packed,
                "norms_ptr": stem.norms, "sums_ptr": self.sums, "dz_ptr": dz, "partial_ptr": partial,
                "counters_ptr": stem.counters, **stem.sizes(0, L=0), "stride_w": stem.plan.packed,
                "stride_n": stem.stride_n, "stride_s": self.sums.stride(1), "head_at": head.channel,
                "skip_at": skip.packed, "skip_channel": skip.channel, "x_channel": stem.plan.channels,
            },
            {"S": skip.c_out, "BLOCK_S": skip.cout_pad, "BLOCK_M": stem.end_tile},
            {80: ({"num_warps": 4}, {"num_warps": 8})},
            key=(skip.c_out, stem.rows(0)),
        )  # fmt: skip
        return dz

    def weight_gradient(
        self, number: int, dz: Tensor, source: tuple[Tensor, int | None], out: str = "norm", keep: bool = True
    ) -> Tensor | None:
        """Write a layer's partial weight gradients into the arena and return the gradient of its output.

        Args:
            number: of the layer.
            dz: the gradient from which that of the output follows as `out` says (see the kernel).
            source: the layer's input, as `source` returns it.
            keep: whether the gradient of the output is wanted; else None is returned.
        """
        stem, layer = self.stem, self.stem.plan.layers[number]
        a, norm_of = source
        rows, parts, (block_j, block_n) = stem.rows(layer.level), self.parts[number], self.tiles[number]
        tiles_j, tiles_n = triton.cdiv(layer.depth, block_j), triton.cdiv(layer.cout_pad, block_n)
        of_split, *of_split_2 = rows_of_splits(rows, parts)
        dpre = stem.empty(layer.level, layer.c_out) if keep else None
        launch(
            stem_weight_gradient_kernel,
            lambda c: (tiles_j * tiles_n, sum(parts)),
            {
                "a_ptr": a, "dz_ptr": dz, "pre_ptr": self.pre[number] if out == "norm" else None,
                "norms_ptr": stem.norms, "sums_ptr": self.sums, "dpre_ptr": dpre, "arena_ptr": self.arena,
                **stem.sizes(
                    layer.level, L_in=stem.level_in(layer), L_out=layer.level, L_fine=max(layer.level - 1, 0)
                ),
                "splits": parts[0], "of_split": of_split, "of_split_2": sum(of_split_2), "stride_n": stem.stride_n,
                "stride_s": self.sums.stride(1), "in_at": 0 if norm_of is None else stem.plan.layers[norm_of].channel,
                "out_at": layer.channel, "arena_at": self.first[number],
            },
            {
                **layer.constants, "DEPTH": layer.depth, "NORM": norm_of is not None, "BATCH": self.batch, "OUT": out,
                "KEEP": keep, "TILES_N": tiles_n, "PRECISION": stem.precision, "BLOCK_J": block_j, "BLOCK_N": block_n,
            },
            self._weight_configs(block_j, block_n, out),
            key=(layer.k, layer.c_in, layer.c_out, rows),
        )  # fmt: skip
        return dpre

    def input_gradient(self, number: int, d: Tensor, onto: int | None, mix: tuple[int, Tensor] | None = None) -> Tensor:
        """The gradient of a layer's input.

        Args:
            number: of the layer.
            d: the gradient of the layer's output.
            onto: the unit whose activation the input is, if any: then dz of that unit is returned, and its sums are
                filled.
            mix: a lateral layer that reads the same input, and the gradient of its output.
        """
        stem, layer = self.stem, self.stem.plan.layers[number]
        level = stem.level_in(layer)
        block_n = min(block(layer.c_in), 128)
        block_m = stem.block_m(block_n)
        tiles = stem.tiles_of_stems(level, block_m)
        out = stem.empty(level, layer.c_in)
        partial = None if onto is None else stem.partial(layer.c_in, tiles)
        launch(
            stem_input_gradient_kernel,
            lambda c: (sum(tiles), triton.cdiv(layer.c_in, block_n)),
            {
                "d_ptr": d, "w_ptr": stem.packed, "mix_ptr": mix[1] if mix else None,
                "pre_ptr": None if onto is None else self.pre[onto], "norms_ptr": stem.norms,
                "sums_ptr": None if onto is None else self.sums, "out_ptr": out, "partial_ptr": partial,
                "counters_ptr": None if onto is None else stem.counters,
                **stem.sizes(level, L_in=level, L_out=layer.level),
                "stride_w": stem.plan.packed, "stride_n": stem.stride_n, "stride_s": self.sums.stride(1),
                "in_at": 0 if onto is None else stem.plan.layers[onto].channel, "w_at": layer.packed,
                "lateral_at": stem.plan.layers[mix[0]].packed if mix else 0,
            },
            {
                **layer.constants, "MIX": mix is not None, "NORM": onto is not None, "PRECISION": stem.precision,
                "BLOCK_M": block_m, "BLOCK_N": block_n,
            },
            tile_configs(block_m, block_n, stem.compute, min(layer.cout_pad, layer.cin_pad), heavy=onto is not None),
            key=(layer.k, layer.stride, layer.c_in, layer.c_out, stem.rows(level)),
        )  # fmt: skip
        return out

    def is_pointwise(self, number: int) -> bool:
        """Whether one launch has a layer's whole backward: a 1x1 layer whose matrix a program holds."""
        layer, (block_j, block_n) = self.stem.plan.layers[number], self.tiles[number]
        return layer.k == 1 and (block_j, block_n) == (layer.cin_pad, layer.cout_pad)

    def pointwise(self, number: int, dz: Tensor, onto: int, out: str = "norm") -> Tensor:
        """Of a 1x1 layer that reads the activation of unit `onto`: dz of that unit; its sums and the layer's partial
        weight gradients are stored.

        dz, out: as in `weight_gradient`.
        """
        stem, layer = self.stem, self.stem.plan.layers[number]
        rows, parts = stem.rows(layer.level), self.parts[number]
        of_split, *of_split_2 = rows_of_splits(rows, parts)
        result, partial = stem.empty(layer.level, layer.c_in), stem.partial(layer.c_in, parts)
        launch(
            stem_pointwise_gradient_kernel,
            lambda c: (sum(parts),),
            {
                "x_ptr": self.pre[onto], "dz_ptr": dz, "pre_ptr": self.pre[number] if out == "norm" else None,
                "w_ptr": stem.packed, "norms_ptr": stem.norms, "sums_ptr": self.sums, "out_ptr": result,
                "arena_ptr": self.arena, "partial_ptr": partial, "counters_ptr": stem.counters,
                **stem.sizes(layer.level, L=layer.level, L_fine=max(layer.level - 1, 0)),
                "splits": parts[0], "splits_2": sum(parts[1:]), "of_split": of_split, "of_split_2": sum(of_split_2),
                "stride_w": stem.plan.packed, "stride_n": stem.stride_n, "stride_s": self.sums.stride(1),
                "in_at": stem.plan.layers[onto].channel, "out_at": layer.channel, "w_at": layer.packed,
                "arena_at": self.first[number],
            },
            {
                "C_IN": layer.c_in, "CIN_PAD": layer.cin_pad, "C_OUT": layer.c_out, "COUT_PAD": layer.cout_pad,
                "BATCH": self.batch, "OUT": out, "PRECISION": stem.precision,
            },
            self._pointwise_configs(layer),
            key=(layer.c_in, layer.c_out, rows),
        )  # fmt: skip
        return result

    def waveform_gradient(self, grads: Sequence[Tensor], dpre: Tensor) -> Tensor:
        """The gradient of x from the gradients of the features and of the first convolution's output."""
        stem, first, skip = self.stem, self.stem.plan.layers[0], self.stem.plan.layers[at.SKIP]
        out = torch.empty_like(stem.x)
        block_m = max(1, 2048 // max(first.cout_pad, skip.cout_pad))
        launch(
            stem_waveform_gradient_kernel,
            lambda c: (stem.tiles(0, block_m),),
            {
                "dpre_ptr": dpre, **_gradients(grads), "x_ptr": stem.x, "w_ptr": stem.packed, "norms_ptr": stem.norms,
                "sums_ptr": self.sums, "out_ptr": out, **stem.sizes(0, L=0), "stride_w": stem.plan.packed,
                "stride_n": stem.stride_n, "stride_s": self.sums.stride(1), "w_at": first.packed,
                "skip_at": skip.packed, "skip_channel": skip.channel,
            },
            {
                "C": first.c_out, "C_PAD": first.cout_pad, "S": skip.c_out, "S_PAD": skip.cout_pad, "K": first.k,
                "BATCH": self.batch, "BLOCK_M": block_m,
            },
            {80: ({"num_warps": 4},)},
        )  # fmt: skip
        return out

    def reduce(self, dtype: torch.dtype) -> Tensor:
        """The gradients of all weights of each stem, in the layout of `flat`: [stems, numbers]."""
        plan, x = self.stem.plan, self.stem.x
        skip, chunks = plan.layers[at.SKIP], plan.packed // at.CHUNK
        out = x.new_empty((self.stem.count, plan.weights + 2 * plan.channels), dtype=dtype)
        laterals = sum(layer.c_in * layer.c_out for layer in plan.layers[at.LAT2 :])
        launch(
            stem_reduce_kernel,
            lambda c: (triton.cdiv(chunks + triton.cdiv(plan.channels, at.CHUNK), c["BLOCK_CHUNKS"]), self.stem.count),
            {
                "arena_ptr": self.arena, "table_ptr": at.reduction_table(x, plan, self.parts),
                "map_ptr": at.gather_map(x, plan), "sums_ptr": self.sums, "norms_ptr": self.stem.norms, "out_ptr": out,
                "chunks": chunks, "weights": plan.weights, "channels": plan.channels,
                "stride_s": self.sums.stride(1), "skip_channel": skip.channel,
                "skip_flat": plan.weights - laterals - skip.c_out,
            },
            {"BATCH": self.batch, "CHUNK": at.CHUNK},
            {80: tuple({"BLOCK_CHUNKS": many, "num_warps": 4} for many in (4, 2, 8))},
        )  # fmt: skip
        return out


def _named(options: dict[int, tuple[tuple[int, int, int], ...]]) -> dict[int, tuple[dict[str, int], ...]]:
    """Configurations of a weight gradient from (warps, rows of a block, stages)."""
    names = ("num_warps", "BLOCK_R", "num_stages")
    return {arch: tuple(dict(zip(names, option, strict=True)) for option in some) for arch, some in options.items()}


def rows_of_splits(rows: Sequence[int], parts: Sequence[int]) -> list[int]:
    """How many rows a part of each stem has; a multiple of every kernel's block of rows."""
    return [triton.cdiv(triton.cdiv(r, p), 64) * 64 for r, p in zip(rows, parts, strict=True)]


def _gradients(grads: Sequence[Tensor]) -> dict[str, Tensor | int]:
    """The arguments of a kernel that are about the gradients of the features, [B, L, S] of each stem."""
    both = (("", grads[0]), ("_2", grads[-1]))
    tensors = {f"grad{suffix}_ptr": grad for suffix, grad in both}
    names = ("stride_gb", "stride_gl", "stride_gs")
    strides = {f"{n}{suffix}": grad.stride(axis) for suffix, grad in both for axis, n in enumerate(names)}
    return tensors | strides


def conv_stem_backward(
    grads: Sequence[Tensor], x: Tensor, norms: Tensor, kept: Sequence[Tensor], sizes: Sequence[int],
    batch_statistics: bool, want_x: bool, dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """The launcher of `conv_stem_backward_triton`.

    Args:
        grads: gradients of the features, [B, L, S] of each stem.
        x, sizes, batch_statistics: as in `conv_stem_train`.
        norms, kept: as `conv_stem_train` returns them.
        want_x: whether the gradient of x is wanted.
        dtype: of the gradients of the weights.

    Returns:
        Gradients of the trained weights in the order of `params.flatten`, [stems, numbers]; gradient of x, flat, [0]
        where it is not wanted.
    """
    run = Backward(x, norms, kept, sizes, batch_statistics)
    dz = run.end(grads)
    mixes: dict[int, tuple[int, Tensor]] = {}  # by fine unit: lateral layer, gradient of the mix
    for unit in reversed(range(at.UNITS)):
        if unit in _MIX_OF:
            lateral, fine, coarse = _MIX_OF[unit]
            dpre = run.weight_gradient(unit, dz, (run.mixed[unit], None))
            d_mix = run.input_gradient(unit, dpre, None)
            mixes[fine] = lateral, d_mix
            run.weight_gradient(lateral, d_mix, run.source(fine), "plain", keep=False)
            if run.is_pointwise(lateral + 2):
                dz = run.pointwise(lateral + 2, d_mix, coarse, "up")
            else:
                d_up = run.weight_gradient(lateral + 2, d_mix, run.source(coarse), "up")
                dz = run.input_gradient(lateral + 2, d_up, coarse)
        elif run.is_pointwise(unit):
            dz = run.pointwise(unit, dz, unit - 1)
        elif unit:
            dpre = run.weight_gradient(unit, dz, run.source(unit - 1))
            dz = run.input_gradient(unit, dpre, unit - 1, mixes.get(unit - 1))
        else:
            dpre = run.weight_gradient(unit, dz, (run.stem.x, None), keep=want_x)
    x_gradient = run.waveform_gradient(grads, dpre) if want_x else x.new_empty(0)
    return run.reduce(dtype), x_gradient
