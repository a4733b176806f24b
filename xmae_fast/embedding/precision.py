"""What `precision=` of the embedding functions means."""

from __future__ import annotations

import torch

from xmae_fast.model.xmae import xMAE

PRECISIONS = ("float32", "bf16")


def autocast_of(precision: str | None, autocast: torch.dtype | None) -> torch.dtype | None:
    """The dtype to autocast the encoder to; None for the precision of its weights.

    Args:
        precision: "bf16" for autocast to bfloat16, "float32" for none, or None, which leaves it to `autocast`.
        autocast: torch.bfloat16, torch.float16 or None.

    Raises:
        ValueError: `precision` is unknown, or the two contradict each other.
    """
    if precision is None:
        return autocast
    if precision not in PRECISIONS:
        raise ValueError(f"precision: expected one of {', '.join(map(repr, PRECISIONS))} or None, got {precision!r}")
    asked = torch.bfloat16 if precision == "bf16" else None
    if autocast not in (None, asked):
        raise ValueError(f"precision={precision!r} and autocast={autocast} contradict each other: give one of them")
    return asked


def check_weights(precision: str | None, model: xMAE) -> None:
    """Raise ValueError where float32 was asked for and the weights are not float32."""
    dtype = model.mask_token.dtype
    if precision == "float32" and dtype != torch.float32:
        raise ValueError(f"precision='float32': expected a model in float32 (model.float()), got one in {dtype}")
