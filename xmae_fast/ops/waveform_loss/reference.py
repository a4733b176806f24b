"""Decoding to a waveform and its loss in plain PyTorch: the oracle of waveform_loss."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def decode_waveform(tokens: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """tokens [B, N, D], weight [D, 1, P], bias [1] -> [B, 1, N * P].

    Stride = kernel, so patches do not overlap and the deconvolution is one matrix product.
    """
    return (F.linear(tokens, weight[:, 0].T) + bias).flatten(1)[:, None]


def masked_mse(prediction: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """sum(mask * (prediction - target)^2) / max(sum(mask), 1); tensors of one shape -> []."""
    return (mask * (prediction - target).square()).sum() / mask.sum().clamp(min=1)


def waveform_loss(tokens: Tensor, weight: Tensor, bias: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """masked_mse(decode_waveform(tokens), target): target, mask [B, 1, L] -> []."""
    return masked_mse(decode_waveform(tokens, weight, bias), target, mask)
