"""The published optimiser."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor


def adamw(
    parameters: Iterable[Tensor], lr: float = 3e-4, weight_decay: float = 0.01, betas: tuple[float, float] = (0.9, 0.95)
) -> torch.optim.AdamW:
    """The published optimiser, AdamW, in PyTorch's fused form. On a GPU a CUDA graph can capture it.

    Args:
        parameters: on one device.
        lr: the learning rate. On a GPU it becomes a tensor, so that a captured step follows changes of it.
        weight_decay, betas: as for AdamW.
    """
    parameters = list(parameters)
    on_gpu = parameters[0].device.type == "cuda"
    return torch.optim.AdamW(
        parameters, lr=torch.tensor(lr, device=parameters[0].device) if on_gpu else lr, betas=betas,
        weight_decay=weight_decay, fused=True, capturable=on_gpu,
    )  # fmt: skip
