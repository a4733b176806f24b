"""BatchNorm statistics over all processes that share a batch.

The kernels of a stem take the statistics of their own process, and torch.nn.SyncBatchNorm trains on GPUs alone. Here
each BatchNorm of the stems becomes one that combines the processes' means and variances on any device; the stems then
run as modules.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, distributed, nn

from xmae_fast.model.xmae import xMAE


class SynchronisedBatchNorm1d(nn.BatchNorm1d):
    """BatchNorm1d that normalises, in training, by the statistics of all processes of torch.distributed."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        if distributed.get_world_size() * len(x) * x.shape[2] <= 1:
            raise ValueError(f"x: expected more than one value per channel in training, got {list(x.shape)}")
        out, mean, variance = _normalised(x, self.weight, self.bias, self.eps)
        if self.track_running_stats and self.running_mean is not None:
            momentum = self.momentum
            if self.num_batches_tracked is not None:
                self.num_batches_tracked.add_(1)
                momentum = 1 / float(self.num_batches_tracked) if momentum is None else momentum
            with torch.no_grad():
                self.running_mean.lerp_(mean.to(self.running_mean.dtype), momentum)
                self.running_var.lerp_(variance.to(self.running_var.dtype), momentum)
        return out


def synchronise_batch_norm(model: xMAE) -> None:
    """Let the stems of `model` normalise, in training, by the statistics of all processes of torch.distributed.

    Both stems then run as modules, with one small all_reduce for each of the 30 BatchNorms of a stem, forward and
    backward. Parameters, state dict and evaluation stay as they are.
    """
    for path in (model.ppg_path, model.ecg_path):
        for module in () if path is None else path.stem.modules():
            if type(module) is nn.BatchNorm1d:
                module.__class__ = SynchronisedBatchNorm1d


def _normalised(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """x [B, C, L] normalised by the mean and variance of all processes' B L values a channel; both, the variance
    unbiased, [C] each."""
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
    scale = torch.rsqrt(spread / total + eps) * (1 if weight is None else weight)
    out = values * scale[:, None] + ((0 if bias is None else bias) - mean * scale)[:, None]
    return out.to(x.dtype), mean, spread / (total - 1)


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
