"""feed_forward: LayerNorm, linear, exact GELU, linear, dropout, residual."""

from __future__ import annotations

import torch
from torch import Tensor

from xmae_fast import backend
from xmae_fast.ops._checks import check_like, check_probability, dims
from xmae_fast.ops._triton import compute_dtype
from xmae_fast.ops.feed_forward import reference, schema
from xmae_fast.ops.feed_forward.params import FeedForwardParams

__all__ = ["FeedForwardParams", "feed_forward"]

backend.register("feed_forward", "cpu", "feed_forward_eval")
backend.register("feed_forward", "triton", "feed_forward_eval_triton")

# A program of the Triton kernels holds whole rows; in float32, products keep them in shared memory twice as wide.
_WIDEST = {torch.float32: 512, torch.float16: 1024, torch.bfloat16: 1024}


def feed_forward(x: Tensor, params: FeedForwardParams, *, dropout_p: float = 0.0, impl: str = "auto") -> Tensor:
    """The feed-forward sublayer of a pre-norm block.

    Args:
        x: [B, N, D]. params: weights, hidden width F. dropout_p: of the sublayer's output, in [0, 1); 0 in evaluation.

    Returns:
        [B, N, D] = x + dropout(W2 gelu(W1 layer_norm(x) + b1) + b2), GELU by erf, LayerNorm eps 1e-5.

    Raises:
        ValueError: shapes do not fit, or dropout_p. TypeError: dtype or device differ. BackendError: impl.
    """
    _, _, D = dims("x", x, "B N D")
    hidden, _ = dims("up_weight", params.up_weight, "F D", D=D)
    dims("down_weight", params.down_weight, "D F", D=D, F=hidden)
    check_like("x", x, "up_weight", params.up_weight)
    check_probability("dropout_p", dropout_p)
    compute = compute_dtype(x)
    widest = _WIDEST.get(compute, D)
    limit = f"D = {D} is beyond the {widest} columns that its kernels take in {compute}" if widest < D else ""
    chosen = backend.resolve("feed_forward", impl, x.device, x.dtype, triton_limit=limit)
    if chosen == "cpu":
        return schema.feed_forward(x, params, float(dropout_p))
    if chosen == "triton":
        return schema.feed_forward_triton(x, params, float(dropout_p))
    return reference.feed_forward(x, params, dropout_p)
