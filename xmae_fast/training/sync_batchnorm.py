"""BatchNorm statistics over all processes that share a batch.

The stem is one operator (`ops.conv_stem`) that calls no nn.BatchNorm modules, so that torch.nn.SyncBatchNorm has
nothing to replace, and its kernels take the statistics of their own process. Here the stem runs in plain PyTorch
instead, with each `batch_norm` of it replaced by one that combines the processes' means and variances.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, distributed
from torch.overrides import TorchFunctionMode

from xmae_fast.model.path import ModalityPath
from xmae_fast.model.xmae import xMAE


def synchronise_batch_norm(model: xMAE) -> None:
    """Let the stems of `model` normalise, in training, by the statistics of all processes of torch.distributed.

    Both stems then run with impl="reference", with one small all_reduce for each of the 30 BatchNorms of a stem,
    forward and backward. Parameters, state dict and evaluation stay as they are.
    """
    for path in (getattr(model, name, None) for name in ("ppg_path", "ecg_path")):
        if path is not None:
            path.__class__ = SynchronisedPath


class SynchronisedPath(ModalityPath):
    """A modality whose stem normalises by the statistics of all processes."""

    stem_may_share = False

    def features(self, signal: Tensor, inference: bool, impl: str) -> Tensor:
        if inference or not self.stem.uses_batch_statistics():
            return super().features(signal, inference, impl)
        with _Synchronised():
            return super().features(signal, inference, "reference")


class _Synchronised(TorchFunctionMode):
    """Within it, batch_norm in training takes the statistics of all processes."""

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None) -> Any:
        if func is F.batch_norm:
            return _batch_norm(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _batch_norm(
    x: Tensor, running_mean: Tensor, running_var: Tensor, weight: Tensor, bias: Tensor, training: bool,
    momentum: float, eps: float,
) -> Tensor:  # fmt: skip
    """`F.batch_norm` of x [B, C, L] with the mean and variance of all processes' B L values a channel."""
    if not training:
        return F.batch_norm(x, running_mean, running_var, weight, bias, False, momentum, eps)
    values = x.float() if x.dtype in (torch.bfloat16, torch.float16) else x  # of autocast
    own = values.mean((0, 2))
    spread = (values - own[:, None]).square().sum((0, 2))
    own = torch.stack([own, spread, torch.full_like(own, len(x) * x.shape[2])])
    others = torch.zeros_like(own)
    rank, world = distributed.get_rank(), distributed.get_world_size()
    parts = torch.stack([own if process == rank else others for process in range(world)])
    means, spreads, counts = _SumOverProcesses.apply(parts).unbind(1)  # [W, C] each
    counts = counts[:, :1].detach()
    total = counts.sum()
    mean = (counts * means).sum(0) / total
    spread = (spreads + counts * (means - mean).square()).sum(0)
    with torch.no_grad():
        running_mean.lerp_(mean.to(running_mean.dtype), momentum)
        running_var.lerp_((spread / (total - 1)).to(running_var.dtype), momentum)
    scale = torch.rsqrt(spread / total + eps) * weight
    return (values * scale[:, None] + (bias - mean * scale)[:, None]).to(x.dtype)


class _SumOverProcesses(torch.autograd.Function):
    """The sum of all processes' tensors; its gradient is the sum of all processes' gradients."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        total = grad.contiguous().clone()
        distributed.all_reduce(total)
        return total
