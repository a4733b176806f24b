"""conv_stem: the convolutional stem, chains of convolution + BatchNorm + SiLU on three levels."""

from __future__ import annotations

import torch
from torch import Tensor

from xmae_fast import backend
from xmae_fast.ops._checks import check_like, dims, wants_gradient
from xmae_fast.ops.conv_stem import reference, schema
from xmae_fast.ops.conv_stem.params import ConvBN, Inception, StemParams

backend.register("conv_stem", "cpu", "conv_stem_eval")

__all__ = ["ConvBN", "Inception", "StemParams", "conv_stem"]


def conv_stem(x: Tensor, params: StemParams, *, training: bool, impl: str = "auto") -> Tensor:
    """Features of every sample of a waveform.

    Args:
        x: [B, 1, L], floating, any L >= 1.
        params: the weights; in training the running statistics in them are updated in place as
            torch.nn.BatchNorm1d does (momentum 0.1, unbiased running variance).
        training: normalise by the batch's statistics instead of the running ones.

    Returns:
        [B, S, L].

    Raises:
        ValueError: wrong shape. TypeError: dtype or device differ from the weights'. BackendError: impl.
    """
    dims("x", x, "B 1 L")
    check_like("x", x, "the stem's weights", params.lat1)
    if backend.resolve("conv_stem", impl, x.device, x.dtype) == "cpu" and x.numel():
        return _cpu(x, params, training)
    return reference.conv_stem(x, params, training)


def _cpu(x: Tensor, params: StemParams, training: bool) -> Tensor:
    weights = schema.flatten(params)
    if not training and not wants_gradient(x, *weights):
        return torch.ops.xmae_fast.conv_stem_eval(x, weights).transpose(1, 2)
    if training and x.shape[0] * -(-x.shape[2] // 4) == 1:  # values per channel on the coarsest level
        raise ValueError(f"x: expected more than one value per channel for BatchNorm in training, got {list(x.shape)}")
    features, statistics = schema.StemFunction.apply(training, x, *weights)
    if training:
        schema.update_running_statistics(params, statistics)
    return features.transpose(1, 2)
