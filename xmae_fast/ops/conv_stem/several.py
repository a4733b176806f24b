"""Training of one stem or two by kernels that take their numbers one behind the other: what all such kernels share.

Weights are those of each stem in the order of `schema.flatten`; sizes are B and L of each stem.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from xmae_fast.ops.conv_stem import schema
from xmae_fast.ops.conv_stem.params import StemParams
from xmae_fast.ops.conv_stem.schema import TRAINED, WEIGHTS

MOST_VALUES = 2**30  # of x, of all stems in a call: kernels on a GPU count samples in 32 bits


def train(
    function: type[torch.autograd.Function],
    xs: Sequence[Tensor],
    params: Sequence[StemParams],
    training: bool,
    compute: torch.dtype,
) -> tuple[Tensor, ...]:
    """Features [B, S, L] in `compute` of each stem, by kernels that keep what a backward needs.

    Args:
        function: takes how many stems there are, whether they normalise by the batch's statistics, `compute`, then x
            of each stem and the weights of each; returns norms [stems, 5, channels + 1] and features [B, L, S] of each.
        xs: [B, 1, L] of each stem; B and L may differ.
        params: of the same widths. In training the running statistics in them are updated in place.
        training: normalise by the batch's statistics instead of the running ones.
        compute: dtype of matrix products.
    """
    weights = [weight for stem in params for weight in schema.flatten(stem)]
    norms, *features = function.apply(len(xs), training, compute, *xs, *weights)
    if training:
        schema.update_running_statistics(params, norms[..., :-1])
    return tuple(part.transpose(1, 2) for part in features)


def sizes_of(xs: Sequence[Tensor]) -> list[int]:
    return [size for x in xs for size in (x.shape[0], x.shape[2])]


def end_to_end(tensors: Sequence[Tensor]) -> Tensor:
    """All numbers in one flat tensor; a single contiguous tensor's are not copied."""
    # A sample with gaps between its values stays so when it is reshaped.
    return tensors[0].reshape(-1).contiguous() if len(tensors) == 1 else torch.cat([x.reshape(-1) for x in tensors])


def used_weights(weights: Sequence[Tensor], used: int = TRAINED) -> list[Tensor]:
    """The first `used` of each stem's."""
    return [weight for number, weight in enumerate(weights) if number % WEIGHTS < used]


def features_of_stems(features: Tensor, sizes: Sequence[int]) -> tuple[Tensor, ...]:
    """Views [B, L, S] of features [rows, S]."""
    each = list(zip(sizes[::2], sizes[1::2], strict=True))
    parts = features.split([B * L for B, L in each])
    return tuple(part.view(B, L, -1) for part, (B, L) in zip(parts, each, strict=True))


class Trained(NamedTuple):
    """Shapes and dtypes of the trained weights of all stems."""

    shapes: tuple[torch.Size, ...]
    dtypes: tuple[torch.dtype, ...]

    @classmethod
    def of(cls, weights: Sequence[Tensor]) -> Trained:
        """weights: of all stems, with those that are not trained."""
        trained = used_weights(weights)
        return cls(tuple(weight.shape for weight in trained), tuple(weight.dtype for weight in trained))

    @property
    def dtype(self) -> torch.dtype:
        """The narrowest that holds all of them."""
        dtype = self.dtypes[0]
        for other in self.dtypes[1:]:
            dtype = torch.promote_types(dtype, other)
        return dtype

    def gradients(self, flat: Tensor) -> list[Tensor | None]:
        """Of every weight of all stems, None where it is not trained: views of `flat`, cast where dtypes differ.

        flat: [stems, numbers], gradients of the trained weights one behind the other.
        """
        parts = flat.view(-1).split([shape.numel() for shape in self.shapes])
        each = [part.view(shape).to(dtype) for part, shape, dtype in zip(parts, *self, strict=True)]
        untrained = [None] * (WEIGHTS - TRAINED)
        return [item for at in range(0, len(each), TRAINED) for item in [*each[at : at + TRAINED], *untrained]]
