"""Kernels of the stem's weight gradients: partial sums of each layer, and their reduction. Terms are in backward.py."""

from __future__ import annotations

import triton
import triton.language as tl

from xmae_fast.ops._device import wait_for_previous_launch
from xmae_fast.ops.conv_stem.triton.device import (
    EPS,
    RSTD,
    SCALE,
    before_norm,
    between,
    load_rows,
    offset_of_stem,
    part_of,
)


@triton.jit
def up_adjoint(
    dy_ptr, sample, j, mask_m, L, L_coarse, c, mask_c, C: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_C: tl.constexpr
):
    """The adjoint of linear interpolation at coarse positions j -> float32 [BLOCK_M, BLOCK_C].

    It sums dy at fine positions, each times the weight that j has there; only 2 j - 2 .. 2 j + 2 have one.
    """
    total = tl.zeros([BLOCK_M, BLOCK_C], tl.float32)
    for offset in tl.static_range(-2, 3):
        i = 2 * j + offset
        low, high, share = between(i, L, L_coarse)
        weight = tl.where(low == j, 1.0 - share, 0.0) + tl.where(high == j, share, 0.0)
        inside = mask_m & (i >= 0) & (i < L)
        at = (sample.to(tl.int64) * L + i) * C
        dy = tl.load(dy_ptr + at[:, None] + c, mask=inside[:, None] & mask_c, other=0.0)
        total += dy.to(tl.float32) * weight[:, None]
    return total


