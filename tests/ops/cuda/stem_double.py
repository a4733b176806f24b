"""The operators of the stem's CUDA training kernels, on the CPU: what the Python code around them is tested with."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import Tensor

from xmae_fast.ops.cases import Maker
from xmae_fast.ops.conv_stem.cases import make_stem
from xmae_fast.ops.conv_stem.cuda.limits import TRAINED_CHANNELS, WIDTHS
from xmae_fast.ops.conv_stem.cuda.schema import PACKED_NUMBERS
from xmae_fast.ops.conv_stem.params import TRAINED, flatten
from xmae_fast.ops.conv_stem.reference import EPS

WEIGHT_SHAPES = [weight.shape for weight in flatten(make_stem(Maker(0), TRAINED_CHANNELS, WIDTHS))]
UNIT_CHANNELS = ([32] * 4, [64] * 5, [128] * 5, [64], [32, 32])  # of units 0 to 16, by level 1, 2, 3, 2, 1


class StemDouble:
    """The operators by means of the CPU kernels, which compute in float32; a backward computes the forward again.

    Attributes:
        calls: names of the operators called, in order.
        flat, x: what the last forward got.
    """

    def __init__(self) -> None:
        self.calls: list[str] = []

    @contextlib.contextmanager
    def registered(self) -> Iterator[StemDouble]:
        """Within it the operators serve CPU tensors."""
        with torch.library._scoped_library("xmae_fast", "IMPL") as library:
            library.impl("conv_stem_train_cuda", self.train, "CPU")
            library.impl("conv_stem_backward_cuda", self.backward, "CPU")
            yield self

    def train(
        self, x: Tensor, flat: Tensor, sizes: list[int], batch_statistics: bool, compute: torch.dtype
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        self.calls.append("train")
        self.x, self.flat = x, flat
        assert x.dtype in (torch.float32, compute)
        assert x.dim() == 1
        assert x.is_contiguous()
        assert flat.dtype == torch.float32
        assert flat.is_contiguous()
        features, norms = [], []
        for part, weights in zip(_xs(x, sizes), _weights(flat), strict=True):
            out, statistics, _ = torch.ops.xmae_fast.conv_stem_train(part, weights, batch_statistics)
            gamma, beta = (torch.cat(weights[first : first + 30]) for first in (34, 64))
            mean, var, unbiased, _ = statistics
            rstd = (var + EPS).rsqrt()
            rows = torch.stack([mean, rstd, unbiased, gamma * rstd, beta])
            norms.append(torch.cat([rows, part.mean().expand(5, 1)], dim=1))
            features.append(out.flatten(0, 1))
        kept = torch.full((_kept(sizes),), 0.5, dtype=compute)
        return torch.cat(features).to(compute), torch.stack(norms), kept, torch.full((len(flat), 36), 0.25)

    def backward(
        self, grads: list[Tensor], x: Tensor, flat: Tensor, norms: Tensor, kept: Tensor, moments: Tensor,
        sizes: list[int], batch_statistics: bool,
    ) -> Tensor:  # fmt: skip
        self.calls.append("backward")
        assert all(grad.is_contiguous() and grad.dtype == kept.dtype for grad in grads)
        assert [list(grad.shape) for grad in grads] == [[B, L, 32] for B, L in sizes_of_stems(sizes)]
        assert kept.shape == (_kept(sizes),)
        assert (kept == 0.5).all()
        assert (moments == 0.25).all()
        gradients = []
        for i, (part, weights) in enumerate(zip(_xs(x, sizes), _weights(flat), strict=True)):
            _, statistics, saved = torch.ops.xmae_fast.conv_stem_train(part, weights, batch_statistics)
            assert torch.equal(norms[i, ::2, :-1][:2], statistics[:3:2])  # mean and unbiased variance
            of_weights = torch.ops.xmae_fast.conv_stem_backward(
                grads[i].float(), part, weights[:TRAINED], statistics, saved, batch_statistics, False
            )[:-1]
            gradients.append(torch.cat([gradient.flatten() for gradient in of_weights]))
        return torch.stack(gradients)


def sizes_of_stems(sizes: list[int]) -> list[tuple[int, int]]:
    """B and L of each stem."""
    return list(pairwise(sizes))[::2]


def _xs(x: Tensor, sizes: list[int]) -> list[Tensor]:
    each = sizes_of_stems(sizes)
    parts = x.float().split([B * L for B, L in each])
    return [part.view(B, 1, L) for part, (B, L) in zip(parts, each, strict=True)]


def _weights(flat: Tensor) -> list[list[Tensor]]:
    """The weights of each stem, with zeros for running statistics that are not there."""
    numbers = sum(shape.numel() for shape in WEIGHT_SHAPES)
    missing = numbers - flat.shape[1]
    assert missing in (0, 2 * sum(shape.numel() for shape in WEIGHT_SHAPES[-30:]))
    full = torch.nn.functional.pad(flat, (0, missing))
    parts = full.split([shape.numel() for shape in WEIGHT_SHAPES], dim=1)
    return [
        [part[i].reshape(shape) for part, shape in zip(parts, WEIGHT_SHAPES, strict=True)] for i in range(len(flat))
    ]


def _kept(sizes: list[int]) -> int:
    """Outputs of units 1 to 16, mix2 and mix1, packed weights."""
    numbers = len(sizes) // 2 * PACKED_NUMBERS
    for B, L in sizes_of_stems(sizes):
        L2 = (L + 1) // 2
        lengths = L, L2, (L2 + 1) // 2, L2, L
        numbers += B * sum(rows * sum(channels) for rows, channels in zip(lengths, UNIT_CHANNELS, strict=True))
        numbers += B * (L2 * 64 + L * 32) - B * L * 32  # mixes; not unit 0
    return numbers
