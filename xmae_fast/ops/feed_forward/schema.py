"""torch.library schemas of feed_forward's kernels, their fakes, and autograd around them.

weights: the tensors of FeedForwardParams in order; seed: int64 [2], or None where nothing is dropped.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from xmae_fast.ops._checks import wants_gradient
from xmae_fast.ops._dropout import bits, draw_seed
from xmae_fast.ops.feed_forward.params import FeedForwardParams

_library = torch.library.Library("xmae_fast", "FRAGMENT")
_library.define("feed_forward_eval(Tensor x, Tensor[] weights, Tensor? seed, float p) -> Tensor")
# out, and for the backward: hidden [B N, F] before GELU, stats [B N, 2] of the LayerNorm
_library.define("feed_forward_train(Tensor x, Tensor[] weights, Tensor? seed, float p) -> (Tensor, Tensor, Tensor)")
# gradients of x and of the weights; those whose bit in `needs` is not set are empty
_library.define(
    "feed_forward_backward(Tensor grad, Tensor x, Tensor[] weights, Tensor? seed, float p, Tensor hidden, "
    "Tensor stats, int needs) -> Tensor[]"
)


@torch.library.register_fake("xmae_fast::feed_forward_eval")
def _(x, weights, seed, p):
    return x.new_empty(x.shape)


@torch.library.register_fake("xmae_fast::feed_forward_train")
def _(x, weights, seed, p):
    rows = x.shape[0] * x.shape[1]
    return x.new_empty(x.shape), x.new_empty((rows, weights[3].shape[0])), x.new_empty((rows, 2))


@torch.library.register_fake("xmae_fast::feed_forward_backward")
def _(grad, x, weights, seed, p, hidden, stats, needs):
    return [t.new_empty(t.shape) if needs >> i & 1 else t.new_empty(0) for i, t in enumerate((x, *weights))]


_eval = torch.ops.xmae_fast.feed_forward_eval.default
_train = torch.ops.xmae_fast.feed_forward_train.default
_backward = torch.ops.xmae_fast.feed_forward_backward.default


class _FeedForward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, seed, p, *weights):
        out, hidden, stats = _train(x, list(weights), seed, p)
        ctx.save_for_backward(x, seed, hidden, stats, *weights)
        ctx.p = p
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        x, seed, hidden, stats, *weights = ctx.saved_tensors
        needs = (ctx.needs_input_grad[0], *ctx.needs_input_grad[3:])
        gradients = _backward(grad, x, weights, seed, ctx.p, hidden, stats, bits(needs))
        dx, *dweights = (gradient if need else None for gradient, need in zip(gradients, needs, strict=True))
        return dx, None, None, *dweights


def feed_forward(x: Tensor, params: FeedForwardParams, p: float) -> Tensor:
    """The C++ kernels: x [B, N, D] -> [B, N, D]."""
    seed = draw_seed(p)
    if wants_gradient(x, *params):
        return _FeedForward.apply(x, seed, p, *params)
    return _eval(x, list(params), seed, p)
