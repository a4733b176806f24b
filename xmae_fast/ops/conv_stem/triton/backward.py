"""Kernels of the stem's backward: the end, gradients of inputs and of the waveform. weights.py has the weights', and
pointwise.py both of a 1x1 layer.

For a unit a = silu(bn(pre)), pre = conv(a_in), xhat = (pre - mean) rstd:
    dz = da silu'(bn(pre)); dbeta = sum dz; dgamma = sum dz xhat
    dpre = gamma rstd (dz - dbeta / n - xhat dgamma / n), with running statistics gamma rstd dz
`sums` is float32 [2, channels + S]: dbeta and dgamma of every channel, then sum g (x - mean of x) for skip's channels.
They are added up by the program that comes last (merge.py).
"""

from __future__ import annotations

import triton
import triton.language as tl

from xmae_fast.ops._device import silu_grad, wait_for_previous_launch
from xmae_fast.ops.conv_stem.triton.device import MEAN, RSTD, before_norm, normalised, offset_of_stem, part_of
from xmae_fast.ops.conv_stem.triton.merge import add_up, leave


@triton.jit
def _leave_sums(first, second, partial_ptr, columns, c, mask_c):
    """Leave the sums over the rows of a tile of two [BLOCK_M, BLOCK_C] tensors, which are zero outside; c [BLOCK_C] are
    the columns."""
    leave(partial_ptr, tl.program_id(0), tl.sum(first, axis=0), tl.sum(second, axis=0), columns, c, mask_c)


@triton.jit
def _load_gradient(
    grad_ptr, stride_gb, stride_gl, stride_gs, grad_2_ptr, stride_gb_2, stride_gl_2, stride_gs_2,
    second, sample, position, s, mask,
):  # fmt: skip
    """Gradient of a stem's features at rows and channels s [1, BLOCK_S], float32; each stem has a tensor of its own."""
    sample, position, s = sample.to(tl.int64)[:, None], position.to(tl.int64)[:, None], s.to(tl.int64)
    if second:
        at = sample * stride_gb_2 + position * stride_gl_2 + s * stride_gs_2
        g = tl.load(grad_2_ptr + at, mask=mask, other=0.0)
    else:
        at = sample * stride_gb + position * stride_gl + s * stride_gs
        g = tl.load(grad_ptr + at, mask=mask, other=0.0)
    return g.to(tl.float32)


@triton.jit
def stem_end_backward_kernel(
    grad_ptr, stride_gb, stride_gl, stride_gs, grad_2_ptr, stride_gb_2, stride_gl_2, stride_gs_2,
    head_ptr, x_ptr, w_ptr, norms_ptr, sums_ptr, dz_ptr, partial_ptr, counters_ptr,
    rows, rows_2, L, L_2, stride_w, stride_n, stride_s, head_at, skip_at, skip_channel, x_channel,
    S: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK_M: tl.constexpr,
):  # fmt: skip
    """dz of head, and the sums of dz, dz xhat (head), g, g xhat (skip), g (x - mean of x)."""
    wait_for_previous_launch()
    tiles, tiles_2 = tl.cdiv(rows, BLOCK_M), tl.cdiv(rows_2, BLOCK_M)
    second, tile = part_of(tl.program_id(0), tiles)
    head_ptr += offset_of_stem(second, rows) * S
    x_ptr += offset_of_stem(second, rows)
    dz_ptr += offset_of_stem(second, rows) * S
    w_ptr += offset_of_stem(second, stride_w)
    norms_ptr += offset_of_stem(second, 5 * stride_n)
    sums_ptr += offset_of_stem(second, 2 * stride_s) + head_at
    rows, L = tl.where(second, rows_2, rows), tl.where(second, L_2, L)
    row = tile * BLOCK_M + tl.arange(0, BLOCK_M)
    s = tl.arange(0, BLOCK_S)
    mask_s = s < S
    mask_n = mask_s[None, :]
    mask = (row < rows)[:, None] & mask_n
    sample = row // L
    g = _load_gradient(
        grad_ptr, stride_gb, stride_gl, stride_gs, grad_2_ptr, stride_gb_2, stride_gl_2, stride_gs_2,
        second, sample, row - sample * L, s[None, :], mask,
    )  # fmt: skip
    place = row.to(tl.int64)[:, None] * S + s[None, :]
    pre = tl.load(head_ptr + place, mask=mask, other=0.0).to(tl.float32)
    n = s[None, :]
    head_ptr = norms_ptr + head_at
    dz = (g * silu_grad(normalised(pre, head_ptr, stride_n, n, mask_n))).to(dz_ptr.dtype.element_ty)
    tl.store(dz_ptr + place, dz, mask=mask)
    mean = tl.load(head_ptr + MEAN * stride_n + n, mask=mask_n, other=0.0)
    rstd = tl.load(head_ptr + RSTD * stride_n + n, mask=mask_n, other=0.0)
    dz = dz.to(tl.float32)
    _leave_sums(dz, dz * (pre - mean) * rstd, partial_ptr, 3 * S, s, mask_s)

    x = tl.load(x_ptr + row, mask=row < rows, other=0.0).to(tl.float32)[:, None]
    w = tl.load(w_ptr + skip_at + n, mask=mask_n, other=0.0).to(tl.float32)
    skip_ptr = norms_ptr + skip_channel
    mean = tl.load(skip_ptr + MEAN * stride_n + n, mask=mask_n, other=0.0)
    rstd = tl.load(skip_ptr + RSTD * stride_n + n, mask=mask_n, other=0.0)
    _leave_sums(g, g * (x * w - mean) * rstd, partial_ptr, 3 * S, s + S, mask_s)
    centred = g * (x - tl.load(norms_ptr + x_channel))
    _leave_sums(centred, centred, partial_ptr, 3 * S, s + 2 * S, mask_s)
    add_up(partial_ptr, sums_ptr, counters_ptr, second, tile, tiles, tiles_2, stride_s, 3 * S, s, mask_s, S, 3)


