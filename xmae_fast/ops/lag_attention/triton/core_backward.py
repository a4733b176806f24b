"""The backward of the core on a GPU: README.md's formulas, with probabilities recomputed from the log-sum-exp.

A program has one head of a group of samples (see core.py). Where the group's queries and keys fit one tile, all
gradients come from one pair of scores; otherwise it owns a block of keys (dk, dv: a loop over queries) and a block
of queries (dq, table: loops over keys), so that nothing is added to memory that another program writes.

The table's gradient sums ds along diagonals. With z = ds [key_pos = t] over positions t, a product, row m of it has
column c = t - query_pos[m] + N - 1: a gather along the row shears it, and a sum over rows is left.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import triton
import triton.language as tl

from xmae_fast.ops._device import wait_for_previous_launch
from xmae_fast.ops._launch import launch
from xmae_fast.ops.lag_attention.triton.core import load_kept, load_positions, places, scores


@triton.jit
def _load_queries(
    q_ptr, query_pos_ptr, context_ptr, dcontext_ptr, lse_ptr, group, offs, head, B, H, Nq, D, head_size,
    stride_q, stride_query_pos, GROUP: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Rows of queries and what belongs to them, such as delta = dcontext . context."""
    sample, query, row, mask = places(group, offs, Nq, B, GROUP)
    offs_d = tl.arange(0, BLOCK_D)[None, :]
    inside = mask[:, None] & (offs_d < head_size)
    q = tl.load(q_ptr + row[:, None] * stride_q + head * head_size + offs_d, mask=inside, other=0.0)
    at = row[:, None] * D + head * head_size + offs_d
    dcontext = tl.load(dcontext_ptr + at, mask=inside, other=0.0)
    context = tl.load(context_ptr + at, mask=inside, other=0.0)
    delta = tl.sum(dcontext.to(tl.float32) * context.to(tl.float32), 1)
    lse = tl.load(lse_ptr + (sample.to(tl.int64) * H + head) * Nq + query, mask=mask, other=float("inf"))
    pos = query
    if query_pos_ptr is not None:
        pos = load_positions(query_pos_ptr, sample, query, stride_query_pos, mask)
    return q, dcontext, delta, lse, pos, sample, query, row, mask


