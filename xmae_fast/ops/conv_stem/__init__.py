"""conv_stem: the convolutional stem, chains of convolution + BatchNorm + SiLU on three levels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from xmae_fast import backend
from xmae_fast.ops import _triton
from xmae_fast.ops._checks import check_like, dims, wants_gradient
from xmae_fast.ops.conv_stem import reference, schema
from xmae_fast.ops.conv_stem.cuda import schema as schema_cuda
from xmae_fast.ops.conv_stem.cuda import schema_train as schema_cuda_train
from xmae_fast.ops.conv_stem.params import ConvBN, Inception, StemParams
from xmae_fast.ops.conv_stem.several import MOST_VALUES
from xmae_fast.ops.conv_stem.triton import schema as schema_triton
from xmae_fast.ops.conv_stem.triton.layout import layout_of

backend.register("conv_stem", "cpu", "conv_stem_eval")
backend.register("conv_stem", "triton", "conv_stem_eval_triton")
backend.register("conv_stem", "cuda", "conv_stem_eval_cuda", "conv_stem_train_cuda", "conv_stem_backward_cuda")

__all__ = ["ConvBN", "Inception", "StemParams", "conv_stem", "conv_stems"]

# On a GPU: evaluate(x, params, compute) -> [B, L, S]; train(xs, params, training, compute) -> [B, S, L] of each x.
_ON_GPU = {
    "triton": (schema_triton.evaluate, schema_triton.train),
    "cuda": (schema_cuda.evaluate, schema_cuda_train.train),
}


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
    chosen = _chosen(x, params, training, impl)
    if chosen == "cpu" and x.numel():
        return _cpu(x, params, training)
    if chosen in _ON_GPU and x.numel():
        return _on_gpu(chosen, (x,), (params,), training)[0]
    return reference.conv_stem(x, params, training)


def conv_stems(
    xs: tuple[Tensor, Tensor], params: tuple[StemParams, StemParams], *, training: bool, impl: str = "auto"
) -> tuple[Tensor, Tensor]:
    """Features of two waveforms, each by a stem of its own: what `conv_stem` returns for each.

    The kernels on a GPU train two stems of the same widths in one set of launches.

    Args:
        xs: [B, 1, L] each; B and L may differ.
        params, training, impl: as in `conv_stem`.

    Returns:
        [B, S, L] of each.

    Raises:
        As `conv_stem`.
    """
    chosen = {_chosen(x, stem, training, impl) for x, stem in zip(xs, params, strict=True)}
    if len(chosen) == 1 and chosen <= _ON_GPU.keys() and _may_share(xs, params, training):
        return _on_gpu(chosen.pop(), xs, params, training)
    return tuple(conv_stem(x, stem, training=training, impl=impl) for x, stem in zip(xs, params, strict=True))


def _may_share(xs: tuple[Tensor, Tensor], params: tuple[StemParams, StemParams], training: bool) -> bool:
    """Whether kernels on a GPU can train both in one set of launches, and are to train at all."""
    if not min(x.numel() for x in xs) or sum(x.numel() for x in xs) >= MOST_VALUES:
        return False
    weights = [schema.flatten(stem) for stem in params]
    alike = layout_of(weights[0]) == layout_of(weights[1]) and xs[0].dtype == xs[1].dtype
    wants = {wants_gradient(x, *some) for x, some in zip(xs, weights, strict=True)}
    return alike and len(wants) == 1 and (training or True in wants)


def _chosen(x: Tensor, params: StemParams, training: bool, impl: str) -> str:
    """The implementation that serves the call, which is checked."""
    dims("x", x, "B 1 L")
    check_like("x", x, "the stem's weights", params.lat1)
    limit = "" if x.numel() < MOST_VALUES else f"x has {x.numel():,} values and the kernels count up to 2^30"
    return backend.resolve(
        "conv_stem", impl, x.device, x.dtype, triton_limit=limit, cuda_limit=lambda: _cuda_limit(x, params, training)
    )


def _cuda_limit(x: Tensor, params: StemParams, training: bool) -> str:
    """Why the CUDA C++ kernels do not serve a call, or ''."""
    of_x, of_weights = wants_gradient(x), wants_gradient(*schema.flatten(params))
    gpu, compute = schema_cuda.gpu_of(x.device), _triton.compute_dtype(x)
    return schema_cuda.limit(
        params, (x,), compute, training=training, gradients=of_weights, x_gradients=of_x, gpu=gpu
    )


def _cpu(x: Tensor, params: StemParams, training: bool) -> Tensor:
    weights = schema.flatten(params)
    if not training and not wants_gradient(x, *weights):
        return torch.ops.xmae_fast.conv_stem_eval(x, weights).transpose(1, 2)
    _check_values(x, training)
    features, statistics = schema.StemFunction.apply(training, x, *weights)
    if training:
        schema.update_running_statistics([params], statistics[None])
    return features.transpose(1, 2)


def _on_gpu(chosen: str, xs: Sequence[Tensor], params: Sequence[StemParams], training: bool) -> tuple[Tensor, ...]:
    """[B, S, L] of each stem, by the kernels of `_ON_GPU`; several stems are of the same widths."""
    evaluate, train = _ON_GPU[chosen]
    compute = _triton.compute_dtype(xs[0])
    each = list(zip(xs, params, strict=True))
    if not training and not any(wants_gradient(x, *schema.flatten(stem)) for x, stem in each):
        return tuple(evaluate(x, stem, compute).transpose(1, 2) for x, stem in each)
    for x in xs:
        _check_values(x, training)
    return train(xs, params, training, compute)


def _check_values(x: Tensor, training: bool) -> None:
    if training and x.shape[0] * -(-x.shape[2] // 4) == 1:  # values per channel on the coarsest level
        raise ValueError(f"x: expected more than one value per channel for BatchNorm in training, got {list(x.shape)}")
