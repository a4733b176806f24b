"""The outputs of a PPG encoder for segments: pooled tokens, their projection, or the tokens themselves."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from xmae_fast.model import embedding_graphs
from xmae_fast.model.xmae import xMAE

OUTPUTS = ("pooled", "projected", "tokens")


def output_shape(model: xMAE, output: str) -> tuple[int, ...]:
    """Shape of `output` for one segment.

    Raises:
        ValueError: `output` is unknown, or the model has no PPG encoder.
    """
    if output not in OUTPUTS:
        raise ValueError(f"output: expected one of {', '.join(map(repr, OUTPUTS))}, got {output!r}")
    cfg = model.cfg
    if cfg.source == "ecg":
        raise ValueError("model: expected one with a PPG encoder, got source='ecg'")
    shapes = {"pooled": (cfg.d_model,), "projected": (cfg.proj_dim,), "tokens": (cfg.num_patches, cfg.d_model)}
    return shapes[output]


@torch.no_grad()
def encode(model: xMAE, ppg: Tensor, output: str = "pooled") -> Tensor:
    """Features of prepared PPG, with evaluation statistics and without dropout, whatever the model's mode.

    Args:
        model: an xMAE with a PPG encoder.
        ppg: [B, L] or [B, 1, L] in the model's dtype and on its device.
        output: "pooled", the mean over the encoder's tokens, which pretraining trains; "projected", `ppg_embedding`,
            which is that mean after a projection to which pretraining sends no gradient; or "tokens".

    Returns:
        [B, D] pooled, [B, proj_dim] projected, [B, N, D] tokens.

    Raises:
        ValueError, TypeError: naming the argument.
        BackendError: `model.impl` names kernels that cannot compute this model.
    """
    output_shape(model, output)
    model.refuse_foreign_parts()
    signal = model.as_signal("ppg", ppg)
    assert signal is not None  # `output_shape` has made sure that the source has PPG
    function = _functions(model)[output]
    if embedding_graphs.usable(model, signal):
        return embedding_graphs.embed(model, signal, function, output)
    return function(signal)


def _functions(model: xMAE) -> dict[str, Callable[[Tensor], Tensor]]:
    def tokens(signal: Tensor) -> Tensor:
        path = model.ppg_path
        assert path is not None
        return path.encode(signal, inference=True)

    return {
        "tokens": tokens,
        "pooled": lambda signal: tokens(signal).mean(1),
        "projected": model._embed,
    }
