"""The backward of a 1x1 layer in one pass over its rows: partial weight gradients, dz of its input, the sums of that.

Its input and the gradient of its output are loaded once, and the gradient before BatchNorm stays in registers. Terms
are in backward.py.
"""

from __future__ import annotations

import triton
import triton.language as tl

from xmae_fast.ops._device import silu, silu_grad, wait_for_previous_launch
from xmae_fast.ops.conv_stem.triton.device import MEAN, RSTD, before_norm, normalised, offset_of_stem, part_of
from xmae_fast.ops.conv_stem.triton.merge import add_up, leave
from xmae_fast.ops.conv_stem.triton.weights import up_adjoint


@triton.jit
def stem_pointwise_gradient_kernel(
    x_ptr, dz_ptr, pre_ptr, w_ptr, norms_ptr, sums_ptr, out_ptr, arena_ptr, partial_ptr, counters_ptr,
    rows, rows_2, L, L_2, L_fine, L_fine_2, splits, splits_2, of_split, of_split_2,
    stride_w, stride_n, stride_s, in_at, out_at, w_at, arena_at,
    C_IN: tl.constexpr, CIN_PAD: tl.constexpr, C_OUT: tl.constexpr, COUT_PAD: tl.constexpr,
    BATCH: tl.constexpr, OUT: tl.constexpr, PRECISION: tl.constexpr, BLOCK_R: tl.constexpr,
):  # fmt: skip
    """For the layer out = silu(bn(x)) w, where x [rows, C_IN] is a unit's output before BatchNorm:

    arena [splits][CIN_PAD, COUT_PAD]: sums over a part of the rows of silu(bn(x))[row, c_in] dpre[row, c_out]; dz of
    x's unit, [rows, C_IN]; and its sums. OUT says how dpre follows from dz, as in weights.py: "norm" or "up".
    """
    wait_for_previous_launch()
    second, split = part_of(tl.program_id(0), splits)
    before = tl.where(second, rows, 0).to(tl.int64)
    if OUT == "up":
        dz_ptr += offset_of_stem(second, rows // L * L_fine) * C_OUT
    in_ptr = norms_ptr + offset_of_stem(second, 5 * stride_n) + in_at
    out_norms_ptr = norms_ptr + offset_of_stem(second, 5 * stride_n) + out_at
    sums_ptr += offset_of_stem(second, 2 * stride_s)
    w_ptr += offset_of_stem(second, stride_w) + w_at
    rows, L, L_fine = tl.where(second, rows_2, rows), tl.where(second, L_2, L), tl.where(second, L_fine_2, L_fine)
    of_split = tl.where(second, of_split_2, of_split)
    c, n = tl.arange(0, CIN_PAD), tl.arange(0, COUT_PAD)
    mask_c, mask_n = c < C_IN, n < C_OUT
    w = tl.load(w_ptr + c[None, :] * COUT_PAD + n[:, None])  # [COUT_PAD, CIN_PAD]
    mean = tl.load(in_ptr + MEAN * stride_n + c, mask=mask_c, other=0.0)[None, :]
    rstd = tl.load(in_ptr + RSTD * stride_n + c, mask=mask_c, other=0.0)[None, :]
    compute = dz_ptr.dtype.element_ty
    count = rows * 1.0
    acc = tl.zeros([CIN_PAD, COUT_PAD], tl.float32)
    dbeta, dgamma = tl.zeros([CIN_PAD], tl.float32), tl.zeros([CIN_PAD], tl.float32)
    begin = split * of_split
    for first in range(begin, tl.minimum(begin + of_split, rows), BLOCK_R):
        row = first + tl.arange(0, BLOCK_R)
        mask_r = row < rows  # of_split is a multiple of BLOCK_R
        mask = mask_r[:, None] & mask_n[None, :]
        if OUT == "up":
            sample = row // L
            d = up_adjoint(
                dz_ptr, sample, row - sample * L, mask_r, L_fine, L, n[None, :], mask_n[None, :], C_OUT, BLOCK_R,
                COUT_PAD,
            )  # fmt: skip
        else:
            place = (before + row)[:, None] * C_OUT + n[None, :]
            d = tl.load(dz_ptr + place, mask=mask, other=0.0).to(tl.float32)
            pre = d
            if BATCH:
                pre = tl.load(pre_ptr + place, mask=mask, other=0.0).to(tl.float32)
            d = before_norm(
                d, pre, sums_ptr + out_at, stride_s, out_norms_ptr, stride_n, n[None, :], mask_n[None, :], count, BATCH
            )
            d = tl.where(mask, d, 0.0)
        d = d.to(compute)
        place = (before + row)[:, None] * C_IN + c[None, :]
        mask = mask_r[:, None] & mask_c[None, :]
        x = tl.load(x_ptr + place, mask=mask, other=0.0).to(tl.float32)
        z = normalised(x, in_ptr, stride_n, c[None, :], mask_c[None, :])
        a = tl.where(mask, silu(z), 0.0).to(compute)
        acc = tl.dot(tl.trans(a), d, acc, input_precision=PRECISION)
        out = (tl.dot(d, w, input_precision=PRECISION) * silu_grad(z)).to(compute)
        tl.store(out_ptr + place, out, mask=mask)
        out = tl.where(mask, out.to(tl.float32), 0.0)
        dbeta += tl.sum(out, axis=0)
        dgamma += tl.sum(out * (x - mean) * rstd, axis=0)
    at = arena_at + tl.program_id(0).to(tl.int64) * (CIN_PAD * COUT_PAD)
    tl.store(arena_ptr + at + c[:, None] * COUT_PAD + n[None, :], acc)
    leave(partial_ptr, tl.program_id(0), dbeta, dgamma, C_IN, c, mask_c)
    add_up(
        partial_ptr, sums_ptr + in_at, counters_ptr, second, split, splits, splits_2, stride_s, C_IN, c, mask_c, 0, 1
    )
