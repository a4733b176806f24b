"""conv_stem: the convolutional stem, chains of convolution + BatchNorm + SiLU on three levels."""

from __future__ import annotations

from torch import Tensor

from xmae_fast import backend
from xmae_fast.ops._checks import check_like, dims
from xmae_fast.ops.conv_stem import reference
from xmae_fast.ops.conv_stem.params import ConvBN, Inception, StemParams

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
    backend.resolve("conv_stem", impl, x.device)
    return reference.conv_stem(x, params, training)
