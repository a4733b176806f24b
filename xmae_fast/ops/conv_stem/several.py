"""What the kernels on a GPU share that train one stem or two in one set of launches.

Tensors of two stems are joined: all numbers of the second follow those of the first. `weights` are those of each stem
in the order of `params.flatten`; `sizes` are B and L of each stem.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from xmae_fast.ops.conv_stem.params import TRAINED, WEIGHTS

MOST_VALUES = 2**30  # of x, in all stems of a call together: kernels on a GPU count samples in 32 bits


def sizes_of(xs: Sequence[Tensor]) -> list[int]:
    """B and L of each x [B, 1, L]."""
    return [size for x in xs for size in (x.shape[0], x.shape[2])]


def joined(tensors: Sequence[Tensor]) -> Tensor:
    """All numbers in one flat tensor; those of a single contiguous tensor are not copied."""
    # A sample with gaps between its values stays so when it is reshaped.
    return tensors[0].reshape(-1).contiguous() if len(tensors) == 1 else torch.cat([x.reshape(-1) for x in tensors])


def used_weights(weights: Sequence[Tensor], used: int = TRAINED) -> list[Tensor]:
    """The first `used` weights of each stem."""
    return [weight for number, weight in enumerate(weights) if number % WEIGHTS < used]


def features_of_stems(features: Tensor, sizes: Sequence[int]) -> tuple[Tensor, ...]:
    """Views [B, L, S] of features [rows, S], one for each stem."""
    each = list(zip(sizes[::2], sizes[1::2], strict=True))
    parts = features.split([B * L for B, L in each])
    return tuple(part.view(B, L, -1) for part, (B, L) in zip(parts, each, strict=True))


class Training(NamedTuple):
    """What a backward has to know of the forward besides the saved tensors."""

    sizes: list[int]  # B and L of each stem
    batch_statistics: bool
    shapes: tuple[torch.Size, ...]  # of the trained weights of all stems
    dtypes: tuple[torch.dtype, ...]  # of the same

    @classmethod
    def of(cls, xs: Sequence[Tensor], weights: Sequence[Tensor], batch_statistics: bool) -> Training:
        """The description of a call with these x [B, 1, L] and these weights, trained and untrained, of all stems."""
        trained = used_weights(weights)
        shapes, dtypes = (tuple(getattr(weight, name) for weight in trained) for name in ("shape", "dtype"))
        return cls(sizes_of(xs), batch_statistics, shapes, dtypes)

    @property
    def dtype(self) -> torch.dtype:
        """The narrowest dtype that holds all trained weights."""
        dtype = self.dtypes[0]
        for other in self.dtypes[1:]:
            dtype = torch.promote_types(dtype, other)
        return dtype

    def gradients_of_weights(self, flat: Tensor) -> list[Tensor | None]:
        """Gradients of every weight of all stems, None where it is not trained: views, cast where dtypes differ.

        Args:
            flat: [stems, numbers], the gradients of the trained weights of each stem in their order.
        """
        parts = flat.view(-1).split([shape.numel() for shape in self.shapes])
        each = [part.view(shape).to(dtype) for part, shape, dtype in zip(parts, self.shapes, self.dtypes, strict=True)]
        untrained = [None] * (WEIGHTS - TRAINED)
        return [item for at in range(0, len(each), TRAINED) for item in [*each[at : at + TRAINED], *untrained]]

    def gradients_of_xs(self, flat: Tensor) -> list[Tensor]:
        """Views [B, 1, L], one for each stem, of flat [sum of B L]."""
        shapes = [(B, 1, L) for B, L in zip(self.sizes[::2], self.sizes[1::2], strict=True)]
        return [part.view(s) for part, s in zip(flat.split([B * L for B, _, L in shapes]), shapes, strict=True)]
