"""Checks that read as algebra and fail in the user's words: the argument, what was expected, what was given."""

from __future__ import annotations

import torch
from torch import Tensor


def dims(name: str, x: Tensor, letters: str, **known: int) -> tuple[int, ...]:
    """The sizes of `x`, after a check of its shape, e.g. dims("tokens", x, "B N D", D=256).

    Args:
        name: of the argument, for errors.
        x: the tensor.
        letters: one for each dimension; a number fixes the size of its dimension.
        known: sizes that letters must have.

    Raises:
        TypeError: `x` is no tensor.
        ValueError: its shape differs.
    """
    if not isinstance(x, Tensor):
        raise TypeError(f"{name}: expected a tensor, got {type(x).__name__}")
    names = letters.split()
    fixed = [int(letter) if letter.isdigit() else known.get(letter) for letter in names]
    if x.dim() != len(names) or any(
        want is not None and want != size for want, size in zip(fixed, x.shape, strict=True)
    ):
        shape = ", ".join(
            letter if want is None or letter.isdigit() else f"{letter}={want}"
            for letter, want in zip(names, fixed, strict=True)
        )
        raise ValueError(f"{name}: expected shape [{shape}], got {list(x.shape)}")
    return tuple(x.shape)


def check_floating(name: str, x: Tensor) -> None:
    """TypeError unless `x` holds floating-point numbers."""
    if not x.is_floating_point():
        raise TypeError(f"{name}: expected a floating-point tensor, got {x.dtype}")


def check_like(name: str, x: Tensor, like_name: str, like: Tensor) -> None:
    """TypeError unless `x` is floating, on the device of `like` and (outside autocast) of its dtype."""
    check_floating(name, x)
    if x.device != like.device:
        raise TypeError(f"{name}: expected a tensor on {like.device}, where {like_name} is, got one on {x.device}")
    if x.dtype != like.dtype and not is_autocast_on(x.device.type):
        raise TypeError(f"{name}: expected dtype {like.dtype}, that of {like_name}, got {x.dtype}")


def is_autocast_on(device_type: str) -> bool:
    """Whether autocast is on for tensors there; never on devices that have none, such as "meta"."""
    return torch.amp.is_autocast_available(device_type) and torch.is_autocast_enabled(device_type)


def kernel_dtype(*tensors: Tensor) -> torch.dtype:
    """The dtype that a kernel must serve to take all of them: float32 if all are that, else the first other one.

    Tensors that are not floating-point do not count.
    """
    return next((x.dtype for x in tensors if x.is_floating_point() and x.dtype != torch.float32), torch.float32)


def check_probability(name: str, p: float) -> None:
    """ValueError unless 0 <= p < 1."""
    if not 0 <= p < 1:
        raise ValueError(f"{name}: expected a number in [0, 1), got {p!r}")
