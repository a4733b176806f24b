"""conv_stem: the convolutional stem, chains of convolution + BatchNorm + SiLU on three levels."""

from __future__ import annotations

import torch
from torch import Tensor

from xmae_fast import backend
from xmae_fast.ops import _triton
from xmae_fast.ops._checks import check_like, dims, wants_gradient
from xmae_fast.ops.conv_stem import reference, schema, schema_triton
from xmae_fast.ops.conv_stem.params import ConvBN, Inception, StemParams

backend.register("conv_stem", "cpu", "conv_stem_eval")
backend.register("conv_stem", "triton", "conv_stem_eval_triton")

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
    B, _, L = x.shape
    limit = "" if B * L < 2**30 else f"x has {B * L:,} values and the kernels count up to 2^30"
    chosen = backend.resolve("conv_stem", impl, x.device, x.dtype, triton_limit=limit)
    if chosen == "cpu" and x.numel():
        return _cpu(x, params, training)
    if chosen == "triton" and x.numel():
        return _gpu(x, params, training)
    return reference.conv_stem(x, params, training)


def _cpu(x: Tensor, params: StemParams, training: bool) -> Tensor:
    weights = schema.flatten(params)
    if not training and not wants_gradient(x, *weights):
        return torch.ops.xmae_fast.conv_stem_eval(x, weights).transpose(1, 2)
    _check_values(x, training)
    features, statistics = schema.StemFunction.apply(training, x, *weights)
    if training:
        schema.update_running_statistics(params, statistics)
    return features.transpose(1, 2)


def _gpu(x: Tensor, params: StemParams, training: bool) -> Tensor:
    weights, compute = schema.flatten(params), _triton.compute_dtype(x)
    if not training and not wants_gradient(x, *weights):
        return schema_triton.EVAL(x, weights, compute).transpose(1, 2)
    _check_values(x, training)
    features, norms = schema_triton.TritonStemFunction.apply(training, compute, x, *weights)
    if training:
        schema.update_running_statistics(params, norms[:, :-1])
    return features.transpose(1, 2)


def _check_values(x: Tensor, training: bool) -> None:
    if training and x.shape[0] * -(-x.shape[2] // 4) == 1:  # values per channel on the coarsest level
        raise ValueError(f"x: expected more than one value per channel for BatchNorm in training, got {list(x.shape)}")
