"""The Triton kernels of feed_forward as operators: their schemas and the shapes of their results. Imports no Triton.

`weights` and `seed` are as for the C++ kernels; products are taken in `compute`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from xmae_fast.ops._gradients import empty_gradients
from xmae_fast.ops._triton import define_triton

_OP = "feed_forward"
_INPUTS = "Tensor x, Tensor[] weights, Tensor? seed, float p, ScalarType compute"


def empty_output(x: Tensor, compute: torch.dtype) -> Tensor:
    """Uninitialised [B, N, D] of the dtype that plain PyTorch gives x + (something in `compute`)."""
    return x.new_empty(x.shape, dtype=torch.promote_types(x.dtype, compute))


def empty_packed(up: Tensor, down: Tensor, compute: torch.dtype) -> Tensor:
    """Uninitialised copies of up and down weight in `compute`, [2, F D]; [0] where both are in that dtype already."""
    cast = up.dtype != compute or down.dtype != compute
    return up.new_empty((2, up.numel()) if cast else (0,), dtype=compute)


def _eval_fake(x, weights, seed, p, compute):
    return empty_output(x, compute)


def _train_fake(x, weights, seed, p, compute):
    stats = x.new_empty((x.shape[0] * x.shape[1], 2), dtype=torch.float32)
    return empty_output(x, compute), stats, empty_packed(weights[2], weights[4], compute)


def _backward_fake(grad, x, weights, seed, p, compute, stats, packed, needs):
    return empty_gradients((x, *weights), needs)


evaluate = define_triton(_OP, f"feed_forward_eval({_INPUTS}) -> Tensor", _eval_fake)
# The output, then what the backward needs: stats [B N, 2] of the LayerNorm, and the weights as in `empty_packed`.
train = define_triton(_OP, f"feed_forward_train({_INPUTS}) -> (Tensor, Tensor, Tensor)", _train_fake)
# The gradients of x and of the weights; those whose bit in `needs` is not set have no elements.
backward = define_triton(
    _OP,
    f"feed_forward_backward(Tensor grad, {_INPUTS}, Tensor stats, Tensor packed, int needs) -> Tensor[]",
    _backward_fake,
)
