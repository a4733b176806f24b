"""waveform_loss: decoder tokens to samples (deconvolution), and the masked mean squared error of those samples."""

from __future__ import annotations

from torch import Tensor

from xmae_fast import backend
from xmae_fast.backend import choice_of
from xmae_fast.ops._checks import check_floating, check_like, dims, kernel_dtype
from xmae_fast.ops._gradients import wants_gradient
from xmae_fast.ops.waveform_loss import operators, reference

_OPERATORS = ("waveform_loss", "decode_waveform", "decode_waveform_backward", "masked_mse")
_TRITON_OPERATORS = (*_OPERATORS, "masked_mse_backward")
backend.declare("waveform_loss")
backend.register("waveform_loss", "cpu", _OPERATORS)
backend.register("waveform_loss", "triton", tuple(f"{name}_triton" for name in _TRITON_OPERATORS))


def decode_waveform(tokens: Tensor, weight: Tensor, bias: Tensor, *, impl: str = "auto") -> Tensor:
    """Each token becomes the P samples of its patch.

    Args:
        tokens: [B, N, D].
        weight: [D, 1, P].
        bias: [1].
        impl: which implementation runs, see `xmae_fast.backend`.

    Returns:
        [B, 1, N * P] = ConvTranspose1d(tokens, weight, bias, stride P).

    Raises:
        ValueError: shapes do not fit.
        TypeError: dtype or device differ.
        BackendError: `impl` cannot serve this call.
    """
    _check_decoder(tokens, weight, bias)
    chosen = backend.resolve("waveform_loss", impl, tokens.device, kernel_dtype(tokens, weight, bias))
    if chosen != "reference":
        try:
            return operators.decode_waveform(tokens, weight, bias, chosen)
        except backend.KernelFailure as failure:
            backend.do_without("waveform_loss", chosen, impl, failure)
    return reference.decode_waveform(tokens, weight, bias)


def masked_mse(prediction: Tensor, target: Tensor, mask: Tensor, *, impl: str = "auto") -> Tensor:
    """Mean squared error over the masked samples: sum(mask * (prediction - target)^2) / max(sum(mask), 1).

    Args:
        prediction: [B, 1, L] or [B, L].
        target: [B, 1, L] or [B, L].
        mask: [B, 1, L] or [B, L], 1 where the error counts.
        impl: which implementation runs, see `xmae_fast.backend`.

    Returns:
        [], 0 where nothing is masked. The kernels have no gradients of target and mask: where one is asked for,
        impl="auto" takes plain PyTorch, and impl="cpu" and impl="triton" raise.

    Raises:
        ValueError: the three do not hold the same [B, L] samples.
        TypeError: prediction or target is not floating, or the devices differ.
        BackendError: `impl` cannot serve this call.
    """
    B, L = _as_samples("prediction", prediction).shape
    check_floating("prediction", prediction)
    for name, x in (("target", target), ("mask", mask)):
        dims(name, _as_samples(name, x), "B L", B=B, L=L)
        if x.device != prediction.device:
            raise TypeError(
                f"{name}: expected a tensor on {prediction.device}, where prediction is, got one on {x.device}"
            )
    check_floating("target", target)
    prediction, target, mask = (
        _as_samples(name, x) for name, x in (("prediction", prediction), ("target", target), ("mask", mask))
    )
    chosen = _chosen(impl, target, mask, prediction)
    if chosen != "reference":
        try:
            return operators.masked_mse(prediction, target, mask, chosen)
        except backend.KernelFailure as failure:
            backend.do_without("waveform_loss", chosen, impl, failure)
    return reference.masked_mse(prediction, target, mask)


def waveform_loss(
    tokens: Tensor, weight: Tensor, bias: Tensor, target: Tensor, mask: Tensor, *, impl: str = "auto"
) -> Tensor:
    """`masked_mse` of `decode_waveform`, in one operator.

    Args:
        tokens: [B, N, D].
        weight: [D, 1, P].
        bias: [1].
        target: [B, 1, L], L = N * P.
        mask: [B, 1, L], 1 where the error counts.
        impl: which implementation runs, see `xmae_fast.backend`.

    Returns:
        []. The C++ kernels do not even decode patches whose mask is all zero. The kernels have no gradients of target
        and mask: where one is asked for, impl="auto" takes plain PyTorch, and impl="cpu" and impl="triton" raise.

    Raises:
        ValueError: shapes do not fit.
        TypeError: dtype or device differ.
        BackendError: `impl` cannot serve this call.
    """
    B, L = _check_decoder(tokens, weight, bias)
    dims("target", target, "B 1 L", B=B, L=L)
    dims("mask", mask, "B 1 L", B=B, L=L)
    chosen = _chosen(impl, target, mask, tokens, weight, bias)
    if chosen != "reference":
        try:
            return operators.waveform_loss(tokens, weight, bias, target, mask, chosen)
        except backend.KernelFailure as failure:
            backend.do_without("waveform_loss", chosen, impl, failure)
    return reference.waveform_loss(tokens, weight, bias, target, mask)


def _chosen(impl: str, target: Tensor, mask: Tensor, *tensors: Tensor) -> str:
    """The implementation that takes the loss; only the reference has gradients of target and mask."""
    chosen = backend.resolve("waveform_loss", impl, tensors[0].device, kernel_dtype(*tensors, target, mask))
    for name, x in (("target", target), ("mask", mask)):
        if chosen != "reference" and wants_gradient(x):
            if choice_of(impl, "waveform_loss") != "auto":
                raise backend.BackendError(
                    f"impl={impl!r} was asked for waveform_loss, but it has no gradient of {name}, which requires one; "
                    "impl='reference' has"
                )
            return "reference"
    return chosen


def _check_decoder(tokens: Tensor, weight: Tensor, bias: Tensor) -> tuple[int, int]:
    B, N, D = dims("tokens", tokens, "B N D")
    _, _, P = dims("weight", weight, "D 1 P", D=D)
    dims("bias", bias, "1")
    check_like("tokens", tokens, "weight", weight)
    return B, N * P


def _as_samples(name: str, x: Tensor) -> Tensor:
    if isinstance(x, Tensor) and x.dim() == 3:
        dims(name, x, "B 1 L")
        return x[:, 0]
    dims(name, x, "B L")
    return x
