"""The Triton kernels of lag_attention as operators: their schemas and the shapes of their results. Imports no Triton.

They take the inputs of the C++ kernels and then `compute`, the dtype of products.
"""

from __future__ import annotations

import torch
from torch import Tensor

from xmae_fast.ops._gradients import empty_gradients
from xmae_fast.ops._triton import define_triton
from xmae_fast.ops.lag_attention.schema import INPUTS, Inputs

_OP = "lag_attention"


def out_dtype(x: Tensor, compute: torch.dtype) -> torch.dtype:
    """The dtype that plain PyTorch returns for a residual x and products in `compute`."""
    return torch.promote_types(x.dtype, compute)


def empty_kept(inputs: Inputs, compute: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Uninitialised tensors for what the kernels keep for their backward.

    Returns:
        kept: in `compute`: qkv [B N, 3 D] for self-attention, or q [B Nq, D] and k | v [B Nk, 2 D]; then context
            [B Nq, D].
        stats: float32: means and 1 / deviations of x's rows, then those of key_value's; log-sum-exps [B, H, Nq].
        masks: uint8 [B H, Nq Nk rounded up to whole groups of 64], 1 where a probability is kept; without elements
            where nothing is dropped.
    """
    x, key_value = inputs.x, inputs.key_value
    B, queries, D = x.shape
    keys = queries if key_value is None else key_value.shape[1]
    normed = queries if key_value is None else queries + keys
    drawn = 0 if inputs.seed is None else B * inputs.num_heads * ((queries * keys + 63) // 64 * 64)
    return (
        x.new_empty(2 * B * D * (queries + keys), dtype=compute),
        x.new_empty(B * (2 * normed + inputs.num_heads * queries), dtype=torch.float32),
        x.new_empty(drawn, dtype=torch.uint8),
    )


def _eval_fake(*args):
    x, compute = args[0], args[-1]
    return x.new_empty(x.shape, dtype=out_dtype(x, compute))


def _train_fake(*args):
    *inputs, compute = args
    return _eval_fake(*args), *empty_kept(Inputs(*inputs), compute)


def _backward_fake(grad, *args):
    *inputs, _compute, _kept, _stats, _masks, needs = args
    return empty_gradients(Inputs(*inputs).differentiable(), needs)


_INPUTS = f"{INPUTS}, ScalarType compute"
_EVAL = define_triton(_OP, f"lag_attention_eval({_INPUTS}) -> Tensor", _eval_fake)
# The output, then what `empty_kept` says.
_TRAIN = define_triton(_OP, f"lag_attention_train({_INPUTS}) -> (Tensor, Tensor, Tensor, Tensor)", _train_fake)
_BACKWARD = define_triton(
    _OP,
    f"lag_attention_backward(Tensor grad, {_INPUTS}, Tensor kept, Tensor stats, Tensor masks, int needs) -> Tensor[]",
    _backward_fake,
)


def evaluate(inputs: Inputs, compute: torch.dtype) -> Tensor:
    return _EVAL(*inputs, compute)


def train(inputs: Inputs, compute: torch.dtype) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return _TRAIN(*inputs, compute)


def backward(
    grad: Tensor, inputs: Inputs, compute: torch.dtype, kept: Tensor, stats: Tensor, masks: Tensor, needs: int
) -> list[Tensor]:
    return _BACKWARD(grad, *inputs, compute, kept, stats, masks, needs)
