"""The C++ kernels of feed_forward as operators: their schemas and the shapes of their results.

`weights` are the tensors of FeedForwardParams in order; `seed` is int64 [2], or None where nothing is dropped.
"""

from __future__ import annotations

import torch
from torch import Tensor

from xmae_fast.ops import _frozen
from xmae_fast.ops._gradients import empty_gradients

_library = torch.library.Library("xmae_fast", "FRAGMENT")
_library.define("feed_forward_eval(Tensor x, Tensor[] weights, Tensor? seed, float p) -> Tensor")
_library.define("feed_forward_eval_bf16(Tensor x, Tensor[] weights, Tensor? seed, float p) -> Tensor")
# The output, then what the backward needs: hidden [B N, F] before GELU, and stats [B N, 2] of the LayerNorm.
_library.define("feed_forward_train(Tensor x, Tensor[] weights, Tensor? seed, float p) -> (Tensor, Tensor, Tensor)")
# The gradients of x and of the weights; those whose bit in `needs` is not set have no elements.
_library.define(
    "feed_forward_backward(Tensor grad, Tensor x, Tensor[] weights, Tensor? seed, float p, Tensor hidden, "
    "Tensor stats, int needs) -> Tensor[]"
)


@torch.library.register_fake("xmae_fast::feed_forward_eval")
@torch.library.register_fake("xmae_fast::feed_forward_eval_bf16")
def _(x, weights, seed, p):
    return x.new_empty(x.shape)


@torch.library.register_fake("xmae_fast::feed_forward_train")
def _(x, weights, seed, p):
    rows = x.shape[0] * x.shape[1]
    return x.new_empty(x.shape), x.new_empty((rows, weights[3].shape[0])), x.new_empty((rows, 2))


@torch.library.register_fake("xmae_fast::feed_forward_backward")
def _(grad, x, weights, seed, p, hidden, stats, needs):
    return empty_gradients((x, *weights), needs)


_EVAL = torch.ops.xmae_fast.feed_forward_eval.default
_EVAL_BF16 = torch.ops.xmae_fast.feed_forward_eval_bf16.default
_TRAIN = torch.ops.xmae_fast.feed_forward_train.default
_BACKWARD = torch.ops.xmae_fast.feed_forward_backward.default


def evaluate(x: Tensor, weights: list[Tensor], seed: Tensor | None, p: float, compute: torch.dtype) -> Tensor:
    _, _, up, _, down, _ = weights
    evaluate = _EVAL_BF16 if compute == torch.bfloat16 else _EVAL
    return _frozen.call(evaluate, (up, down), x, weights, seed, p)


def train(
    x: Tensor, weights: list[Tensor], seed: Tensor | None, p: float, compute: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    return _TRAIN(x, weights, seed, p)


def backward(
    grad: Tensor, x: Tensor, weights: list[Tensor], seed: Tensor | None, p: float, compute: torch.dtype,
    hidden: Tensor, stats: Tensor, needs: int,
) -> list[Tensor]:  # fmt: skip
    return _BACKWARD(grad, x, weights, seed, p, hidden, stats, needs)
