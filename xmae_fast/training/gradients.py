"""The gradients of all parameters in one tensor, which processes exchange by one all_reduce.

A CUDA graph captures it with the rest of a step. DistributedDataParallel, whose reduction is started by hooks from
Python, would keep the step eager.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, distributed


class GradientArena:
    """The place where the gradients of some parameters lie side by side.

    Args:
        parameters: on one device. Their gradients are exchanged in their own dtype.

    Attributes:
        flat: by dtype, all gradients of that dtype, in the order of the parameters.
    """

    def __init__(self, parameters: Iterable[Tensor]) -> None:
        self.flat: dict[torch.dtype, Tensor] = {}
        self._pairs: list[tuple[Tensor, Tensor]] = []  # each parameter and the place of its gradient
        for dtype, own in _by_dtype(parameters).items():
            self.flat[dtype] = torch.cat([torch.zeros_like(x).reshape(-1) for x in own])
            self._pairs += zip(own, _split(self.flat[dtype], own), strict=True)

    def average(self) -> None:
        """Give all processes the mean of their gradients; every process calls this after its backward.

        All processes must have gradients of the same parameters; the others keep none.
        """
        there = [(x, place, x.grad) for x, place in self._pairs if x.grad is not None]
        for x, place in self._pairs:
            if x.grad is None:
                place.zero_()
        places, gradients = [place for _, place, _ in there], [gradient for *_, gradient in there]
        torch._foreach_copy_(places, gradients)  # pyright: ignore[reportPrivateImportUsage] - it has no public name
        world = distributed.get_world_size()
        for flat in self.flat.values():
            flat.div_(world)
            distributed.all_reduce(flat)
        for x, place, _ in there:
            x.grad = place


@torch.no_grad()
def share_weights(tensors: Iterable[Tensor]) -> None:
    """Give all processes the tensors of rank 0, all of a dtype by one broadcast."""
    for own in _by_dtype(tensors).values():
        flat = torch.cat([x.reshape(-1) for x in own])
        distributed.broadcast(flat, 0)
        for x, values in zip(own, _split(flat, own), strict=True):
            x.copy_(values)


def _by_dtype(tensors: Iterable[Tensor]) -> dict[torch.dtype, list[Tensor]]:
    found: dict[torch.dtype, list[Tensor]] = {}
    for x in tensors:
        found.setdefault(x.dtype, []).append(x)
    return found


def _split(flat: Tensor, like: list[Tensor]) -> list[Tensor]:
    """Views of the numbers of `flat` in their order, in the shapes of `like`."""
    parts = flat.split([x.numel() for x in like])
    return [part.view(x.shape) for part, x in zip(parts, like, strict=True)]
