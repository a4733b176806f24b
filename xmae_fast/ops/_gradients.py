"""What the autograd functions around the kernels share.

Every op has this form. `schema.py` defines the operators of the C++ kernels for the CPU, and `schema.py` in the folder
of another implementation defines those of that implementation; these modules have functions of the same names and
arguments, whatever the kernels behind them take. `operators.py` has the table `OPERATORS` from the name of an
implementation to its module, and a `torch.autograd.Function` that calls through the table. Where an op has matrix
products, `compute` is their dtype; the C++ kernels for the CPU compute in float32 alone and do not look at it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from xmae_fast import backend


def wants_gradient(*tensors: Tensor | None) -> bool:
    """Whether autograd will ask for a gradient of one of them."""
    return torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in tensors)


def once_differentiable(backward: Callable) -> Callable:
    """For the backward of an autograd.Function whose gradients have no gradients of their own.

    torch's decorator of this name alone lets a second derivative of some inputs vanish without a word.
    """
    once = torch.autograd.function.once_differentiable(backward)

    @functools.wraps(backward)
    def checked(ctx, *gradients):
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():
            raise backend.BackendError(
                "create_graph=True: the gradients of the kernels cannot be differentiated again; impl='reference' can"
            )
        return once(ctx, *gradients)

    return checked


def bits(flags: Sequence[bool]) -> int:
    """Flag i as bit i: how backward kernels are told which gradients are asked for."""
    return sum(1 << i for i, flag in enumerate(flags) if flag)


def empty_gradients(tensors: Sequence[Tensor | None], needs: int) -> list[Tensor]:
    """Uninitialised gradients, each in the shape, dtype and on the device of its tensor.

    Args:
        tensors: those that there may be gradients of; at least one is no None.
        needs: `bits` of which gradients are asked for.

    Returns:
        One tensor for each of `tensors`, with no elements where the bit is not set or the tensor is None.
    """
    like = next(x for x in tensors if x is not None)
    each = enumerate(tensors)
    return [like.new_empty(0) if x is None or not needs >> i & 1 else x.new_empty(x.shape) for i, x in each]


def asked_for(gradients: Sequence[Tensor], flags: Sequence[bool]) -> list[Tensor | None]:
    """The gradients as autograd wants them: None where none is asked for."""
    return [gradient if flag else None for gradient, flag in zip(gradients, flags, strict=True)]