@triton.jit
def stem_input_gradient_kernel(
    d_ptr, w_ptr, mix_ptr, pre_ptr, norms_ptr, sums_ptr, out_ptr, partial_ptr, counters_ptr,
    rows, rows_2, L_in, L_in_2, L_out, L_out_2, stride_w, stride_n, stride_s, in_at, w_at, lateral_at,
    C_IN: tl.constexpr, CIN_PAD: tl.constexpr, C_OUT: tl.constexpr, COUT_PAD: tl.constexpr,
    K: tl.constexpr, STRIDE: tl.constexpr, MIX: tl.constexpr, NORM: tl.constexpr,
    PRECISION: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """Gradient of a convolution's input, [rows, C_IN], from the gradient d of its output.

    With MIX the input gradient of the 1x1 layer at lateral_at (C_IN -> C_IN), from the gradient `mix` of its output, is
    added. With NORM, where the input is the activation of a unit, the result is multiplied by silu'(bn(pre)) of that
    unit, and the sums of dz and dz xhat are stored.
    """
    wait_for_previous_launch()
    tiles, tiles_2 = tl.cdiv(rows, BLOCK_M), tl.cdiv(rows_2, BLOCK_M)
    second, tile = part_of(tl.program_id(0), tiles)
    before = offset_of_stem(second, rows)
    d_ptr += offset_of_stem(second, rows // L_in * L_out) * C_OUT
    out_ptr += before * C_IN
    if MIX:
        mix_ptr += before * C_IN
    if NORM:
        pre_ptr += before * C_IN
    w_ptr += offset_of_stem(second, stride_w)
    norms_ptr += offset_of_stem(second, 5 * stride_n)
    rows, L_in, L_out = tl.where(second, rows_2, rows), tl.where(second, L_in_2, L_in), tl.where(second, L_out_2, L_out)
    row = tile * BLOCK_M + tl.arange(0, BLOCK_M)
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
        _leave_sums(dz, dz * (pre - mean[None, :]) * rstd[None, :], partial_ptr, C_IN, n, mask_n)
        sums_ptr += offset_of_stem(second, 2 * stride_s) + in_at
        add_up(partial_ptr, sums_ptr, counters_ptr, second, tile, tiles, tiles_2, stride_s, C_IN, n, mask_n, 0, 1)


@triton.jit
def stem_waveform_gradient_kernel(
    dpre_ptr, grad_ptr, stride_gb, stride_gl, stride_gs, grad_2_ptr, stride_gb_2, stride_gl_2, stride_gs_2,
    x_ptr, w_ptr, norms_ptr, sums_ptr, out_ptr,
    rows, rows_2, L, L_2, stride_w, stride_n, stride_s, w_at, skip_at, skip_channel,
    C: tl.constexpr, C_PAD: tl.constexpr, S: tl.constexpr, S_PAD: tl.constexpr, K: tl.constexpr, BATCH: tl.constexpr,
    BLOCK_M: tl.constexpr,
):  # fmt: skip
    """Gradient of x: through the first convolution (dpre [rows, C]) and through skip."""
    wait_for_previous_launch()
    second, tile = part_of(tl.program_id(0), tl.cdiv(rows, BLOCK_M))
    dpre_ptr += offset_of_stem(second, rows) * C
    x_ptr += offset_of_stem(second, rows)
    out_ptr += offset_of_stem(second, rows)
    w_ptr += offset_of_stem(second, stride_w)
    norms_ptr += offset_of_stem(second, 5 * stride_n)
    sums_ptr += offset_of_stem(second, 2 * stride_s)
    rows, L = tl.where(second, rows_2, rows), tl.where(second, L_2, L)
    row = tile * BLOCK_M + tl.arange(0, BLOCK_M)
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
    g = _load_gradient(
        grad_ptr, stride_gb, stride_gl, stride_gs, grad_2_ptr, stride_gb_2, stride_gl_2, stride_gs_2,
        second, sample, position, s, mask,
    )  # fmt: skip
    x = tl.load(x_ptr + row, mask=mask_m, other=0.0).to(tl.float32)[:, None]
    w = tl.load(w_ptr + skip_at + s, mask=s < S, other=0.0).to(tl.float32)
    norm_ptr = norms_ptr + skip_channel
    d = before_norm(g, x * w, sums_ptr + skip_channel, stride_s, norm_ptr, stride_n, s, s < S, rows * 1.0, BATCH)
    total += tl.sum(tl.where(mask, d * w, 0.0), axis=1)
    tl.store(out_ptr + row, total.to(out_ptr.dtype.element_ty), mask=mask_m)
