"""Kernels of the stem's forward: pack, convolution with its statistics, activation, mix of two levels, end."""

from __future__ import annotations

import triton
import triton.language as tl

from xmae_fast.ops._device import silu, wait_for_previous_launch
from xmae_fast.ops.conv_stem.triton.device import (
    BETA,
    EPS,
    MEAN,
    RSTD,
    SCALE,
    UNBIASED,
    between,
    convolve,
    load_rows,
    normalised,
    offset_of_stem,
    part_of,
)
from xmae_fast.ops.conv_stem.triton.merge import TILES, group_complete, leave, merged, places, stem_complete


@triton.jit
def _store_norm(norms_ptr, stride_n, c, mask, mean, var, unbiased, gamma, beta):
    rstd = 1.0 / tl.sqrt(var + EPS)
    tl.store(norms_ptr + MEAN * stride_n + c, mean, mask=mask)
    tl.store(norms_ptr + RSTD * stride_n + c, rstd, mask=mask)
    tl.store(norms_ptr + UNBIASED * stride_n + c, unbiased, mask=mask)
    tl.store(norms_ptr + SCALE * stride_n + c, gamma * rstd, mask=mask)
    tl.store(norms_ptr + BETA * stride_n + c, beta, mask=mask)


@triton.jit
def stem_pack_kernel(
    flat_ptr, map_ptr, packed_ptr, norms_ptr, packed_size, flat_size, weights, channels,
    RUNNING: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """packed[i] = flat[map[i]], 0 where map is -1; with RUNNING the programs after these fill `norms` from running
    statistics.

    The second axis of programs is the stem.
    """
    wait_for_previous_launch()
    stem = tl.program_id(1).to(tl.int64)
    flat_ptr += stem * flat_size
    packed_ptr += stem * packed_size
    norms_ptr += stem * (5 * (channels + 1))
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = at < packed_size
    source = tl.load(map_ptr + at, mask=inside, other=-1)
    weight = tl.load(flat_ptr + source, mask=source >= 0, other=0.0)
    tl.store(packed_ptr + at, weight.to(packed_ptr.dtype.element_ty), mask=inside)
    if RUNNING:
        c = at - packed_size
        known = (c >= 0) & (c < channels)
        norm_ptr = flat_ptr + weights + c
        gamma = tl.load(norm_ptr, mask=known, other=0.0).to(tl.float32)
        beta = tl.load(norm_ptr + channels, mask=known, other=0.0).to(tl.float32)
        mean = tl.load(norm_ptr + 2 * channels, mask=known, other=0.0).to(tl.float32)
        var = tl.load(norm_ptr + 3 * channels, mask=known, other=0.0).to(tl.float32)
        # The last column, the mean of x, is 0 here: pre-BatchNorm values of skip are not centred.
        _store_norm(norms_ptr, channels + 1, c, (c >= 0) & (c <= channels), mean, var, var, gamma, beta)


@triton.jit
def _moments(values, mask, count):
    """The mean and the sum of squared distances from it [BLOCK_N] over the rows of a tile, values [BLOCK_M, BLOCK_N].

    Both are corrected by the mean distance from the mean that was computed first: where a channel hardly varies, the
    rounding of that mean is many standard deviations.
    """
    mean = tl.sum(tl.where(mask, values, 0.0), axis=0) / count
    away = tl.where(mask, values - mean[None, :], 0.0)
    rest = tl.sum(away, axis=0) / count
    return mean + rest, tl.maximum(tl.sum(away * away, axis=0) - rest * rest * count, 0.0)


@triton.jit
def _variances(square, samples):
    """The variance and the unbiased one of `samples` values, from their sum of squared distances from the mean."""
    return square / samples, square / tl.maximum(samples - 1.0, 1.0)


@triton.jit
def _store_norm_of_batch(norms_ptr, flat_ptr, weights, channels, at, c, mask, mean, var, unbiased):
    """Store the normalisation of channels at + c."""
    gamma = tl.load(flat_ptr + weights + at + c, mask=mask, other=0.0).to(tl.float32)
    beta = tl.load(flat_ptr + weights + channels + at + c, mask=mask, other=0.0).to(tl.float32)
    _store_norm(norms_ptr, channels + 1, at + c, mask, mean, var, unbiased, gamma, beta)


@triton.jit
def _store_norm_of_skip(
    norms_ptr, flat_ptr, w_ptr, weights, channels, skip_channel, mean, var, unbiased,
    S: tl.constexpr, BLOCK_S: tl.constexpr,
):  # fmt: skip
    """Store the normalisation of x itself, whose moments [1] are given, and of the layer skip: the values w x have the
    mean of x times w, and its variance times w^2."""
    one = tl.arange(0, 1)
    _store_norm(norms_ptr, channels + 1, channels + one, one == 0, mean, var, unbiased, 0.0, 0.0)
    s = tl.arange(0, BLOCK_S)
    mask_s = s < S
    w = tl.load(w_ptr + s, mask=mask_s, other=0.0).to(tl.float32)
    w2 = w * w
    _store_norm_of_batch(
        norms_ptr, flat_ptr, weights, channels, skip_channel, s, mask_s, w * mean, w2 * var, w2 * unbiased
    )


@triton.jit
def stem_conv_kernel(
    x_ptr, w_ptr, norms_ptr, out_ptr, flat_ptr, partial_ptr, counters_ptr, skip_x_ptr,
    rows, rows_2, L_in, L_in_2, L_out, L_out_2, stride_w, stride_n, stride_f, weights,
    in_at, out_at, w_at, fuse_at, skip_at, skip_channel,
    C_IN: tl.constexpr, CIN_PAD: tl.constexpr, C_OUT: tl.constexpr, COUT_PAD: tl.constexpr,
    K: tl.constexpr, STRIDE: tl.constexpr, NORM: tl.constexpr, STATISTICS: tl.constexpr, ACTIVATE: tl.constexpr,
    FUSE: tl.constexpr, SKIP: tl.constexpr, S: tl.constexpr, BLOCK_S: tl.constexpr,
    PRECISION: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """out [rows, C_OUT] = conv(x); with NORM x is normalised and activated on load.

    With STATISTICS the normalisation of the channels by the moments of all rows is stored too (see merge.py); where x
    has one channel, also that of x itself and of the layer skip at skip_at. With ACTIVATE out = silu(bn(conv(x))); then
    with FUSE the 1x1 layer at fuse_at, its BatchNorm (of the channels that follow) and SiLU are applied to that, and
    with SKIP bn(w x) of the 1 -> C_OUT layer at skip_at is added.
    """
    wait_for_previous_launch()
    tiles, tiles_2 = tl.cdiv(rows, BLOCK_M), tl.cdiv(rows_2, BLOCK_M)
    second, tile = part_of(tl.program_id(0), tiles)
    x_ptr += offset_of_stem(second, rows // L_out * L_in) * C_IN
    out_ptr += offset_of_stem(second, rows) * C_OUT
    w_ptr += offset_of_stem(second, stride_w)
    norms_ptr += offset_of_stem(second, 5 * stride_n)
    if SKIP:
        skip_x_ptr += offset_of_stem(second, rows)
    rows, L_in, L_out = tl.where(second, rows_2, rows), tl.where(second, L_in_2, L_in), tl.where(second, L_out_2, L_out)
    row = tile * BLOCK_M + tl.arange(0, BLOCK_M)
    n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    mask_m, mask_n = row < rows, n < C_OUT
    mask = mask_m[:, None] & mask_n[None, :]
    acc = convolve(
        x_ptr, w_ptr + w_at, norms_ptr + in_at, stride_n, row, mask_m, L_in, L_out, n,
        C_IN, CIN_PAD, COUT_PAD, K, STRIDE, NORM, PRECISION, BLOCK_M, BLOCK_K, BLOCK_N,
    )  # fmt: skip
    if ACTIVATE:
        acc = silu(normalised(acc, norms_ptr + out_at, stride_n, n[None, :], mask_n[None, :]))
        if FUSE:
            k = tl.arange(0, BLOCK_N)
            w = tl.load(w_ptr + fuse_at + k[:, None] * COUT_PAD + n[None, :])  # [BLOCK_N, BLOCK_N]
            acc = tl.dot(tl.where(mask, acc, 0.0).to(w.dtype), w, input_precision=PRECISION)
            acc = silu(normalised(acc, norms_ptr + out_at + C_OUT, stride_n, n[None, :], mask_n[None, :]))
        if SKIP:
            x = tl.load(skip_x_ptr + row, mask=mask_m, other=0.0).to(tl.float32)
            w = tl.load(w_ptr + skip_at + n).to(tl.float32)
            product = x[:, None] * w[None, :]
            acc += normalised(product, norms_ptr + skip_channel, stride_n, n[None, :], mask_n[None, :])
    out = acc.to(out_ptr.dtype.element_ty)
    tl.store(out_ptr + row.to(tl.int64)[:, None] * C_OUT + n[None, :], out, mask=mask)
    if STATISTICS:
        flat_ptr += offset_of_stem(second, stride_f)
        channels = stride_n - 1
        columns = C_OUT + (CIN_PAD == 1)
        here = tl.program_id(0)
        count = tl.minimum(rows - tile * BLOCK_M, BLOCK_M) * 1.0
        mean, square = _moments(out.to(tl.float32), mask, count)
        leave(partial_ptr, here, mean, square, columns, n, mask_n)
        of_x = C_OUT + tl.arange(0, 1)
        if CIN_PAD == 1:
            x = tl.load(x_ptr + row, mask=mask_m, other=0.0).to(tl.float32)[:, None]
            mean, square = _moments(x, mask_m[:, None], count)
            leave(partial_ptr, here, mean, square, columns, of_x, of_x == C_OUT)
        group, first_tile, first_group, of_stem, groups = places(second, tile, tiles, tiles_2)
        if group_complete(counters_ptr, second, group, tiles, tiles_2, of_stem):
            first = group * TILES
            items = tl.minimum(of_stem - first, TILES)
            samples = tl.minimum(rows - first * BLOCK_M, TILES * BLOCK_M)
            mean, square = merged(partial_ptr, first_tile + first, items, samples, BLOCK_M, columns, n, mask_n)
            leave(partial_ptr, first_group + group, mean, square, columns, n, mask_n)
            if CIN_PAD == 1:
                mean, square = merged(
                    partial_ptr, first_tile + first, items, samples, BLOCK_M, columns, of_x, of_x == C_OUT
                )
                leave(partial_ptr, first_group + group, mean, square, columns, of_x, of_x == C_OUT)
            if stem_complete(counters_ptr, second, tiles, tiles_2, groups):
                size = TILES * BLOCK_M
                mean, square = merged(partial_ptr, first_group, groups, rows, size, columns, n, mask_n)
                var, unbiased = _variances(square, rows * 1.0)
                _store_norm_of_batch(norms_ptr, flat_ptr, weights, channels, out_at, n, mask_n, mean, var, unbiased)
                if CIN_PAD == 1:
                    mean, square = merged(partial_ptr, first_group, groups, rows, size, columns, of_x, of_x == C_OUT)
                    var, unbiased = _variances(square, rows * 1.0)
                    _store_norm_of_skip(
                        norms_ptr, flat_ptr, w_ptr + skip_at, weights, channels, skip_channel, mean, var, unbiased,
                        S, BLOCK_S,
                    )  # fmt: skip


@triton.jit
def stem_activation_kernel(
    x_ptr, norms_ptr, out_ptr, rows, rows_2, stride_n, in_at,
    C: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_M: tl.constexpr,
):  # fmt: skip
    """out = silu(bn(x)), [rows, C]."""
    wait_for_previous_launch()
    second, tile = part_of(tl.program_id(0), tl.cdiv(rows, BLOCK_M))
    x_ptr += offset_of_stem(second, rows) * C
    out_ptr += offset_of_stem(second, rows) * C
    norms_ptr += offset_of_stem(second, 5 * stride_n)
    rows = tl.where(second, rows_2, rows)
    row = tile * BLOCK_M + tl.arange(0, BLOCK_M)
    c = tl.arange(0, BLOCK_C)[None, :]
    mask = (row < rows)[:, None] & (c < C)
    at = row.to(tl.int64)[:, None] * C + c
    out = load_rows(x_ptr, at, mask, norms_ptr + in_at, stride_n, c, c < C, True)
    tl.store(out_ptr + at, out.to(out_ptr.dtype.element_ty), mask=mask)


@triton.jit
def stem_mix_kernel(
    fine_ptr, coarse_ptr, w_ptr, norms_ptr, out_ptr,
    rows, rows_2, L, L_2, L_coarse, L_coarse_2, stride_w, stride_n, fine_at, coarse_at, lateral_at, reduce_at,
    C: tl.constexpr, C_PAD: tl.constexpr, CC: tl.constexpr, CC_PAD: tl.constexpr,
    NORM: tl.constexpr, PRECISION: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """out [rows, C] = fine lateral + up(coarse) reduce, which is up(coarse reduce): interpolation commutes with a 1x1
    convolution."""
    wait_for_previous_launch()
    compute = w_ptr.dtype.element_ty
    second, tile = part_of(tl.program_id(0), tl.cdiv(rows, BLOCK_M))
    fine_ptr += offset_of_stem(second, rows) * C
    coarse_ptr += offset_of_stem(second, rows // L * L_coarse) * CC
    out_ptr += offset_of_stem(second, rows) * C
    w_ptr += offset_of_stem(second, stride_w)
    norms_ptr += offset_of_stem(second, 5 * stride_n)
    rows, L = tl.where(second, rows_2, rows), tl.where(second, L_2, L)
    L_coarse = tl.where(second, L_coarse_2, L_coarse)
    row = tile * BLOCK_M + tl.arange(0, BLOCK_M)
    n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    mask_m = row < rows
    sample = row // L
    acc = convolve(
        fine_ptr, w_ptr + lateral_at, norms_ptr + fine_at, stride_n, row, mask_m, L, L, n,
        C, C_PAD, C_PAD, 1, 1, NORM, PRECISION, BLOCK_M, BLOCK_K, BLOCK_N,
    )  # fmt: skip
    low, high, share = between(row - sample * L, L, L_coarse)
    first = sample.to(tl.int64) * L_coarse
    low, high = ((first + low) * CC)[:, None], ((first + high) * CC)[:, None]
    norms_ptr += coarse_at
    for c0 in tl.static_range(0, CC_PAD, BLOCK_K):
        c = c0 + tl.arange(0, BLOCK_K)
        mask_c = (c < CC)[None, :]
        mask = mask_m[:, None] & mask_c
        a = load_rows(coarse_ptr, low + c[None, :], mask, norms_ptr, stride_n, c[None, :], mask_c, NORM)
        b = load_rows(coarse_ptr, high + c[None, :], mask, norms_ptr, stride_n, c[None, :], mask_c, NORM)
        x = a * (1.0 - share)[:, None] + b * share[:, None]
        w = tl.load(w_ptr + reduce_at + c[:, None] * C_PAD + n[None, :])
        acc = tl.dot(x.to(compute), w, acc, input_precision=PRECISION)
    mask = mask_m[:, None] & (n < C)[None, :]
    tl.store(out_ptr + row.to(tl.int64)[:, None] * C + n[None, :], acc.to(out_ptr.dtype.element_ty), mask=mask)


@triton.jit
def stem_end_kernel(
    head_ptr, x_ptr, w_ptr, norms_ptr, out_ptr, rows, rows_2, stride_w, stride_n, head_at, skip_at, skip_channel,
    S: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK_M: tl.constexpr,
):  # fmt: skip
    """out [rows, S] = silu(bn(head)) + bn(w x)."""
    wait_for_previous_launch()
    second, tile = part_of(tl.program_id(0), tl.cdiv(rows, BLOCK_M))
    head_ptr += offset_of_stem(second, rows) * S
    x_ptr += offset_of_stem(second, rows)
    out_ptr += offset_of_stem(second, rows) * S
    w_ptr += offset_of_stem(second, stride_w)
    norms_ptr += offset_of_stem(second, 5 * stride_n)
    rows = tl.where(second, rows_2, rows)
    row = tile * BLOCK_M + tl.arange(0, BLOCK_M)
    s = tl.arange(0, BLOCK_S)[None, :]
    mask = (row < rows)[:, None] & (s < S)
    at = row.to(tl.int64)[:, None] * S + s
    head = load_rows(head_ptr, at, mask, norms_ptr + head_at, stride_n, s, s < S, True)
    x = tl.load(x_ptr + row, mask=row < rows, other=0.0).to(tl.float32)[:, None]
    w = tl.load(w_ptr + skip_at + s, mask=s < S, other=0.0).to(tl.float32)
    skip = normalised(x * w, norms_ptr + skip_channel, stride_n, s, s < S)
    tl.store(out_ptr + at, (head + skip).to(out_ptr.dtype.element_ty), mask=mask)
