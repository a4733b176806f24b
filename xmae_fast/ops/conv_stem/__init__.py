"""conv_stem: the convolutional stem, chains of convolution + BatchNorm + SiLU on three levels."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from xmae_fast import backend
from xmae_fast.ops._checks import check_like, dims, kernel_dtype
from xmae_fast.ops._gradients import wants_gradient
from xmae_fast.ops._triton import compute_dtype
from xmae_fast.ops.conv_stem import operators, reference
from xmae_fast.ops.conv_stem.cuda import limits
from xmae_fast.ops.conv_stem.params import ConvBN, Inception, StemParams, flatten
from xmae_fast.ops.conv_stem.several import MOST_VALUES

__all__ = ["ConvBN", "Inception", "StemParams", "conv_stem", "conv_stems"]


def _triton_limit(x: Tensor, params: StemParams, training: bool) -> str:
    return "" if x.numel() < MOST_VALUES else f"x has {x.numel():,} values and the kernels count up to 2^30"


def _cuda_limit(x: Tensor, params: StemParams, training: bool) -> str:
    of_x, of_weights = wants_gradient(x), wants_gradient(*flatten(params))
    gpu, compute = limits.gpu_of(x.device), compute_dtype(x)
    return limits.limit(params, (x,), compute, training=training, gradients=of_weights, x_gradients=of_x, gpu=gpu)


_OPERATORS = ("conv_stem_eval", "conv_stem_train", "conv_stem_backward")
_TRAINING_IN_BFLOAT16 = ("conv_stem_train_bf16", "conv_stem_backward_bf16")
backend.declare("conv_stem")
backend.register(
    "conv_stem", "cpu", _OPERATORS, bfloat16="conv_stem_eval_bf16", bfloat16_training=_TRAINING_IN_BFLOAT16
)
backend.register("conv_stem", "triton", tuple(f"{name}_triton" for name in _OPERATORS), limit=_triton_limit)
backend.register(
    "conv_stem",
    "cuda",
    tuple(f"{name}_cuda" for name in _OPERATORS),
    automatic="16 bits only, and not measured on a GPU yet: triton until it is",
    limit=_cuda_limit,
)


def conv_stem(x: Tensor, params: StemParams, *, training: bool, impl: str = "auto") -> Tensor:
    """Features of every sample of a waveform.

    Args:
        x: [B, 1, L], floating, any L >= 1.
        params: the weights; in training the running statistics in them are updated in place as
            torch.nn.BatchNorm1d does (momentum 0.1, unbiased running variance).
        training: normalise by the batch's statistics instead of the running ones.
        impl: which implementation runs, see `xmae_fast.backend`.

    Returns:
        [B, S, L].

    Raises:
        ValueError: the shape of x is wrong, or training has one value per channel.
        TypeError: dtype or device differ from the weights'.
        BackendError: `impl` cannot serve this call.
    """
    chosen = _chosen(x, params, training, impl)
    if chosen != "reference" and x.numel():
        try:
            return operators.conv_stem(x, params, training, chosen)
        except backend.KernelFailure as failure:
            backend.do_without("conv_stem", chosen, impl, failure)
    return reference.conv_stem(x, params, training)


def conv_stems(
    xs: Sequence[Tensor], params: Sequence[StemParams], *, training: bool, impl: str = "auto"
) -> tuple[Tensor, ...]:
    """Features of two waveforms, each by a stem of its own: what `conv_stem` returns for each.

    The kernels on a GPU train two stems of the same widths in one set of launches.

    Args:
        xs: [B, 1, L] each; B and L may differ.
        params: the weights of each stem, as in `conv_stem`.
        training, impl: as in `conv_stem`.

    Returns:
        [B, S, L] of each.

    Raises:
        ValueError, TypeError, BackendError: as in `conv_stem`.
    """
    chosen = {_chosen(x, stem, training, impl) for x, stem in zip(xs, params, strict=True)}
    (first, *others) = chosen
    if not others and operators.may_join(xs, params, training, first):
        try:
            return operators.conv_stems(xs, params, training, first)
        except backend.KernelFailure as failure:
            backend.do_without("conv_stem", first, impl, failure)
    return tuple(conv_stem(x, stem, training=training, impl=impl) for x, stem in zip(xs, params, strict=True))


def _chosen(x: Tensor, params: StemParams, training: bool, impl: str) -> str:
    """The implementation that serves the call, whose x and weights are checked."""
    dims("x", x, "B 1 L")
    check_like("x", x, "the stem's weights", params.lat1)
    inference = not training and not wants_gradient(x, *flatten(params))
    return backend.resolve(
        "conv_stem", impl, x.device, kernel_dtype(x, params.lat1), (x, params, training), inference=inference
    )
