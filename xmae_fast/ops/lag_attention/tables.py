"""The lag bias as a table [H, 2N - 1]: column d + N - 1 is what attention adds to a score whose lag is d patches.

Hard window, Gaussian and free table are parametrisations of it; autograd carries on from the table's gradient.
"""

from __future__ import annotations

import torch
from torch import Tensor


def lag_seconds(num_patches: int, patch_seconds: float, *, device=None, dtype=torch.float32) -> Tensor:
    """Lags of the table's columns, -(N-1)..(N-1) patches, in seconds: [2N - 1]."""
    steps = torch.arange(1 - num_patches, num_patches, device=device, dtype=torch.float64)
    return (steps * patch_seconds).to(dtype)


def window_table(lags: Tensor, min_s: float, max_s: float, num_heads: int) -> Tensor:
    """0 where min_s <= lag <= max_s (to rounding), -inf elsewhere: lags [2N - 1] -> [H, 2N - 1]."""
    slack = 1e-6 * max(abs(min_s), abs(max_s), 1.0)
    inside = (lags >= min_s - slack) & (lags <= max_s + slack)
    return torch.zeros_like(lags).masked_fill(~inside, -torch.inf).expand(num_heads, -1).contiguous()


def gaussian_table(lags: Tensor, center: Tensor, log_width: Tensor) -> Tensor:
    """-(lag - center)^2 / (2 width^2), width = exp(log_width): lags [2N - 1], center, log_width [H] -> [H, 2N - 1]."""
    z = (lags - center[:, None]) * torch.exp(-log_width)[:, None]
    return -0.5 * z.square()


def gather_bias(table: Tensor, query_pos: Tensor, key_pos: Tensor) -> Tensor:
    """The bias of every pair: table [H, 2N - 1], query_pos [B, Nq], key_pos [B, Nk] -> [B, H, Nq, Nk].

    Where both positions have a batch size of 1, all samples have the same.
    """
    N = (table.shape[1] + 1) // 2
    column = key_pos[:, None, :] - query_pos[:, :, None] + N - 1
    return table[:, column].transpose(0, 1)
