"""Kernels of the stem's backward: end, sums, weight and input gradients, the waveform's, reduction.

For a unit a = silu(bn(pre)), pre = conv(a_in), xhat = (pre - mean) rstd:
    dz = da silu'(bn(pre)); dbeta = sum dz; dgamma = sum dz xhat
    dpre = gamma rstd (dz - dbeta / n - xhat dgamma / n), with running statistics gamma rstd dz
`sums` is float32 [2, channels + S]: dbeta and dgamma of every channel, then sum g (x - mean of x) of skip's.
"""

from __future__ import annotations

import triton
import triton.language as tl

from xmae_fast.ops._device import silu_grad
from xmae_fast.ops.conv_stem.triton_device import EPS, MEAN, RSTD, SCALE, between, load_rows, normalised


@triton.jit
def _before_norm(dz, pre, sums_ptr, stride_s, norms_ptr, stride_n, c, mask_c, n, BATCH: tl.constexpr):
    """dpre of float32 dz and pre, channels c."""
    scale = tl.load(norms_ptr + SCALE * stride_n + c, mask=mask_c, other=0.0)
    if BATCH:
        mean = tl.load(norms_ptr + MEAN * stride_n + c, mask=mask_c, other=0.0)
        rstd = tl.load(norms_ptr + RSTD * stride_n + c, mask=mask_c, other=0.0)
        dbeta = tl.load(sums_ptr + c, mask=mask_c, other=0.0)
        dgamma = tl.load(sums_ptr + stride_s + c, mask=mask_c, other=0.0)
        dz = dz - dbeta / n - (pre - mean) * rstd * (dgamma / n)
    return scale * dz


@triton.jit
def _store_sums(first, second, partial_ptr, stride_p, c, mask_c, tiles):
    """Store the sums over the rows of a tile of two [BLOCK_M, BLOCK_C] tensors, zero outside; channels c [BLOCK_C]."""
    at = c.to(tl.int64) * tiles + tl.program_id(0)
    tl.store(partial_ptr + at, tl.sum(first, axis=0), mask=mask_c)
    tl.store(partial_ptr + stride_p + at, tl.sum(second, axis=0), mask=mask_c)


@triton.jit
def stem_end_backward_kernel(
    grad_ptr, stride_gb, stride_gl, stride_gs, head_ptr, x_ptr, w_ptr, norms_ptr, dz_ptr, partial_ptr,
    rows, L, tiles, stride_n, stride_p, head_at, skip_at, skip_channel, x_channel,
    S: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK_M: tl.constexpr,
):  # fmt: skip
    """dz of head; of each tile the sums of dz, dz xhat (head), g, g xhat (skip), g (x - mean of x): [2, 3 S, tiles]."""
    row = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    s = tl.arange(0, BLOCK_S)
    mask_s = s < S
    mask_n = mask_s[None, :]
    mask = (row < rows)[:, None] & mask_n
    sample = row // L
    at = sample.to(tl.int64) * stride_gb + (row - sample * L).to(tl.int64) * stride_gl
    g = tl.load(grad_ptr + at[:, None] + s.to(tl.int64)[None, :] * stride_gs, mask=mask, other=0.0).to(tl.float32)
    place = row.to(tl.int64)[:, None] * S + s[None, :]
    pre = tl.load(head_ptr + place, mask=mask, other=0.0).to(tl.float32)
    n = s[None, :]
    head_ptr = norms_ptr + head_at
    dz = (g * silu_grad(normalised(pre, head_ptr, stride_n, n, mask_n))).to(dz_ptr.dtype.element_ty)
    tl.store(dz_ptr + place, dz, mask=mask)
    mean = tl.load(head_ptr + MEAN * stride_n + n, mask=mask_n, other=0.0)
    rstd = tl.load(head_ptr + RSTD * stride_n + n, mask=mask_n, other=0.0)
    dz = dz.to(tl.float32)
    _store_sums(dz, dz * (pre - mean) * rstd, partial_ptr, stride_p, s, mask_s, tiles)

    x = tl.load(x_ptr + row, mask=row < rows, other=0.0).to(tl.float32)[:, None]
    w = tl.load(w_ptr + skip_at + n, mask=mask_n, other=0.0).to(tl.float32)
    skip_ptr = norms_ptr + skip_channel
    mean = tl.load(skip_ptr + MEAN * stride_n + n, mask=mask_n, other=0.0)
    rstd = tl.load(skip_ptr + RSTD * stride_n + n, mask=mask_n, other=0.0)
    _store_sums(g, g * (x * w - mean) * rstd, partial_ptr, stride_p, s + S, mask_s, tiles)
    centred = g * (x - tl.load(norms_ptr + x_channel))
    _store_sums(centred, centred, partial_ptr, stride_p, s + 2 * S, mask_s, tiles)


