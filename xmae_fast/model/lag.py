"""The lag bias of one bridge block as a module: it holds what is learned and returns the table."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from xmae_fast.config import LagCfg
from xmae_fast.ops.lag_attention.tables import gaussian_table, lag_seconds, window_table

START_LAGS_S = (0.1, 0.4)  # physiological R peak to PPG foot; heads start evenly spaced in it
START_WIDTH_S = 0.4


class LagBias(nn.Module):
    """Table [H, 2N - 1] by the kind of `lag`, for N = num_patches patches that are `patch_seconds` apart.

    A window is fixed and has no parameters. A gaussian has `center` [H] in seconds and `log_width` [H], where the width
    is exp(log_width) seconds. A table has `table` [H, 2N - 1], which starts at zero: the attention without lag.
    """

    fixed_table: Tensor
    lags: Tensor

    def __init__(self, lag: LagCfg, nhead: int, num_patches: int, patch_seconds: float) -> None:
        super().__init__()
        self.kind = lag.kind
        H, N = nhead, num_patches
        lags = lag_seconds(N, patch_seconds)
        if self.kind == "window":
            assert lag.min_s is not None  # LagCfg has checked both
            assert lag.max_s is not None
            table = window_table(lag_seconds(N, patch_seconds, dtype=torch.float64), lag.min_s, lag.max_s, H)
            self.register_buffer("fixed_table", table.float(), persistent=False)
        elif self.kind == "gaussian":
            self.register_buffer("lags", lags, persistent=False)
            self.center = nn.Parameter(torch.linspace(*START_LAGS_S, H))
            self.log_width = nn.Parameter(torch.full((H,), math.log(START_WIDTH_S)))
        else:
            self.table = nn.Parameter(torch.zeros(H, 2 * N - 1))

    def forward(self) -> Tensor:
        """The bias of each head by lag, [H, 2 N - 1]."""
        if self.kind == "window":
            return self.fixed_table
        if self.kind == "gaussian":
            return gaussian_table(self.lags, self.center, self.log_width)
        return self.table
