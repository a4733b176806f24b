"""The C++ kernels of lag_attention as operators: their schemas and the shapes of their results."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from xmae_fast.ops import _frozen
from xmae_fast.ops._gradients import empty_gradients


class Inputs(NamedTuple):
    """What every kernel takes, in the order of the schemas."""

    x: Tensor  # [B, Nq, D]
    key_value: Tensor | None  # [B, Nk, D]; None for self-attention
    weights: list[Tensor]  # as `params.kernel_weights` returns them
    num_heads: int
    bias_table: Tensor | None  # [H, 2N - 1]
    query_pos: Tensor | None  # [B or 1, Nq] int64; None exactly where bias_table is
    key_pos: Tensor | None  # [B or 1, Nk] int64; None exactly where bias_table is
    seed: Tensor | None  # [2] int64; None where nothing is dropped
    p: float  # probability that an attention probability is dropped

    def differentiable(self) -> tuple[Tensor | None, ...]:
        """The tensors that may have gradients, in the order of these."""
        return (self.x, self.key_value, *self.weights, self.bias_table)


INPUTS = (
    "Tensor x, Tensor? key_value, Tensor[] weights, int num_heads, Tensor? bias_table, Tensor? query_pos, "
    "Tensor? key_pos, Tensor? seed, float p"
)
_library = torch.library.Library("xmae_fast", "FRAGMENT")
_library.define(f"lag_attention_eval({INPUTS}) -> Tensor")
_library.define(f"lag_attention_eval_bf16({INPUTS}) -> Tensor")
# The output, then what the backward needs: kept (q [B Nq, D], k | v [B Nk, 2 D], context [B Nq, D]) and the statistics
# of the LayerNorms.
_library.define(f"lag_attention_train({INPUTS}) -> (Tensor, Tensor, Tensor)")
# The gradients of x, key_value, the weights and bias_table, without elements where the bit in `needs` is not set or the
# tensor is None.
_library.define(f"lag_attention_backward(Tensor grad, {INPUTS}, Tensor kept, Tensor stats, int needs) -> Tensor[]")


@torch.library.register_fake("xmae_fast::lag_attention_eval")
@torch.library.register_fake("xmae_fast::lag_attention_eval_bf16")
def _(*inputs):
    x = inputs[0]
    return x.new_empty(x.shape)


@torch.library.register_fake("xmae_fast::lag_attention_train")
def _(*inputs):
    x, key_value = inputs[:2]
    B, queries, D = x.shape
    keys = queries if key_value is None else key_value.shape[1]
    normed = queries if key_value is None else queries + keys
    return x.new_empty(x.shape), x.new_empty(2 * B * D * (queries + keys)), x.new_empty(2 * B * normed)


@torch.library.register_fake("xmae_fast::lag_attention_backward")
def _(grad, *args):
    *inputs, _kept, _stats, needs = args
    return empty_gradients(Inputs(*inputs).differentiable(), needs)


_EVAL = torch.ops.xmae_fast.lag_attention_eval.default
_EVAL_BF16 = torch.ops.xmae_fast.lag_attention_eval_bf16.default
_TRAIN = torch.ops.xmae_fast.lag_attention_train.default
_BACKWARD = torch.ops.xmae_fast.lag_attention_backward.default


def evaluate(inputs: Inputs, compute: torch.dtype) -> Tensor:
    in_weight, _, out_weight, _ = inputs.weights[-4:]
    evaluate = _EVAL_BF16 if compute == torch.bfloat16 else _EVAL
    return _frozen.call(evaluate, (in_weight, out_weight), *inputs)


def train(inputs: Inputs, compute: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    return _TRAIN(*inputs)


def backward(
    grad: Tensor, inputs: Inputs, compute: torch.dtype, kept: Tensor, stats: Tensor, needs: int
) -> list[Tensor]:
    return _BACKWARD(grad, *inputs, kept, stats, needs)
