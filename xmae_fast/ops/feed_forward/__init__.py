"""feed_forward: LayerNorm, linear, exact GELU, linear, dropout, residual."""

from __future__ import annotations

from torch import Tensor

from xmae_fast import backend
from xmae_fast.ops._checks import check_like, check_probability, dims
from xmae_fast.ops.feed_forward import reference, schema
from xmae_fast.ops.feed_forward.params import FeedForwardParams

__all__ = ["FeedForwardParams", "feed_forward"]

backend.register("feed_forward", "cpu", "feed_forward_eval")


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
    if backend.resolve("feed_forward", impl, x.device, x.dtype) == "cpu":
        return schema.feed_forward(x, params, float(dropout_p))
    return reference.feed_forward(x, params, dropout_p)
