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
        self.parameters = list(parameters)
        self.flat: dict[torch.dtype, Tensor] = {}
        self._places: list[Tensor] = []
        kinds = {parameter.dtype: 0 for parameter in self.parameters}
        for parameter in self.parameters:
            kinds[parameter.dtype] += parameter.numel()
        for dtype, count in kinds.items():
            self.flat[dtype] = torch.zeros(count, dtype=dtype, device=self.parameters[0].device)
        taken = dict.fromkeys(kinds, 0)
        for parameter in self.parameters:
            first = taken[parameter.dtype]
            taken[parameter.dtype] = first + parameter.numel()
            self._places.append(self.flat[parameter.dtype][first : taken[parameter.dtype]].view(parameter.shape))

    def average(self) -> None:
        """Give all processes the mean of their gradients; every process calls this after its backward.

        All processes must have gradients of the same parameters; the others keep none.
        """
        pairs = list(zip(self.parameters, self._places, strict=True))
        there = [(x.grad, place) for x, place in pairs if x.grad is not None]
        for x, place in pairs:
            if x.grad is None:
                place.zero_()
        torch._foreach_copy_([place for _, place in there], [grad for grad, _ in there])  # pyright: ignore[reportPrivateImportUsage]
        world = distributed.get_world_size()
        for flat in self.flat.values():
            flat.div_(world)
            distributed.all_reduce(flat)
        for x, place in pairs:
            if x.grad is not None:
                x.grad = place


@torch.no_grad()
def share_weights(tensors: Iterable[Tensor]) -> None:
    """Give all processes the tensors of rank 0, all of a dtype by one broadcast."""
    tensors = list(tensors)
    for dtype in dict.fromkeys(x.dtype for x in tensors):
        own = [x for x in tensors if x.dtype == dtype]
        flat = torch.cat([x.reshape(-1) for x in own])
        distributed.broadcast(flat, 0)
        for x, values in zip(own, flat.split([x.numel() for x in own]), strict=True):
            x.copy_(values.view_as(x))