@triton.jit
def _load_keys(
    k_ptr, v_ptr, key_pos_ptr, group, offs, head, B, Nk, head_size, stride_k, stride_key_pos,
    GROUP: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    sample, key, row, mask = places(group, offs, Nk, B, GROUP)
    offs_d = tl.arange(0, BLOCK_D)[None, :]
    inside = mask[:, None] & (offs_d < head_size)
    at = row[:, None] * stride_k + head * head_size + offs_d
    pos = key
    if key_pos_ptr is not None:
        pos = load_positions(key_pos_ptr, sample, key, stride_key_pos, mask)
    k = tl.load(k_ptr + at, mask=inside, other=0.0)
    v = tl.load(v_ptr + at, mask=inside, other=0.0)
    return k, v, pos, sample, key, row, mask


@triton.jit
def _pair_gradients(
    q, dcontext, delta, lse, query_pos, sample_m, query, mask_m,
    k, v, key_pos, sample_j, key, mask_j,
    table_ptr, kept_ptr, first_sample, head, H, Nk, lags, stride_kept, scale, dropout_scale, PRECISION: tl.constexpr,
):  # fmt: skip
    """(dropped probabilities, gradient of the scores), both [BLOCK_M, BLOCK_J] in the dtype of products."""
    s, pair = scores(
        q, k, table_ptr, query_pos, key_pos, sample_m, sample_j, mask_m, mask_j, head, lags, scale, PRECISION
    )
    p = tl.exp(s - lse[:, None])
    dp = tl.dot(dcontext, tl.trans(v), input_precision=PRECISION)
    dropped = p
    if kept_ptr is not None:
        kept = load_kept(kept_ptr, first_sample, sample_m, query, key, H, head, Nk, stride_kept, dropout_scale, pair)
        dropped = p * kept
        dp *= kept
    return dropped.to(v.dtype), (p * (dp - delta[:, None])).to(v.dtype)


@triton.jit
def _lag_sums(
    ds, query_pos, key_pos, first_lag, lags,
    PRECISION: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Sums of ds [BLOCK_M, BLOCK_J] over the pairs of each lag first_lag ... : float32 [BLOCK_C]."""
    N = (lags + 1) // 2
    total = tl.zeros([BLOCK_C], tl.float32)
    for first_t in range(0, N, BLOCK_T):
        at_t = (key_pos[:, None] == first_t + tl.arange(0, BLOCK_T)[None, :]).to(ds.dtype)  # [BLOCK_J, BLOCK_T]
        z = tl.dot(ds, at_t, input_precision=PRECISION)
        t = first_lag + tl.arange(0, BLOCK_C)[None, :] + query_pos[:, None] - (N - 1) - first_t
        inside = (t >= 0) & (t < BLOCK_T)  # [BLOCK_M, BLOCK_C]
        total += tl.sum(tl.where(inside, tl.gather(z, tl.where(inside, t, 0), 1), 0.0), 0)
    return total


@triton.jit
def _attention_backward_kernel(
    q_ptr, k_ptr, v_ptr, table_ptr, query_pos_ptr, key_pos_ptr, kept_ptr, context_ptr, lse_ptr, dcontext_ptr,
    dq_ptr, dk_ptr, dv_ptr, dtable_ptr,  # as q, k, v; [tiles, H, lags] or None
    B, H, Nq, Nk, D, head_size, lags, stride_q, stride_k, stride_query_pos, stride_key_pos, stride_kept,
    scale, dropout_scale, tiles_of_group,
    PRECISION: tl.constexpr, GROUP: tl.constexpr, ONE_TILE: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    wait_for_previous_launch()
    head = tl.program_id(0) % H
    tile = tl.program_id(0) // H
    group = tile // tiles_of_group
    offs = (tile % tiles_of_group) * BLOCK_M + tl.arange(0, BLOCK_M)
    offs_d = tl.arange(0, BLOCK_D)[None, :]
    mask_d = offs_d < head_size
    q, dcontext, delta, lse, query_pos, sample_m, query, row_m, mask_m = _load_queries(
        q_ptr, query_pos_ptr, context_ptr, dcontext_ptr, lse_ptr, group, offs, head, B, H, Nq, D, head_size,
        stride_q, stride_query_pos, GROUP, BLOCK_D,
    )  # fmt: skip
    k, v, key_pos, sample_j, key, row_j, mask_j = _load_keys(
        k_ptr, v_ptr, key_pos_ptr, group, offs, head, B, Nk, head_size, stride_k, stride_key_pos, GROUP, BLOCK_D
    )
    if ONE_TILE:
        p, ds = _pair_gradients(
            q, dcontext, delta, lse, query_pos, sample_m, query, mask_m, k, v, key_pos, sample_j, key, mask_j,
            table_ptr, kept_ptr, group * GROUP, head, H, Nk, lags, stride_kept, scale, dropout_scale, PRECISION,
        )  # fmt: skip
        dv = tl.dot(tl.trans(p), dcontext, input_precision=PRECISION)
        dk = tl.dot(tl.trans(ds), q, input_precision=PRECISION)
        dq = tl.dot(ds, k, input_precision=PRECISION)
    else:
        dv = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
        dk = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
        for first in range(0, GROUP * Nq, BLOCK_M):
            q_i, dcontext_i, delta_i, lse_i, pos_i, sample_i, query_i, _, mask_i = _load_queries(
                q_ptr, query_pos_ptr, context_ptr, dcontext_ptr, lse_ptr, group, first + tl.arange(0, BLOCK_M), head,
                B, H, Nq, D, head_size, stride_q, stride_query_pos, GROUP, BLOCK_D,
            )  # fmt: skip
            p, ds = _pair_gradients(
                q_i, dcontext_i, delta_i, lse_i, pos_i, sample_i, query_i, mask_i, k, v, key_pos, sample_j, key, mask_j,
                table_ptr, kept_ptr, group * GROUP, head, H, Nk, lags, stride_kept, scale, dropout_scale, PRECISION,
            )  # fmt: skip
            dv = tl.dot(tl.trans(p), dcontext_i, dv, input_precision=PRECISION)
            dk = tl.dot(tl.trans(ds), q_i, dk, input_precision=PRECISION)
        dq = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
        for first in range(0, GROUP * Nk, BLOCK_M):
            k_i, v_i, pos_i, sample_i, key_i, _, mask_i = _load_keys(
                k_ptr, v_ptr, key_pos_ptr, group, first + tl.arange(0, BLOCK_M), head, B, Nk, head_size,
                stride_k, stride_key_pos, GROUP, BLOCK_D,
            )  # fmt: skip
            p, ds = _pair_gradients(
                q, dcontext, delta, lse, query_pos, sample_m, query, mask_m, k_i, v_i, pos_i, sample_i, key_i, mask_i,
                table_ptr, kept_ptr, group * GROUP, head, H, Nk, lags, stride_kept, scale, dropout_scale, PRECISION,
            )  # fmt: skip
            dq = tl.dot(ds, k_i, dq, input_precision=PRECISION)
    at = row_j[:, None] * stride_k + head * head_size + offs_d
    tl.store(dk_ptr + at, (dk * scale).to(dk_ptr.dtype.element_ty), mask=mask_j[:, None] & mask_d)
    tl.store(dv_ptr + at, dv.to(dv_ptr.dtype.element_ty), mask=mask_j[:, None] & mask_d)
    at = row_m[:, None] * stride_q + head * head_size + offs_d
    tl.store(dq_ptr + at, (dq * scale).to(dq_ptr.dtype.element_ty), mask=mask_m[:, None] & mask_d)
    if dtable_ptr is not None:
        for first_lag in range(0, lags, BLOCK_C):
            if ONE_TILE:
                total = _lag_sums(ds, query_pos, key_pos, first_lag, lags, PRECISION, BLOCK_M, BLOCK_T, BLOCK_C)
            else:
                total = tl.zeros([BLOCK_C], tl.float32)
                for first in range(0, GROUP * Nk, BLOCK_M):
                    k_i, v_i, pos_i, sample_i, key_i, _, mask_i = _load_keys(
                        k_ptr, v_ptr, key_pos_ptr, group, first + tl.arange(0, BLOCK_M), head, B, Nk, head_size,
                        stride_k, stride_key_pos, GROUP, BLOCK_D,
                    )  # fmt: skip
                    p, ds = _pair_gradients(
                        q, dcontext, delta, lse, query_pos, sample_m, query, mask_m,
                        k_i, v_i, pos_i, sample_i, key_i, mask_i,
                        table_ptr, kept_ptr, group * GROUP, head, H, Nk, lags, stride_kept, scale, dropout_scale,
                        PRECISION,
                    )  # fmt: skip
                    total += _lag_sums(ds, query_pos, pos_i, first_lag, lags, PRECISION, BLOCK_M, BLOCK_T, BLOCK_C)
            lag = first_lag + tl.arange(0, BLOCK_C)
            tl.store(dtable_ptr + (tile.to(tl.int64) * H + head) * lags + lag, total, mask=lag < lags)


def attention_backward(
    pointers: Mapping[str, Any], sizes: Mapping[str, Any], tiling: tuple[int, int, int], block_d: int, precision: str
) -> None:
    """Launch the core's backward.

    Args:
        pointers, sizes: arguments of the kernel by name.
        tiling: rows of a tile, samples of a group, tiles of a group.
        block_d: a power of two that holds a head.
        precision: `input_precision` of the products.
    """
    rows, group, of_group = tiling
    configs = ({"num_warps": 4, "num_stages": 1}, {"num_warps": 8, "num_stages": 1})
    if rows > 32 and pointers["table_ptr"] is not None:  # two gathered tiles: 4 warps would spill
        configs = configs[1:]
    launch(
        _attention_backward_kernel,
        lambda c: (triton.cdiv(sizes["B"], group) * of_group * sizes["H"],),
        {**pointers, **sizes, "tiles_of_group": of_group},
        {
            "PRECISION": precision, "GROUP": group, "ONE_TILE": of_group == 1, "BLOCK_M": rows, "BLOCK_D": block_d,
            "BLOCK_T": 32, "BLOCK_C": 64,
        },
        {80: configs},
        key=(sizes["Nq"], sizes["Nk"], block_d, rows),
    )  # fmt: skip
