"""torch.library schemas of feed_forward's kernels, their fakes, and autograd around them.

weights: the tensors of FeedForwardParams in order; seed: int64 [2], or None where nothing is dropped.
"""

from __future__ import annotations

import torch
from torch import Tensor

from xmae_fast.ops._checks import once_differentiable, wants_gradient
from xmae_fast.ops._dropout import bits, draw_seed
from xmae_fast.ops._triton import compute_dtype, define_triton
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


def empty_output(x: Tensor, compute: torch.dtype) -> Tensor:
    """Room for x + (something in `compute`), as plain PyTorch would type it."""
    return x.new_empty(x.shape, dtype=torch.promote_types(x.dtype, compute))


def empty_packed(up: Tensor, down: Tensor, compute: torch.dtype) -> Tensor:
    """Room for up and down weight in `compute`; empty where they are in it already."""
    cast = up.dtype != compute or down.dtype != compute
    return up.new_empty((2, up.numel()) if cast else (0,), dtype=compute)


def _eval_fake(x, weights, seed, p, compute):
    return empty_output(x, compute)


def _train_fake(x, weights, seed, p, compute):
    stats = x.new_empty((x.shape[0] * x.shape[1], 2), dtype=torch.float32)
    return empty_output(x, compute), stats, empty_packed(weights[2], weights[4], compute)


def _backward_fake(grad, x, weights, seed, p, stats, packed, needs, compute):
    return empty_gradients(x, weights, needs)


def empty_gradients(x: Tensor, weights: list[Tensor], needs: int) -> list[Tensor]:
    """Room for the gradients of x and of the weights; empty where the bit in `needs` is not set."""
    return [t.new_empty(t.shape if needs >> i & 1 else (0,)) for i, t in enumerate((x, *weights))]


_eval_triton = define_triton(
    "feed_forward",
    "feed_forward_eval(Tensor x, Tensor[] weights, Tensor? seed, float p, ScalarType compute) -> Tensor",
    _eval_fake,
)
# out, and for the backward: stats [B N, 2] of the LayerNorm, weights in the dtype of products (see empty_packed)
_train_triton = define_triton(
    "feed_forward",
    "feed_forward_train(Tensor x, Tensor[] weights, Tensor? seed, float p, ScalarType compute)"
    " -> (Tensor, Tensor, Tensor)",
    _train_fake,
)
_backward_triton = define_triton(
    "feed_forward",
    "feed_forward_backward(Tensor grad, Tensor x, Tensor[] weights, Tensor? seed, float p, Tensor stats,"
    " Tensor packed, int needs, ScalarType compute) -> Tensor[]",
    _backward_fake,
)


class _FeedForwardTriton(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, seed, p, compute, *weights):
        out, stats, packed = _train_triton(x, list(weights), seed, p, compute)
        ctx.save_for_backward(x, seed, stats, packed, *weights)
        ctx.p, ctx.compute = p, compute
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        x, seed, stats, packed, *weights = ctx.saved_tensors
        needs = (ctx.needs_input_grad[0], *ctx.needs_input_grad[4:])
        gradients = _backward_triton(grad, x, weights, seed, ctx.p, stats, packed, bits(needs), ctx.compute)
        dx, *dweights = (gradient if need else None for gradient, need in zip(gradients, needs, strict=True))
        return dx, None, None, None, *dweights


def feed_forward_triton(x: Tensor, params: FeedForwardParams, p: float) -> Tensor:
    """The Triton kernels: x [B, N, D] -> [B, N, D]."""
    seed, compute = draw_seed(p, x.device), compute_dtype(x)
    if wants_gradient(x, *params):
        return _FeedForwardTriton.apply(x, seed, p, compute, *params)
    return _eval_triton(x, list(params), seed, p, compute)