@triton.jit
def stem_weight_gradient_kernel(
    a_ptr, dz_ptr, pre_ptr, norms_ptr, sums_ptr, dpre_ptr, arena_ptr,
    rows, rows_2, L_in, L_in_2, L_out, L_out_2, L_fine, L_fine_2, splits, of_split, of_split_2,
    stride_n, stride_s, in_at, out_at, arena_at,
    C_IN: tl.constexpr, CIN_PAD: tl.constexpr, C_OUT: tl.constexpr, COUT_PAD: tl.constexpr,
    K: tl.constexpr, STRIDE: tl.constexpr, DEPTH: tl.constexpr, NORM: tl.constexpr, BATCH: tl.constexpr,
    OUT: tl.constexpr, KEEP: tl.constexpr, TILES_N: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_R: tl.constexpr, BLOCK_J: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """arena [splits][DEPTH, COUT_PAD]: sums over a part of the rows of a[row, tap, c_in] dpre[row, c_out].

    A program has BLOCK_J (tap, c_in) pairs and BLOCK_N output channels. OUT says how dpre follows from dz: "norm",
    through the BatchNorm; "plain", it is dz; "up", dz belongs to an output that interpolates the rows, and dpre is the
    adjoint's result. With KEEP dpre is stored, for the input gradient. The splits of the second stem follow those of
    the first.
    """
    wait_for_previous_launch()
    second, split = part_of(tl.program_id(1), splits)
    # Offsets instead of moved pointers, which would take twice the registers: one configuration would spill.
    before, before_in = tl.where(second, rows, 0), tl.where(second, rows // L_out * L_in, 0)
    if OUT == "up":
        dz_ptr += offset_of_stem(second, rows // L_out * L_fine) * C_OUT
    in_at += tl.where(second, 5 * stride_n, 0)
    sums_at = out_at + tl.where(second, 2 * stride_s, 0)
    out_at += tl.where(second, 5 * stride_n, 0)
    rows, L_in, L_out = tl.where(second, rows_2, rows), tl.where(second, L_in_2, L_in), tl.where(second, L_out_2, L_out)
    L_fine, of_split = tl.where(second, L_fine_2, L_fine), tl.where(second, of_split_2, of_split)
    j = (tl.program_id(0) // TILES_N) * BLOCK_J + tl.arange(0, BLOCK_J)
    tile_n = tl.program_id(0) % TILES_N
    n = tile_n * BLOCK_N + tl.arange(0, BLOCK_N)
    tap, c = j // CIN_PAD, j % CIN_PAD
    mask_j = (tap < K) & (c < C_IN)
    mask_n = (n < C_OUT)[None, :]
    keep = mask_n & (n[None, :] * 0 + tl.program_id(0) < TILES_N)  # one program of each row stores dpre
    compute = dz_ptr.dtype.element_ty
    count = rows * 1.0
    acc = tl.zeros([BLOCK_J, BLOCK_N], tl.float32)
    begin = split * of_split
    for first in range(begin, tl.minimum(begin + of_split, rows), BLOCK_R):
        row = first + tl.arange(0, BLOCK_R)
        mask_r = row < rows  # of_split is a multiple of BLOCK_R
        sample = row // L_out
        position = row - sample * L_out
        mask = mask_r[:, None] & mask_n
        place = (before + row).to(tl.int64)[:, None] * C_OUT + n[None, :]
        if OUT == "up":
            d = up_adjoint(dz_ptr, sample, position, mask_r, L_fine, L_out, n[None, :], mask_n, C_OUT, BLOCK_R, BLOCK_N)
        else:
            d = tl.load(dz_ptr + place, mask=mask, other=0.0)
            if OUT == "norm":
                d = d.to(tl.float32)
                pre = d
                if BATCH:
                    pre = tl.load(pre_ptr + place, mask=mask, other=0.0).to(tl.float32)
                d = before_norm(
                    d, pre, sums_ptr + sums_at, stride_s, norms_ptr + out_at, stride_n, n[None, :], mask_n, count, BATCH
                )
                d = tl.where(mask, d, 0.0)
        d = d.to(compute)
        if KEEP:
            tl.store(dpre_ptr + place, d, mask=mask_r[:, None] & keep)
        start = (sample.to(tl.int64) * L_in + (before_in + position * STRIDE - K // 2)) * C_IN
        at = (position * STRIDE - K // 2)[:, None] + tap[None, :]  # [BLOCK_R, BLOCK_J]
        inside = mask_r[:, None] & mask_j[None, :] & (at >= 0) & (at < L_in)
        a = load_rows(
            a_ptr, start[:, None] + (tap * C_IN + c)[None, :], inside, norms_ptr + in_at, stride_n,
            c[None, :], mask_j[None, :], NORM,
        )  # fmt: skip
        acc = tl.dot(tl.trans(a.to(compute)), d, acc, input_precision=PRECISION)
    at = arena_at + tl.program_id(1).to(tl.int64) * (DEPTH * COUT_PAD)
    tl.store(arena_ptr + at + j[:, None] * COUT_PAD + n[None, :], acc, mask=(j < DEPTH)[:, None])


@triton.jit
def stem_reduce_kernel(
    arena_ptr, table_ptr, map_ptr, sums_ptr, norms_ptr, out_ptr,
    chunks, weights, channels, stride_s, skip_channel, skip_flat,
    BATCH: tl.constexpr, CHUNK: tl.constexpr, BLOCK_CHUNKS: tl.constexpr,
):  # fmt: skip
    """Gradients in the layout of `flat` (out): chunks of the weights, summed over their parts, then gammas and betas.

    The gradient of skip's weight has a formula: dw = gamma rstd G with running statistics, G = sum g (x - mean of x);
    with the batch's, where the mean and all but eps of the variance follow w, that times eps rstd^2. The second axis of
    programs is the stem.
    """
    wait_for_previous_launch()
    dtype = out_ptr.dtype.element_ty
    stem = tl.program_id(1).to(tl.int64)
    table_ptr += stem * (3 * chunks)
    sums_ptr += stem * (2 * stride_s)
    norms_ptr += stem * (5 * (channels + 1))
    out_ptr += stem * (weights + 2 * channels)
    chunk = tl.program_id(0) * BLOCK_CHUNKS + tl.arange(0, BLOCK_CHUNKS)
    inside = chunk < chunks
    first = tl.load(table_ptr + 3 * chunk, mask=inside, other=0).to(tl.int64)
    distance = tl.load(table_ptr + 3 * chunk + 1, mask=inside, other=0).to(tl.int64)
    parts = tl.load(table_ptr + 3 * chunk + 2, mask=inside, other=0)
    offs = tl.arange(0, CHUNK)[None, :]
    to = tl.load(map_ptr + chunk[:, None] * CHUNK + offs, mask=inside[:, None], other=-1)  # [BLOCK_CHUNKS, CHUNK]
    total = tl.zeros([BLOCK_CHUNKS, CHUNK], tl.float32)
    for part in range(0, tl.max(parts, axis=0)):
        at = (first + part * distance)[:, None] + offs
        total += tl.load(arena_ptr + at, mask=(part < parts)[:, None] & (to >= 0), other=0.0)
    skip = (parts == 0)[:, None] & (to >= 0)
    s = to - skip_flat
    scale = tl.load(norms_ptr + SCALE * (channels + 1) + skip_channel + s, mask=skip, other=0.0)
    skip_gradient = scale * tl.load(sums_ptr + channels + s, mask=skip, other=0.0)
    if BATCH:
        rstd = tl.load(norms_ptr + RSTD * (channels + 1) + skip_channel + s, mask=skip, other=0.0)
        skip_gradient *= EPS * rstd * rstd
    total = tl.where(skip, skip_gradient, total)
    tl.store(out_ptr + to, total.to(dtype), mask=to >= 0)

    c = (chunk - chunks)[:, None] * CHUNK + offs  # the programs after those of the weights
    known = (c >= 0) & (c < channels)
    dgamma = tl.load(sums_ptr + stride_s + c, mask=known, other=0.0)
    dbeta = tl.load(sums_ptr + c, mask=known, other=0.0)
    tl.store(out_ptr + weights + c, dgamma.to(dtype), mask=known)
    tl.store(out_ptr + weights + channels + c, dbeta.to(dtype), mask=known)
