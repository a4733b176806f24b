"""lag_attention on a GPU.

    forward    qkv = LN(x) in_weight^T + in_bias (cross: q, then k | v)    linear.py
               context = attention(q, k, v)                               core.py
               out = x + context out_weight^T + out_bias                  linear.py
    backward   dcontext = dout out_weight                                 linear.py
               dq, dk, dv, parts of dtable                                core_backward.py
               dx = LN's backward of dqkv in_weight, + dout               gradients.py
               weights: sums over rows in parts, added up at the end      gradients.py, reduce.py

Products take numbers of the dtype `compute` and sum in float32; what is kept for the backward is in `compute` too.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from xmae_fast.ops._gradients import empty_gradients
from xmae_fast.ops._launch import block, dot_precision
from xmae_fast.ops.lag_attention.schema import Inputs
from xmae_fast.ops.lag_attention.triton.core import attention, samples_of_tile
from xmae_fast.ops.lag_attention.triton.core_backward import attention_backward
from xmae_fast.ops.lag_attention.triton.gradients import norm_backward, norm_rows, splits_of, weight_gradient
from xmae_fast.ops.lag_attention.triton.linear import linear
from xmae_fast.ops.lag_attention.triton.reduce import reduce_parts
from xmae_fast.ops.lag_attention.triton.schema import empty_kept, out_dtype


class _Side(NamedTuple):
    """What one product normalises and projects: the tokens of self-attention, the queries, or the keys and values."""

    x: Tensor  # [rows, D]
    norm: tuple[Tensor, Tensor]
    columns: slice  # rows of in_weight
    projected: Tensor  # [rows, width], compute
    stats: tuple[Tensor, Tensor]  # [rows] each


class _Call:
    """The tensors of one call, contiguous, with what is kept for the backward split into its parts."""

    def __init__(self, inputs: Inputs, compute: torch.dtype, kept: Tensor, stats: Tensor, masks: Tensor) -> None:
        x, key_value, weights, num_heads, table, query_pos, key_pos, seed, p = inputs
        (B, queries, D), cross = x.shape, key_value is not None
        keys = key_value.shape[1] if cross else queries
        self.x = x.contiguous()
        norms, (in_weight, in_bias, out_weight, out_bias) = weights[:-4], (w.contiguous() for w in weights[-4:])
        norms = [w.contiguous() for w in norms]
        self.in_weight, self.in_bias, self.out_weight, self.out_bias = in_weight, in_bias, out_weight, out_bias
        self.D, self.compute, self.seed, self.p, self.kept_masks = D, compute, seed, p, masks
        self.context = kept[kept.numel() - B * queries * D :].view(B * queries, D)
        self.lse = stats[stats.numel() - B * num_heads * queries :]
        self.table = None if table is None else table.contiguous()
        self.query_pos = None if table is None else query_pos.contiguous()
        self.key_pos = None if table is None else key_pos.contiguous()
        self.sizes = {
            "B": B, "H": num_heads, "Nq": queries, "Nk": keys, "D": D, "head_size": D // num_heads,
            "lags": 0 if table is None else table.shape[1],
            "stride_q": D if cross else 3 * D, "stride_k": 2 * D if cross else 3 * D,
            "stride_query_pos": queries if table is not None and query_pos.shape[0] > 1 else 0,
            "stride_key_pos": keys if table is not None and key_pos.shape[0] > 1 else 0,
            "stride_kept": _padded(queries * keys), "scale": (D // num_heads) ** -0.5, "dropout_scale": 1 / (1 - p),
        }  # fmt: skip
        if not cross:
            self.sides = [self._side(self.x, norms, slice(0, 3 * D), kept, stats, 0, 0)]
        else:
            rows, key_value = B * queries, key_value.contiguous()
            self.sides = [
                self._side(self.x, norms[:2], slice(0, D), kept, stats, 0, 0),
                self._side(key_value, norms[2:], slice(D, 3 * D), kept, stats, rows * D, 2 * rows),
            ]

    def _side(self, x, norm, columns, kept, stats, kept_at, stats_at) -> _Side:
        rows, width = x.shape[0] * x.shape[1], columns.stop - columns.start
        projected = kept[kept_at : kept_at + rows * width].view(rows, width)
        mean, rstd = stats[stats_at : stats_at + rows], stats[stats_at + rows : stats_at + 2 * rows]
        return _Side(x.view(rows, self.D), tuple(norm), columns, projected, (mean, rstd))

    def projections(self, sides: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """q, k and v from their first numbers on, in the memory of the sides' projections; `sizes` has the strides."""
        if len(sides) == 1:
            return tuple(sides[0].view(-1)[first * self.D :] for first in range(3))
        return sides[0], sides[1], sides[1].view(-1)[self.D :]

    def core(self) -> dict[str, Any]:
        q, k, v = self.projections([side.projected for side in self.sides])
        return {
            "q_ptr": q, "k_ptr": k, "v_ptr": v, "table_ptr": self.table, "query_pos_ptr": self.query_pos,
            "key_pos_ptr": self.key_pos, "kept_ptr": None if self.seed is None else self.kept_masks,
            "context_ptr": self.context,
        }  # fmt: skip

    def draw_masks(self) -> dict[str, Any] | None:
        """Arguments of the product that draws the masks; None where nothing is dropped."""
        if self.seed is None:
            return None
        return {
            "seed_ptr": self.seed.contiguous(), "kept_ptr": self.kept_masks, "draws": self.kept_masks.numel() // 4,
            "draws_of_row": max(self.sizes["stride_kept"] // 4, 1),
            "threshold": min(math.ceil(self.p * 2**32), 2**32 - 1),
        }  # fmt: skip


def _padded(elements: int) -> int:
    """Length of a row of masks: `elements` rounded up to whole groups of 16 draws, which are 64 elements."""
    return triton.cdiv(elements, 64) * 64


def _forward(call: _Call, training: bool) -> Tensor:
    sizes, compute = call.sizes, call.compute
    for i, side in enumerate(call.sides):
        linear(
            side.x, call.in_weight[side.columns], side.projected, compute, bias=call.in_bias[side.columns],
            norm=side.norm, stats=side.stats if training else None, masks=call.draw_masks() if i == 0 else None,
        )  # fmt: skip
    pointers = {**call.core(), "lse_ptr": call.lse if training else None}
    attention(pointers, sizes, block(sizes["head_size"]), dot_precision(compute), compute != torch.float32)
    out = call.x.new_empty(call.x.shape, dtype=out_dtype(call.x, compute))
    rows = out.view(-1, call.D)
    linear(call.context, call.out_weight, rows, compute, bias=call.out_bias, residual=call.x.view(-1, call.D))
    return out


def lag_attention_eval(*args: Any) -> Tensor:
    """The output [B, Nq, D]. The arguments are `Inputs`, compute."""
    *inputs, compute = args
    inputs = Inputs(*inputs)
    return _forward(_Call(inputs, compute, *empty_kept(inputs, compute)), training=False)


def lag_attention_train(*args: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The output [B, Nq, D], then what the backward needs, as in `empty_kept`. The arguments are `Inputs`, compute."""
    *inputs, compute = args
    inputs = Inputs(*inputs)
    kept = empty_kept(inputs, compute)
    return _forward(_Call(inputs, compute, *kept), training=True), *kept


def lag_attention_backward(grad: Tensor, *args: Any) -> list[Tensor]:
    """Gradients of x, key_value, the weights and bias_table, without elements where none is asked for.

    The arguments after `grad` are `Inputs`, compute, what `lag_attention_train` kept, needs.
    """
    *inputs, compute, kept, stats, masks, needs = args
    inputs = Inputs(*inputs)
    call = _Call(inputs, compute, kept, stats, masks)
    gradients = empty_gradients(inputs.differentiable(), needs)
    names = ["x", "key_value", "norm_q_weight", "norm_q_bias", "norm_kv_weight", "norm_kv_bias"]
    names = [*names[: len(inputs.weights) - 2], "in_weight", "in_bias", "out_weight", "out_bias", "table"]
    wanted = {name: g if needs >> i & 1 else None for i, (name, g) in enumerate(zip(names, gradients, strict=True))}
    _backward(call, grad.contiguous().view(-1, call.D), wanted)
    return gradients


def _backward(call: _Call, grad: Tensor, wanted: dict[str, Tensor | None]) -> None:
    """Write the gradients that are `wanted`, by name; grad [B Nq, D]."""
    compute, D = call.compute, call.D
    outputs = {
        f"{name}_ptr": wanted.get(name)
        for name in (
            "in_weight", "in_bias", "out_weight", "out_bias",
            "norm_q_weight", "norm_q_bias", "norm_kv_weight", "norm_kv_bias", "table",
        )
    }  # fmt: skip

    def any_of(*of: str) -> bool:
        return any(wanted.get(name) is not None for name in of)

    # [splits, in_weight | in_bias | out_weight | out_bias]
    weight_parts = call.lse.new_empty((splits_of(grad.shape[0]), 4 * D * (D + 1)))
    in_weight, in_bias, out_weight, out_bias = weight_parts.split((3 * D * D, 3 * D, D * D, D), dim=1)
    if any_of("out_weight", "out_bias"):
        weight_gradient(grad, call.context, None, out_weight, out_bias, compute)
    norm_parts: list[Tensor | None] = [None, None]
    table_parts = None
    if any(g is not None for name, g in wanted.items() if name not in ("out_weight", "out_bias")):
        dprojected, table_parts = _core_backward(call, grad, any_of("table"))
        for i, (side, dside) in enumerate(zip(call.sides, dprojected, strict=True)):
            tokens, norm = ("x", "norm_q") if i == 0 else ("key_value", "norm_kv")
            if any_of("in_weight", "in_bias"):
                first, last = side.columns.start, side.columns.stop
                weight_gradient(
                    dside, side.x, (*side.norm, *side.stats),
                    in_weight[:, first * D : last * D], in_bias[:, first:last], compute,
                )  # fmt: skip
            if any_of(f"{norm}_weight", f"{norm}_bias"):
                tiles = triton.cdiv(side.x.shape[0], norm_rows(D, compute))
                norm_parts[i] = weight_parts.new_empty((tiles, 2, D))
            if any_of(tokens, f"{norm}_weight", f"{norm}_bias"):
                norm_backward(
                    dside, call.in_weight[side.columns], side.x, side.norm[0], side.stats, grad if i == 0 else None,
                    wanted[tokens], norm_parts[i], compute,
                )  # fmt: skip
    if any(out is not None for out in outputs.values()):
        reduce_parts(outputs, D, weight_parts, *norm_parts, table_parts)


def _core_backward(call: _Call, grad: Tensor, with_table: bool) -> tuple[list[Tensor], Tensor | None]:
    """Gradients of the sides' projections, and the parts of the table's gradient, [tiles, H, lags]."""
    sizes, compute = call.sizes, call.compute
    block_d = block(sizes["head_size"])
    dcontext = torch.empty_like(call.context)
    linear(grad, call.out_weight.t(), dcontext, compute)
    rows = (64 if block_d <= 64 else 32) // (1 if compute != torch.float32 else 2)
    group = samples_of_tile(rows, sizes["Nq"], sizes["Nk"])
    of_group = max(triton.cdiv(group * max(sizes["Nq"], sizes["Nk"]), rows), 1)
    dprojected = [torch.empty_like(side.projected) for side in call.sides]
    dq, dk, dv = call.projections(dprojected)
    parts = None
    if with_table:
        tiles = triton.cdiv(sizes["B"], group) * of_group
        parts = call.lse.new_empty((tiles, sizes["H"], sizes["lags"]))
    pointers = {
        **call.core(), "lse_ptr": call.lse, "dcontext_ptr": dcontext, "dq_ptr": dq, "dk_ptr": dk, "dv_ptr": dv,
        "dtable_ptr": parts,
    }  # fmt: skip
    attention_backward(pointers, sizes, (rows, group, of_group), block_d, dot_precision(compute))
    return dprojected, parts
