"""BatchNorm statistics over all processes that share a batch.

The kernels of a stem take the statistics of their own process, and torch.nn.SyncBatchNorm trains on GPUs alone. Here
each BatchNorm of the stems is replaced by one that combines the processes' means and variances on any device; the stems
then run as modules.
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
        if self.track_running_stats and self.running_mean is not None and self.running_var is not None:
            momentum = 0.0 if self.momentum is None else self.momentum
            if self.num_batches_tracked is not None:
                self.num_batches_tracked.add_(1)
                momentum = 1 / float(self.num_batches_tracked) if self.momentum is None else momentum
            with torch.no_grad():
                self.running_mean.lerp_(mean.to(self.running_mean.dtype), momentum)
                self.running_var.lerp_(variance.to(self.running_var.dtype), momentum)
        return out


def synchronise_batch_norm(model: xMAE) -> None:
    """Let the stems of `model` normalise, in training, by the statistics of all processes of torch.distributed.

    Each BatchNorm1d of the stems is replaced. Its parameters and buffers are the same objects as before, under the same
    keys of the state dict, so that an optimiser made before still trains them; its hooks, its settings and its mode
    stay, and so does what evaluation computes. Both stems then run as modules (`explain` says so), with one small
    all_reduce for each of the 30 BatchNorms of a stem, forward and backward.
    """
    replaced: dict[nn.Module, SynchronisedBatchNorm1d] = {}  # one for each, also where a layer stands in two places
    for path in (model.ppg_path, model.ecg_path):
        parents = () if path is None else list(path.stem.modules())
        for parent in parents:
            for name, child in list(parent._modules.items()):  # named_children leaves out a second name of one child
                if type(child) is nn.BatchNorm1d:
                    if child not in replaced:
                        replaced[child] = _synchronised(child)
                    setattr(parent, name, replaced[child])


def _synchronised(norm: nn.BatchNorm1d) -> SynchronisedBatchNorm1d:
    """A layer with all that `norm` has: parameters, buffers, settings, mode, hooks and other attributes."""
    made = SynchronisedBatchNorm1d(norm.num_features, device="meta")
    made.__dict__.update(norm.__dict__)  # hooks too: handles that were given out remove them from these dictionaries
    return made


def _normalised(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """Normalise x [B, C, L] by the mean and variance of each channel over the B L values of all processes.

    Returns:
        The normalised x [B, C, L], the mean [C] and the unbiased variance [C].
    """
    values = x.float() if x.dtype in (torch.bfloat16, torch.float16) else x  # under autocast
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
