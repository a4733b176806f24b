"""The last step of lag_attention's backward on a GPU: one launch adds up the parts of all sums over rows."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from xmae_fast.ops._device import wait_for_previous_launch
from xmae_fast.ops._launch import launch


@triton.jit
def _sum_parts(parts_ptr, out_ptr, place, parts, stride, size, BLOCK_S: tl.constexpr, BLOCK_C: tl.constexpr):
    """Block `place` of out [size] = sum over `parts` rows, `stride` apart; -> the place within what follows."""
    blocks = tl.cdiv(size, BLOCK_C)
    if (place >= 0) & (place < blocks):
        offs = place * BLOCK_C + tl.arange(0, BLOCK_C)
        mask = offs < size
        total = tl.zeros([BLOCK_C], tl.float32)
        for first in range(0, parts, BLOCK_S):
            part = first + tl.arange(0, BLOCK_S)
            at = part.to(tl.int64)[:, None] * stride + offs[None, :]
            total += tl.sum(tl.load(parts_ptr + at, mask=(part < parts)[:, None] & mask[None, :], other=0.0), 0)
        tl.store(out_ptr + offs, total.to(out_ptr.dtype.element_ty), mask=mask)
    return place - blocks


@triton.jit
def _reduce_kernel(
    weight_parts_ptr, norm_q_parts_ptr, norm_kv_parts_ptr, table_parts_ptr,  # [parts, ...] or None, see `reduce_parts`
    in_weight_ptr, in_bias_ptr, out_weight_ptr, out_bias_ptr,
    norm_q_weight_ptr, norm_q_bias_ptr, norm_kv_weight_ptr, norm_kv_bias_ptr, table_ptr,
    splits, tiles_q, tiles_kv, tiles_table, D, table_size,
    BLOCK_S: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    wait_for_previous_launch()
    place = tl.program_id(0)
    stride = (4 * D + 4) * D
    if table_ptr is not None:
        place = _sum_parts(table_parts_ptr, table_ptr, place, tiles_table, table_size, table_size, BLOCK_S, BLOCK_C)
    if norm_q_weight_ptr is not None:
        place = _sum_parts(norm_q_parts_ptr, norm_q_weight_ptr, place, tiles_q, 2 * D, D, BLOCK_S, BLOCK_C)
    if norm_q_bias_ptr is not None:
        place = _sum_parts(norm_q_parts_ptr + D, norm_q_bias_ptr, place, tiles_q, 2 * D, D, BLOCK_S, BLOCK_C)
    if norm_kv_weight_ptr is not None:
        place = _sum_parts(norm_kv_parts_ptr, norm_kv_weight_ptr, place, tiles_kv, 2 * D, D, BLOCK_S, BLOCK_C)
    if norm_kv_bias_ptr is not None:
        place = _sum_parts(norm_kv_parts_ptr + D, norm_kv_bias_ptr, place, tiles_kv, 2 * D, D, BLOCK_S, BLOCK_C)
    if in_bias_ptr is not None:
        place = _sum_parts(weight_parts_ptr + 3 * D * D, in_bias_ptr, place, splits, stride, 3 * D, BLOCK_S, BLOCK_C)
    if out_bias_ptr is not None:
        out_bias_parts_ptr = weight_parts_ptr + (4 * D + 3) * D
        place = _sum_parts(out_bias_parts_ptr, out_bias_ptr, place, splits, stride, D, BLOCK_S, BLOCK_C)
    if in_weight_ptr is not None:
        place = _sum_parts(weight_parts_ptr, in_weight_ptr, place, splits, stride, 3 * D * D, BLOCK_S, BLOCK_C)
    if out_weight_ptr is not None:
        out_weight_parts_ptr = weight_parts_ptr + (3 * D + 3) * D
        place = _sum_parts(out_weight_parts_ptr, out_weight_ptr, place, splits, stride, D * D, BLOCK_S, BLOCK_C)


def reduce_parts(
    outputs: dict[str, Tensor | None], D: int, weight: Tensor, norm_q: Tensor | None, norm_kv: Tensor | None,
    table: Tensor | None,
) -> None:  # fmt: skip
    """Add up the parts of every gradient, from the first part to the last.

    Args:
        outputs: the gradients by the kernel's names, None where none is asked for.
        D: width of the tokens.
        weight: [splits, (4 D + 4) D]: in_weight, in_bias, out_weight, out_bias of every split.
        norm_q, norm_kv: [tiles, 2, D], weight and bias, or None.
        table: [tiles, H, lags], or None.
    """
    wanted = [out for out in outputs.values() if out is not None]
    tiles = {
        name: 0 if parts is None else parts.shape[0]
        for name, parts in (("tiles_q", norm_q), ("tiles_kv", norm_kv), ("tiles_table", table))
    }
    launch(
        _reduce_kernel,
        lambda c: (sum(triton.cdiv(out.numel(), c["BLOCK_C"]) for out in wanted),),
        {
            "weight_parts_ptr": weight, "norm_q_parts_ptr": norm_q, "norm_kv_parts_ptr": norm_kv,
            "table_parts_ptr": table,
            **outputs, "splits": weight.shape[0], **tiles, "D": D,
            "table_size": 0 if table is None else table.shape[1] * table.shape[2],
        },
        {},
        {80: (
            {"BLOCK_S": 16, "BLOCK_C": 256, "num_warps": 4, "num_stages": 2},
            {"BLOCK_S": 16, "BLOCK_C": 512, "num_warps": 8, "num_stages": 2},
        )},
    )  # fmt: skip
