"""What the stem's kernels share: normalisation on load, the convolution itself, linear interpolation.

Activations are rows [B * L, C]; row r is sample r // L at position r % L. Products are taken in the compute dtype and
summed in float32. A launch serves one stem or two. The rows, weights, norms and sums of the second stem follow those of
the first, and arguments that end in _2 belong to it; where there is no second stem they say 0 rows of length 1.
"""

from __future__ import annotations

import triton
import triton.language as tl

from xmae_fast.ops._device import silu

EPS = tl.constexpr(1e-5)
MEAN, RSTD, UNBIASED, SCALE, BETA = (tl.constexpr(row) for row in range(5))  # rows of `norms`


@triton.jit
def part_of(program, programs):
    """Whether a program serves the second stem, and its number among the programs of its stem.

    programs: how many programs serve the first stem.
    """
    second = program >= programs
    return second, tl.where(second, program - programs, program)


@triton.jit
def offset_of_stem(second, size):
    """Where a stem's numbers begin, int64: after `size` numbers of the first stem for the second, else at 0."""
    return tl.where(second, size, 0).to(tl.int64)


@triton.jit
def normalised(x, norms_ptr, stride_n, c, mask_c):
    """BatchNorm of float32 values x of the channels c: (x - mean) gamma rstd + beta."""
    mean = tl.load(norms_ptr + MEAN * stride_n + c, mask=mask_c, other=0.0)
    scale = tl.load(norms_ptr + SCALE * stride_n + c, mask=mask_c, other=0.0)
    beta = tl.load(norms_ptr + BETA * stride_n + c, mask=mask_c, other=0.0)
    return (x - mean) * scale + beta


@triton.jit
def before_norm(dz, pre, sums_ptr, stride_s, norms_ptr, stride_n, c, mask_c, n, BATCH: tl.constexpr):
    """dpre (see backward.py) from float32 dz and pre of the channels c."""
    scale = tl.load(norms_ptr + SCALE * stride_n + c, mask=mask_c, other=0.0)
    if BATCH:
        mean = tl.load(norms_ptr + MEAN * stride_n + c, mask=mask_c, other=0.0)
        rstd = tl.load(norms_ptr + RSTD * stride_n + c, mask=mask_c, other=0.0)
        dbeta = tl.load(sums_ptr + c, mask=mask_c, other=0.0)
        dgamma = tl.load(sums_ptr + stride_s + c, mask=mask_c, other=0.0)
        dz = dz - dbeta / n - (pre - mean) * rstd * (dgamma / n)
    return scale * dz


@triton.jit
def load_rows(x_ptr, at, mask, norms_ptr, stride_n, c, mask_c, NORM: tl.constexpr):
    """Activations at offsets `at`, 0 outside of `mask`; with NORM x holds values before their BatchNorm and SiLU."""
    x = tl.load(x_ptr + at, mask=mask, other=0.0)
    if NORM:
        return tl.where(mask, silu(normalised(x.to(tl.float32), norms_ptr, stride_n, c, mask_c)), 0.0)
    else:
        return x


@triton.jit
def convolve(
    x_ptr, w_ptr, norms_ptr, stride_n, row, mask_m, L_in, L_out, offs_n,
    C_IN: tl.constexpr, CIN_PAD: tl.constexpr, COUT_PAD: tl.constexpr, K: tl.constexpr, STRIDE: tl.constexpr,
    NORM: tl.constexpr, PRECISION: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """Output rows `row` [BLOCK_M] of a convolution with padding K // 2 -> float32 [BLOCK_M, BLOCK_N].

    norms_ptr points at the first channel of the input and is used with NORM; w_ptr points at the packed weights.
    """
    compute = w_ptr.dtype.element_ty
    sample = row // L_out
    first = (row - sample * L_out) * STRIDE - K // 2  # [BLOCK_M], position of tap 0
    start = (sample.to(tl.int64) * L_in + first) * C_IN
    acc = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    if CIN_PAD == 1:
        tap = tl.arange(0, 16)
        at = first[:, None] + tap[None, :]  # [BLOCK_M, 16]
        inside = mask_m[:, None] & (at >= 0) & (at < L_in) & (tap < K)[None, :]
        x = tl.load(x_ptr + start[:, None] + tap[None, :], mask=inside, other=0.0).to(compute)
        w = tl.load(w_ptr + tap[:, None] * COUT_PAD + offs_n[None, :])  # [16, BLOCK_N]
        acc = tl.dot(x, w, acc, input_precision=PRECISION)
    else:
        for tap in range(K):
            inside = mask_m & (first + tap >= 0) & (first + tap < L_in)
            for c0 in tl.static_range(0, CIN_PAD, BLOCK_K):
                c = c0 + tl.arange(0, BLOCK_K)
                mask = inside[:, None] & (c < C_IN)[None, :]
                at = (start + tap * C_IN)[:, None] + c[None, :]
                x = load_rows(x_ptr, at, mask, norms_ptr, stride_n, c[None, :], (c < C_IN)[None, :], NORM)
                w = tl.load(w_ptr + (tap * CIN_PAD + c)[:, None] * COUT_PAD + offs_n[None, :])  # [BLOCK_K, BLOCK_N]
                acc = tl.dot(x.to(compute), w, acc, input_precision=PRECISION)
    return acc


@triton.jit
def between(position, L, L_coarse):
    """Linear interpolation, align_corners=False: the two coarse positions between which a fine one lies, and the weight
    of the second."""
    source = (position + 0.5) * ((L_coarse * 1.0) / (L * 1.0)) - 0.5
    source = tl.maximum(source, 0.0)
    low = tl.minimum(source.to(tl.int32), L_coarse - 1)
    high = tl.minimum(low + 1, L_coarse - 1)
    return low, high, source - low
