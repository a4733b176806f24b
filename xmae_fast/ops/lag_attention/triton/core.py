"""The core of attention on a GPU: context = dropout(softmax(q k^T / sqrt(d) + bias)) v.

A program has one head of GROUP samples packed into one tile, and uses the blocks on the diagonal of that tile; GROUP is
1 where a sample fills a tile, and then there are tiles of queries. Keys come in blocks, and the softmax is rescaled as
its maximum grows. A query without an admissible key has sum 0, context 0 and, for the backward, a log-sum-exp of +inf,
which makes its probabilities 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import triton
import triton.language as tl

from xmae_fast.ops._device import wait_for_previous_launch
from xmae_fast.ops._launch import launch


@triton.jit
def places(group, offs, N, B, GROUP: tl.constexpr):
    """Rows `offs` of a group of samples with N tokens each -> sample, token, row within the batch (int64), mask."""
    divisor = tl.maximum(N, 1)
    sample = group * GROUP + offs // divisor
    token = offs % divisor
    return sample, token, sample.to(tl.int64) * N + token, (offs < GROUP * N) & (sample < B)


@triton.jit
def load_positions(pos_ptr, sample, token, stride, mask):
    """Positions of tokens as int32, from int64 [B or 1, N]; the stride is 0 where there is one row for all samples."""
    return tl.load(pos_ptr + sample.to(tl.int64) * stride + token, mask=mask, other=0).to(tl.int32)


@triton.jit
def scores(
    q, k, table_ptr, query_pos, key_pos, sample_m, sample_j, mask_m, mask_j, head, lags, scale, PRECISION: tl.constexpr
):
    """q k^T scale + bias [BLOCK_M, BLOCK_J], -inf for pairs of different samples; NaN where a position is no patch."""
    s = tl.dot(q, tl.trans(k), input_precision=PRECISION) * scale
    pair = mask_m[:, None] & mask_j[None, :] & (sample_m[:, None] == sample_j[None, :])
    if table_ptr is not None:
        column = key_pos[None, :] - query_pos[:, None] + lags // 2
        inside = pair & (column >= 0) & (column < lags)
        s += tl.load(table_ptr + head * lags + column, mask=inside, other=float("nan")).to(tl.float32)
    return tl.where(pair, s, float("-inf")), pair


@triton.jit
def load_kept(kept_ptr, first_sample, sample_m, query, key, H, head, Nk, stride, dropout_scale, pair):
    """0 or 1 / (1 - p) for every pair: kept uint8 [B H, stride], element i Nk + j of a row. 32 bits within a group."""
    first = (first_sample * (H + tl.zeros([], tl.int64)) + head) * stride
    at = (sample_m - first_sample) * (H * stride) + query * Nk
    kept = tl.load(kept_ptr + first + (at[:, None] + key[None, :]), mask=pair, other=0)
    return kept.to(tl.float32) * dropout_scale


@triton.jit
def _attention_kernel(
    q_ptr, k_ptr, v_ptr, table_ptr, query_pos_ptr, key_pos_ptr, kept_ptr,
    context_ptr, lse_ptr,  # [B Nq, D], [B, H, Nq] or None
    B, H, Nq, Nk, D, head_size, lags, stride_q, stride_k, stride_query_pos, stride_key_pos, stride_kept,
    scale, dropout_scale,
    PRECISION: tl.constexpr, GROUP: tl.constexpr, ONE_BLOCK: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_J: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    wait_for_previous_launch()
    head = tl.program_id(0) % H
    tile = tl.program_id(0) // H
    tiles = tl.cdiv(GROUP * Nq, BLOCK_M)
    group = tile // tiles
    offs_m = (tile % tiles) * BLOCK_M + tl.arange(0, BLOCK_M)
    offs_d = tl.arange(0, BLOCK_D)
    mask_d = offs_d < head_size
    sample_m, query, row_m, mask_m = places(group, offs_m, Nq, B, GROUP)
    inside = mask_m[:, None] & mask_d[None, :]
    q = tl.load(q_ptr + row_m[:, None] * stride_q + head * head_size + offs_d[None, :], mask=inside, other=0.0)
    query_pos = query
    if table_ptr is not None:
        query_pos = load_positions(query_pos_ptr, sample_m, query, stride_query_pos, mask_m)

    context = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    largest = tl.full([BLOCK_M], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    for first in range(0, BLOCK_J if ONE_BLOCK else GROUP * Nk, BLOCK_J):  # with one block no loop is left
        sample_j, key, row_j, mask_j = places(group, first + tl.arange(0, BLOCK_J), Nk, B, GROUP)
        at = row_j[:, None] * stride_k + head * head_size + offs_d[None, :]
        k = tl.load(k_ptr + at, mask=mask_j[:, None] & mask_d[None, :], other=0.0)
        v = tl.load(v_ptr + at, mask=mask_j[:, None] & mask_d[None, :], other=0.0)
        key_pos = key
        if table_ptr is not None:
            key_pos = load_positions(key_pos_ptr, sample_j, key, stride_key_pos, mask_j)
        s, pair = scores(
            q, k, table_ptr, query_pos, key_pos, sample_m, sample_j, mask_m, mask_j, head, lags, scale, PRECISION
        )
        larger = tl.maximum(largest, tl.max(s, 1))
        shift = tl.where(larger == float("-inf"), 0.0, larger)
        p = tl.exp(s - shift[:, None])
        shrink = tl.exp(largest - shift)
        total = total * shrink + tl.sum(p, 1)
        if kept_ptr is not None:
            p *= load_kept(kept_ptr, group * GROUP, sample_m, query, key, H, head, Nk, stride_kept, dropout_scale, pair)
        context = tl.dot(p.to(v.dtype), v, context * shrink[:, None], input_precision=PRECISION)
        largest = larger

    some = total > 0.0
    context = context / tl.where(some, total, 1.0)[:, None]
    at = row_m[:, None] * D + head * head_size + offs_d[None, :]
    tl.store(context_ptr + at, context.to(context_ptr.dtype.element_ty), mask=inside)
    if lse_ptr is not None:
        lse = tl.where(some, largest + tl.log(tl.where(some, total, 1.0)), float("inf"))
        tl.store(lse_ptr + (sample_m.to(tl.int64) * H + head) * Nq + query, lse, mask=mask_m)


def samples_of_tile(rows: int, queries: int, keys: int) -> int:
    """How many samples a tile of `rows` rows takes."""
    return max(1, rows // max(queries, keys, 1))


def attention(pointers: Mapping[str, Any], sizes: Mapping[str, Any], block_d: int, precision: str, half: bool) -> None:
    """Launch the core.

    Args:
        pointers, sizes: arguments of the kernel by name.
        block_d: a power of two that holds a head.
        precision: `input_precision` of the products.
    """
    B, H, queries, keys = (sizes[name] for name in ("B", "H", "Nq", "Nk"))
    tiles = ((64, 8), (64, 4), (32, 4)) if half and block_d <= 128 else ((32, 4), (64, 8), (16, 4))
    if not half and block_d > 64:
        tiles = ((16, 4),)
    if half and pointers["table_ptr"] is not None:  # with masks two gathered tiles: 4 warps would spill
        tiles = ((64, 8), (32, 4))
    elif half and block_d <= 128 and pointers["kept_ptr"] is None:
        tiles = ((64, 4), (32, 4))
    configs = []
    for rows, warps in tiles:
        group = samples_of_tile(rows, queries, keys)
        options = {"GROUP": group, "ONE_BLOCK": group * keys <= rows, "BLOCK_M": rows, "BLOCK_J": rows}
        configs.append({**options, "num_warps": warps, "num_stages": 1})

    def grid(c: Mapping[str, Any]) -> tuple[int]:
        return (triton.cdiv(B, c["GROUP"]) * triton.cdiv(c["GROUP"] * queries, c["BLOCK_M"]) * H,)

    launch(
        _attention_kernel, grid, {**pointers, **sizes}, {"PRECISION": precision, "BLOCK_D": block_d}, {80: configs},
        key=(queries, keys, block_d, half),
    )  # fmt: skip
