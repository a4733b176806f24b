"""conv_stem: the convolutional stem, chains of convolution + BatchNorm + SiLU on three levels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from xmae_fast import backend
from xmae_fast.ops import _triton
from xmae_fast.ops._checks import check_like, dims, wants_gradient
from xmae_fast.ops.conv_stem import reference, schema, schema_cuda, schema_triton
from xmae_fast.ops.conv_stem.params import ConvBN, Inception, StemParams
from xmae_fast.ops.conv_stem.triton_layout import layout_of

backend.register("conv_stem", "cpu", "conv_stem_eval")
backend.register("conv_stem", "triton", "conv_stem_eval_triton")
backend.register("conv_stem", "cuda", "conv_stem_eval_cuda")

__all__ = ["ConvBN", "Inception", "StemParams", "conv_stem", "conv_stems"]

_MOST_VALUES = 2**30  # of x, for the Triton kernels


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
    chosen = _chosen(x, params, impl)
    if chosen == "cpu" and x.numel():
        return _cpu(x, params, training)
    if chosen == "triton" and x.numel():
        return _gpu(x, params, training)
    if chosen == "cuda":
        return _cuda(x, params, training)
    return reference.conv_stem(x, params, training)


def conv_stems(
    xs: tuple[Tensor, Tensor], params: tuple[StemParams, StemParams], *, training: bool, impl: str = "auto"
) -> tuple[Tensor, Tensor]:
    """Features of two waveforms, each by a stem of its own: what `conv_stem` returns for each.

    The Triton kernels train two stems of the same widths in one set of launches.

    Args:
        xs: [B, 1, L] each; B and L may differ.
        params, training, impl: as in `conv_stem`.

    Returns:
        [B, S, L] of each.

    Raises:
        As `conv_stem`.
    """
    chosen = {_chosen(x, stem, impl) for x, stem in zip(xs, params, strict=True)}
    if chosen == {"triton"} and min(x.numel() for x in xs) and sum(x.numel() for x in xs) < _MOST_VALUES:
        weights = [schema.flatten(stem) for stem in params]
        alike = layout_of(weights[0]) == layout_of(weights[1]) and xs[0].dtype == xs[1].dtype
        wants = {wants_gradient(x, *some) for x, some in zip(xs, weights, strict=True)}
        if alike and len(wants) == 1 and (training or True in wants):
            return _train_on_gpu(xs, params, [weight for some in weights for weight in some], training)
    return tuple(conv_stem(x, stem, training=training, impl=impl) for x, stem in zip(xs, params, strict=True))


def _chosen(x: Tensor, params: StemParams, impl: str) -> str:
    """The implementation that serves the call, which is checked."""
    dims("x", x, "B 1 L")
    check_like("x", x, "the stem's weights", params.lat1)
    limit = "" if x.numel() < _MOST_VALUES else f"x has {x.numel():,} values and the kernels count up to 2^30"
    return backend.resolve("conv_stem", impl, x.device, x.dtype, triton_limit=limit)


def _cpu(x: Tensor, params: StemParams, training: bool) -> Tensor:
    weights = schema.flatten(params)
    if not training and not wants_gradient(x, *weights):
        return torch.ops.xmae_fast.conv_stem_eval(x, weights).transpose(1, 2)
    _check_values(x, training)
    features, statistics = schema.StemFunction.apply(training, x, *weights)
    if training:
        schema.update_running_statistics([params], statistics[None])
    return features.transpose(1, 2)


def _gpu(x: Tensor, params: StemParams, training: bool) -> Tensor:
    weights = schema.flatten(params)
    if not training and not wants_gradient(x, *weights):
        return schema_triton.EVAL(x, weights, _triton.compute_dtype(x)).transpose(1, 2)
    return _train_on_gpu((x,), (params,), weights, training)[0]


def _train_on_gpu(
    xs: Sequence[Tensor], params: Sequence[StemParams], weights: list[Tensor], training: bool
) -> tuple[Tensor, ...]:
    for x in xs:
        _check_values(x, training)
    compute = _triton.compute_dtype(xs[0])
    norms, *features = schema_triton.TritonStemFunction.apply(len(xs), training, compute, *xs, *weights)
    if training:
        schema.update_running_statistics(params, norms[..., :-1])
    return tuple(part.transpose(1, 2) for part in features)


def _cuda(x: Tensor, params: StemParams, training: bool) -> Tensor:
    compute, gradients = _triton.compute_dtype(x), wants_gradient(x, *schema.flatten(params))
    gpu = schema_cuda.gpu_of(x.device)
    why = schema_cuda.limit(params, x.shape[2], compute, training=training, gradients=gradients, gpu=gpu)
    if why:
        raise backend.BackendError(f"impl='cuda' was asked for conv_stem, but {why}; impl='triton' takes it")
    return schema_cuda.evaluate(x, params, compute).transpose(1, 2)


def _check_values(x: Tensor, training: bool) -> None:
    if training and x.shape[0] * -(-x.shape[2] // 4) == 1:  # values per channel on the coarsest level
        raise ValueError(f"x: expected more than one value per channel for BatchNorm in training, got {list(x.shape)}")
