"""conv_stem on a GPU: the launchers of the forward, of one stem or of two; gradients.py has that of the backward.

In evaluation BatchNorm, SiLU and the 1x1 convolution that ends an Inception are applied in the epilogue of the
convolution before them. In training a convolution stores its output before BatchNorm and the moments of each tile; the
program that comes last merges the moments into the normalisation of the channels (merge.py). The next kernel applies
that on load, but one with many taps reads activations that another kernel has stored.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
from torch import Tensor

from xmae_fast.ops._launch import block, launch
from xmae_fast.ops.conv_stem.params import TRAINED, WEIGHTS
from xmae_fast.ops.conv_stem.triton import layout as at
from xmae_fast.ops.conv_stem.triton.forward import (
    stem_activation_kernel,
    stem_end_kernel,
    stem_pack_kernel,
)
from xmae_fast.ops.conv_stem.triton.gradients import conv_stem_backward
from xmae_fast.ops.conv_stem.triton.stem import Stem

__all__ = ["conv_stem_backward", "conv_stem_eval", "conv_stem_train"]


def _packed_stem(
    x: Tensor, weights: Sequence[Tensor], sizes: Sequence[int], compute: torch.dtype, running: bool
) -> tuple[Stem, Tensor]:
    """Pack the weights; return the call and the flat weights.

    running: whether the normalisation of all channels is computed from running statistics too.
    """
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
    """Features [B, L, S] by running statistics, of x [B, 1, L]; weights come in the order of `params.flatten`."""
    B, _, L = x.shape
    stem, _ = _packed_stem(x.contiguous(), weights, (B, L), compute, running=True)
    outputs: dict[int, Tensor] = {}
    source = stem.x
    widest = 64 if compute == torch.float32 else 128  # a second product in registers can be this wide
    unit = 0
    while unit < at.UNITS:
        if unit == at.SMOOTH2:
            source = stem.mix(at.LAT2, outputs[at.E2], outputs[at.E3], None)
        elif unit == at.SMOOTH1:
            source = stem.mix(at.LAT1, outputs[at.E1], outputs[at.SMOOTH2], None)
        layer = stem.plan.layers[unit]
        fuse = layer.k == 7 and layer.cout_pad <= widest
        source = stem.convolve(unit, source, activate=True, fuse=fuse, skip=unit == at.HEAD)
        unit += 1 + fuse
        outputs[unit - 1] = source
    return source.view(B, L, -1)


def conv_stem_train(
    x: Tensor, weights: Sequence[Tensor], sizes: Sequence[int], batch_statistics: bool, compute: torch.dtype
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """The launcher of `conv_stem_train_triton`, of one stem or two.

    Args:
        x: the samples of all stems, flat.
        weights: those of each stem in the order of `params.flatten`.
        sizes: B and L of each stem.
        batch_statistics: normalise by the batch's statistics instead of the running ones.
        compute: the dtype of matrix products.

    Returns:
        Features [rows, S]; `norms` (see layout.py); what the backward needs: 17 outputs before BatchNorm, mix2, mix1,
        the activations of `ACTIVATED`, packed weights.
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
        pre.append(stem.convolve(unit, source, norm_of, statistics_with=flat if batch_statistics else None))
    return _end(stem, pre[at.HEAD]), stem.norms, [*pre, *mixes, *activations.values(), stem.packed]


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