@triton.jit
def stem_sums_kernel(
    partial_ptr, sums_ptr, columns, tiles, stride_p, stride_s, out_at, BLOCK_C: tl.constexpr, BLOCK_T: tl.constexpr
):
    """Sums over the tiles in a fixed order, one program for BLOCK_C channels and one of the two sums."""
    c, which = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C), tl.program_id(1)
    at = partial_ptr + which.to(tl.int64) * stride_p + c.to(tl.int64)[:, None] * tiles  # [BLOCK_C, 1]
    total = tl.zeros([BLOCK_C, BLOCK_T], tl.float32)
    for first in range(0, tiles, BLOCK_T):
        t = first + tl.arange(0, BLOCK_T)[None, :]
        total += tl.load(at + t, mask=(c < columns)[:, None] & (t < tiles), other=0.0)
    tl.store(sums_ptr + which * stride_s + out_at + c, tl.sum(total, axis=1), mask=c < columns)


@triton.jit
def _up_adjoint(
    dy_ptr, sample, j, mask_m, L, L_coarse, c, mask_c, C: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_C: tl.constexpr
):
    """What linear interpolation from coarse positions j takes from dy: sum of dy at fine positions with the weights
    of j there; only 2 j - 2 .. 2 j + 2 have any. -> float32 [BLOCK_M, BLOCK_C]"""
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
    rows, L_in, L_out, L_fine, of_split, stride_n, stride_s, in_at, out_at, arena_at,
    C_IN: tl.constexpr, CIN_PAD: tl.constexpr, C_OUT: tl.constexpr, COUT_PAD: tl.constexpr,
    K: tl.constexpr, STRIDE: tl.constexpr, DEPTH: tl.constexpr, NORM: tl.constexpr, BATCH: tl.constexpr,
    OUT: tl.constexpr, KEEP: tl.constexpr, TILES_N: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_R: tl.constexpr, BLOCK_J: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """arena [splits][DEPTH, COUT_PAD]: sums over a part of the rows of a[row, tap, c_in] dpre[row, c_out].

    A program has BLOCK_J (tap, c_in) pairs and BLOCK_N output channels. OUT says what dpre is:
    "norm": of dz through the BatchNorm; "plain": dz as it is; "up": dz is of an output that
    interpolates the rows, dpre the adjoint's. KEEP: dpre is stored, for the input gradient.
    """
    j = (tl.program_id(0) // TILES_N) * BLOCK_J + tl.arange(0, BLOCK_J)
    tile_n = tl.program_id(0) % TILES_N
    n = tile_n * BLOCK_N + tl.arange(0, BLOCK_N)
    split = tl.program_id(1)
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
        place = row.to(tl.int64)[:, None] * C_OUT + n[None, :]
        if OUT == "up":
            d = _up_adjoint(
                dz_ptr, sample, position, mask_r, L_fine, L_out, n[None, :], mask_n, C_OUT, BLOCK_R, BLOCK_N
            )
        else:
            d = tl.load(dz_ptr + place, mask=mask, other=0.0)
            if OUT == "norm":
                d = d.to(tl.float32)
                pre = d
                if BATCH:
                    pre = tl.load(pre_ptr + place, mask=mask, other=0.0).to(tl.float32)
                d = _before_norm(
                    d, pre, sums_ptr + out_at, stride_s, norms_ptr + out_at, stride_n, n[None, :], mask_n, count, BATCH
                )
                d = tl.where(mask, d, 0.0)
        d = d.to(compute)
        if KEEP:
            tl.store(dpre_ptr + place, d, mask=mask_r[:, None] & keep)
        start = (sample.to(tl.int64) * L_in + position * STRIDE - K // 2) * C_IN
        at = (position * STRIDE - K // 2)[:, None] + tap[None, :]  # [BLOCK_R, BLOCK_J]
        inside = mask_r[:, None] & mask_j[None, :] & (at >= 0) & (at < L_in)
        a = load_rows(
            a_ptr, start[:, None] + (tap * C_IN + c)[None, :], inside, norms_ptr + in_at, stride_n,
            c[None, :], mask_j[None, :], NORM,
        )  # fmt: skip
        acc = tl.dot(tl.trans(a.to(compute)), d, acc, input_precision=PRECISION)
    at = arena_at + split.to(tl.int64) * (DEPTH * COUT_PAD)
    tl.store(arena_ptr + at + j[:, None] * COUT_PAD + n[None, :], acc, mask=(j < DEPTH)[:, None])


@triton.jit
def stem_input_gradient_kernel(
    d_ptr, w_ptr, mix_ptr, pre_ptr, norms_ptr, out_ptr, partial_ptr,
    rows, L_in, L_out, tiles, stride_n, stride_p, in_at, w_at, lateral_at,
    C_IN: tl.constexpr, CIN_PAD: tl.constexpr, C_OUT: tl.constexpr, COUT_PAD: tl.constexpr,
    K: tl.constexpr, STRIDE: tl.constexpr, MIX: tl.constexpr, NORM: tl.constexpr,
    PRECISION: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """Gradient of a convolution's input, [rows, C_IN], from that of its output d.

    MIX: plus that of the 1x1 layer at lateral_at (C_IN -> C_IN) from mix. NORM: times silu'(bn(pre)) of the unit that
    the input is the activation of; also the sums of dz and dz xhat of each tile, [2, C_IN, tiles].
    """
    row = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    mask_m, mask_n = row < rows, n < C_IN
    mask = mask_m[:, None] & mask_n[None, :]
    sample = row // L_in
    last = row - sample * L_in + K // 2  # tap t of output (last - t) / STRIDE reads the row
    first_out = sample.to(tl.int64) * L_out
    acc = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    for tap in range(K):
        at = (last - tap) // STRIDE
        inside = mask_m & (last >= tap) & (at < L_out)
        if STRIDE > 1:
            inside = inside & ((last - tap) % STRIDE == 0)
        start = (first_out + at) * C_OUT
        for c0 in tl.static_range(0, COUT_PAD, BLOCK_K):
            c = c0 + tl.arange(0, BLOCK_K)
            d = tl.load(d_ptr + start[:, None] + c[None, :], mask=inside[:, None] & (c < C_OUT)[None, :], other=0.0)
            w = tl.load(w_ptr + w_at + (tap * CIN_PAD + n)[None, :] * COUT_PAD + c[:, None])  # [BLOCK_K, BLOCK_N]
            acc = tl.dot(d, w, acc, input_precision=PRECISION)
    place = row.to(tl.int64)[:, None] * C_IN + n[None, :]
    if MIX:
        for c0 in tl.static_range(0, CIN_PAD, BLOCK_K):
            c = c0 + tl.arange(0, BLOCK_K)
            at = row.to(tl.int64)[:, None] * C_IN + c[None, :]
            d = tl.load(mix_ptr + at, mask=mask_m[:, None] & (c < C_IN)[None, :], other=0.0)
            w = tl.load(w_ptr + lateral_at + n[None, :] * CIN_PAD + c[:, None])
            acc = tl.dot(d, w, acc, input_precision=PRECISION)
    if NORM:
        pre = tl.load(pre_ptr + place, mask=mask, other=0.0).to(tl.float32)
        norm_ptr = norms_ptr + in_at
        acc *= silu_grad(normalised(pre, norm_ptr, stride_n, n[None, :], mask_n[None, :]))
    out = acc.to(out_ptr.dtype.element_ty)
    tl.store(out_ptr + place, out, mask=mask)
    if NORM:
        mean = tl.load(norm_ptr + MEAN * stride_n + n, mask=mask_n, other=0.0)
        rstd = tl.load(norm_ptr + RSTD * stride_n + n, mask=mask_n, other=0.0)
        dz = tl.where(mask, out.to(tl.float32), 0.0)
        _store_sums(dz, dz * (pre - mean[None, :]) * rstd[None, :], partial_ptr, stride_p, n, mask_n, tiles)


@triton.jit
def stem_waveform_gradient_kernel(
    dpre_ptr, grad_ptr, stride_gb, stride_gl, stride_gs, x_ptr, w_ptr, norms_ptr, sums_ptr, out_ptr,
    rows, L, stride_n, stride_s, w_at, skip_at, skip_channel,
    C: tl.constexpr, C_PAD: tl.constexpr, S: tl.constexpr, S_PAD: tl.constexpr, K: tl.constexpr, BATCH: tl.constexpr,
    BLOCK_M: tl.constexpr,
):  # fmt: skip
    """Gradient of x: through the first convolution (dpre [rows, C]) and through skip."""
    row = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    mask_m = row < rows
    sample = row // L
    position = row - sample * L
    c = tl.arange(0, C_PAD)[None, :]
    total = tl.zeros([BLOCK_M], tl.float32)
    for tap in tl.static_range(K):
        shift = K // 2 - tap
        inside = mask_m & (position + shift >= 0) & (position + shift < L)
        at = (row.to(tl.int64) + shift) * C
        d = tl.load(dpre_ptr + at[:, None] + c, mask=inside[:, None] & (c < C), other=0.0).to(tl.float32)
        w = tl.load(w_ptr + w_at + tap * C_PAD + c).to(tl.float32)
        total += tl.sum(d * w, axis=1)
    s = tl.arange(0, S_PAD)[None, :]
    mask = mask_m[:, None] & (s < S)
    at = sample.to(tl.int64) * stride_gb + position.to(tl.int64) * stride_gl
    g = tl.load(grad_ptr + at[:, None] + s.to(tl.int64) * stride_gs, mask=mask, other=0.0).to(tl.float32)
    x = tl.load(x_ptr + row, mask=mask_m, other=0.0).to(tl.float32)[:, None]
    w = tl.load(w_ptr + skip_at + s, mask=s < S, other=0.0).to(tl.float32)
    norm_ptr = norms_ptr + skip_channel
    d = _before_norm(g, x * w, sums_ptr + skip_channel, stride_s, norm_ptr, stride_n, s, s < S, rows * 1.0, BATCH)
    total += tl.sum(tl.where(mask, d * w, 0.0), axis=1)
    tl.store(out_ptr + row, total.to(out_ptr.dtype.element_ty), mask=mask_m)


@triton.jit
def stem_reduce_kernel(
    arena_ptr, table_ptr, map_ptr, sums_ptr, norms_ptr, out_ptr,
    chunks, weights, channels, stride_s, skip_channel, skip_flat,
    BATCH: tl.constexpr, CHUNK: tl.constexpr, BLOCK_CHUNKS: tl.constexpr,
):  # fmt: skip
    """Gradients in the layout of `flat` (out): chunks of the weights, summed over the parts, then gammas and betas.

    Skip's weight has a formula: dw = gamma rstd G in running statistics, G = sum g (x - mean of x); in the batch's,
    where the mean and all but eps of the variance follow w, it is times eps rstd^2.
    """
    dtype = out_ptr.dtype.element_ty
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

    c = (chunk - chunks)[:, None] * CHUNK + offs  # the programs behind the weights
    known = (c >= 0) & (c < channels)
    dgamma = tl.load(sums_ptr + stride_s + c, mask=known, other=0.0)
    dbeta = tl.load(sums_ptr + c, mask=known, other=0.0)
    tl.store(out_ptr + weights + c, dgamma.to(dtype), mask=known)
    tl.store(out_ptr + weights + channels + c, dbeta.to(dtype), mask=known)
