"""Stem, patch embedding and encoder blocks by the C++ kernels, one operator right after the other.

One segment takes about a millisecond, of which the checks, choices and arguments of six operators took half. Here they
are made once: the weights are flat lists that the caller keeps as long as they are the model's, and the operators check
what they get.
"""

from __future__ import annotations

from collections.abc import Iterator
from operator import attrgetter
from typing import NamedTuple

import torch
from torch import Tensor

from xmae_fast import backend
from xmae_fast.ops._triton import compute_dtype
from xmae_fast.ops.conv_stem import schema as conv_stem
from xmae_fast.ops.feed_forward import schema as feed_forward
from xmae_fast.ops.lag_attention import schema as lag_attention
from xmae_fast.ops.lag_attention.schema import Inputs
from xmae_fast.ops.patch_embed import schema as patch_embed

OPS = ("conv_stem", "patch_embed", "lag_attention", "feed_forward")
_dtype_of, _is_cpu = attrgetter("dtype"), attrgetter("is_cpu")


class BlockWeights(NamedTuple):
    """The weights of an encoder block, as the operators take them."""

    attention: list[Tensor]  # see `lag_attention.params.kernel_weights`
    feed_forward: list[Tensor]  # in the order of FeedForwardParams


class EncoderWeights(NamedTuple):
    """The weights of an encoder."""

    stem: list[Tensor]  # in the order of `conv_stem.params.flatten`
    patch: tuple[Tensor, Tensor]  # weight [D, S, P], bias [D]
    blocks: list[BlockWeights]

    def floating(self) -> Iterator[Tensor]:
        """Those that hold floating-point numbers."""
        tensors = [*self.stem, *self.patch, *(x for block in self.blocks for part in block for x in part)]
        return (x for x in tensors if x.is_floating_point())


def may_encode(x: Tensor, impl: str, tensors: list[Tensor]) -> bool:
    """Whether `encode` may compute what the operators would, each by itself.

    Args:
        x: [B, 1, L].
        impl: the choice of implementation.
        tensors: the floating-point ones of the EncoderWeights.
    """
    return (
        x.is_cpu
        and x.dtype == torch.float32
        and x.numel() > 0
        and not torch.is_grad_enabled()
        and not torch.compiler.is_compiling()
        and all(backend.choice_of(impl, op) in ("auto", "cpu") for op in OPS)
        and all(backend.is_usable(op, "cpu") for op in OPS)
        and not backend.needs_plain_torch()
        and all(map(_is_cpu, tensors))
        and set(map(_dtype_of, tensors)) == {torch.float32}
    )


def encode(x: Tensor, weights: EncoderWeights, pos: Tensor, heads: list[int]) -> Tensor:
    """Tokens in evaluation.

    Args:
        x: [B, 1, L], L = N P, for which `may_encode` is true.
        weights: of the encoder.
        pos: [1, N, D].
        heads: the number of heads of each block.

    Returns:
        [B, N, D].
    """
    compute = compute_dtype(x, "cpu", inference=True)
    features = conv_stem.evaluate(x, weights.stem, compute)
    tokens = patch_embed.evaluate(features, *weights.patch, pos, compute)
    for block, num_heads in zip(weights.blocks, heads, strict=True):
        inputs = Inputs(tokens, None, block.attention, num_heads, None, None, None, None, 0.0)
        tokens = feed_forward.evaluate(lag_attention.evaluate(inputs, compute), block.feed_forward, None, 0.0, compute)
    return tokens
