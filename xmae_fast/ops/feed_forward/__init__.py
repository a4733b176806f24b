"""feed_forward: LayerNorm, linear, exact GELU, linear, dropout, residual."""

from __future__ import annotations

import torch
from torch import Tensor

from xmae_fast import backend
from xmae_fast.ops._checks import check_like, check_probability, dims, kernel_dtype
from xmae_fast.ops._gradients import wants_gradient
from xmae_fast.ops._triton import compute_dtype
from xmae_fast.ops.feed_forward import operators, reference
from xmae_fast.ops.feed_forward.params import FeedForwardParams

__all__ = ["FeedForwardParams", "feed_forward"]

# A program of the Triton kernels holds whole rows; in float32, products keep them in shared memory twice as wide.
_WIDEST = {torch.float32: 512, torch.float16: 1024, torch.bfloat16: 1024}


def _triton_limit(x: Tensor) -> str:
    D, compute = x.shape[-1], compute_dtype(x)
    widest = _WIDEST.get(compute, D)
    return f"D = {D} is beyond the {widest} columns that its kernels take in {compute}" if widest < D else ""


_OPERATORS = ("feed_forward_eval", "feed_forward_train", "feed_forward_backward")
backend.declare("feed_forward")
_IN_BFLOAT16 = ("feed_forward_train_bf16", "feed_forward_backward_bf16")
backend.register("feed_forward", "cpu", _OPERATORS, bfloat16="feed_forward_eval_bf16", bfloat16_training=_IN_BFLOAT16)
backend.register("feed_forward", "triton", tuple(f"{name}_triton" for name in _OPERATORS), limit=_triton_limit)


def feed_forward(x: Tensor, params: FeedForwardParams, *, dropout_p: float = 0.0, impl: str = "auto") -> Tensor:
    """The feed-forward sublayer of a pre-norm block.

    Args:
        x: [B, N, D].
        params: the weights, of hidden width F.
        dropout_p: probability that an element of the sublayer's output is dropped, in [0, 1); 0 in evaluation.
        impl: which implementation runs, see `xmae_fast.backend`.

    Returns:
        [B, N, D] = x + dropout(W2 gelu(W1 layer_norm(x) + b1) + b2), GELU by erf, LayerNorm eps 1e-5.

    Raises:
        ValueError: shapes do not fit, or dropout_p is out of its range.
        TypeError: dtype or device differ from the weights'.
        BackendError: `impl` cannot serve this call.
    """
    _, _, D = dims("x", x, "B N D")
    hidden, _ = dims("up_weight", params.up_weight, "F D", D=D)
    dims("down_weight", params.down_weight, "D F", D=D, F=hidden)
    check_like("x", x, "up_weight", params.up_weight)
    check_probability("dropout_p", dropout_p)
    chosen = backend.resolve(
        "feed_forward",
        impl,
        x.device,
        kernel_dtype(x, params.up_weight),
        (x,),
        inference=not wants_gradient(x, *params),
    )
    if chosen != "reference":
        try:
            return operators.feed_forward(x, params, float(dropout_p), chosen)
        except backend.KernelFailure as failure:
            backend.do_without("feed_forward", chosen, impl, failure)
    return reference.feed_forward(x, params, dropout_p)
