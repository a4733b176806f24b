"""Device functions that several Triton kernels share. Formulas are those of the reference; sums are float32."""

from __future__ import annotations

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait
from triton.language.random import philox_impl
from triton.language.target_info import cuda_capability_geq

SQRT_HALF = tl.constexpr(0.7071067811865476)
INV_SQRT_2PI = tl.constexpr(0.3989422804014327)


@triton.jit
def wait_for_previous_launch():
    """The first thing every kernel does: wait until what was launched before has ended, then let the next launch begin.

    Both matter only where a launch may begin before the previous one has ended, see `_launch.overlap_launches`, and are
    there on GPUs that can do that (sm_90 on); elsewhere they do nothing.
    """
    if cuda_capability_geq(9, 0):
        gdc_wait()
        gdc_launch_dependents()


@triton.jit
def philox_words(seed_ptr, block, row):
    """Four uint32 words of Philox4x32-10 with key seed[0] and counter (block, row, seed[1]); seed_ptr is int64 [2].

    `block` and `row` broadcast; one of them may be a number. The stream is that of the C++ kernels and of
    ops/random_masking/reference.py.
    """
    seed = tl.load(seed_ptr)
    offset = tl.load(seed_ptr + 1)
    zero = ((block + row) * 0).to(tl.uint32)
    c0 = (block + row * 0).to(tl.uint32)
    c1 = (block * 0 + row).to(tl.uint32)
    c2 = zero | (offset & 0xFFFFFFFF).to(tl.uint32)
    c3 = zero | ((offset >> 32) & 0xFFFFFFFF).to(tl.uint32)
    k0 = zero | (seed & 0xFFFFFFFF).to(tl.uint32)
    k1 = zero | ((seed >> 32) & 0xFFFFFFFF).to(tl.uint32)
    return philox_impl(c0, c1, c2, c3, k0, k1, 10)


@triton.jit
def dropout_scale(seed_ptr, row, column, threshold, scale):
    """0 or `scale` for element (row, column): the mask of ops/_dropout.py. threshold: uint32, p * 2^32."""
    block = (column // 64) * 16 + column % 16
    w0, w1, w2, w3 = philox_words(seed_ptr, block, row)
    which = (column % 64) // 16
    word = tl.where(which == 0, w0, tl.where(which == 1, w1, tl.where(which == 2, w2, w3)))
    return tl.where(word < threshold.to(tl.uint32), 0.0, scale)


@triton.jit
def silu(x):
    return x * tl.sigmoid(x)


@triton.jit
def silu_grad(x):
    """d silu(x) / dx = s (1 + x (1 - s)), s = sigmoid(x)."""
    s = tl.sigmoid(x)
    return s * (1.0 + x * (1.0 - s))


@triton.jit
def gelu(x):
    """Exact GELU: x Phi(x)."""
    return x * 0.5 * (1.0 + tl.erf(x * SQRT_HALF))


@triton.jit
def gelu_grad(x):
    """d gelu(x) / dx = Phi(x) + x phi(x)."""
    return 0.5 * (1.0 + tl.erf(x * SQRT_HALF)) + x * tl.exp(-0.5 * x * x) * INV_SQRT_2PI


@triton.jit
def sum_parts(parts_ptr, parts, stride_p, at, mask, BLOCK_P: tl.constexpr):
    """Sum of partial results in fixed order: parts_ptr[p * stride_p + at] over p < parts -> float32 [len(at)]."""
    total = tl.zeros([BLOCK_P, at.shape[0]], tl.float32)
    for start in range(0, parts, BLOCK_P):
        part = start + tl.arange(0, BLOCK_P)
        inside = (part < parts)[:, None] & mask[None, :]
        values = tl.load(parts_ptr + part.to(tl.int64)[:, None] * stride_p + at[None, :], mask=inside, other=0.0)
        total += values.to(tl.float32)
    return tl.sum(total, axis=0)
