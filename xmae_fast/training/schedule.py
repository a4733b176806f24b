"""The learning rate in the course of a run."""

from __future__ import annotations

import math


def progress(step: int, steps: int, elapsed_s: float = 0.0, limit_s: float | None = None) -> float:
    """Share of the run, in (0, 1], that lies before the middle of step number `step` (from 0) of `steps`.

    Where the run has a time limit, the larger of the shares of steps and of time, so that a schedule over it ends with
    the run whichever limit is met first.
    """
    share = (step + 0.5) / steps
    if limit_s is not None:
        share = max(share, elapsed_s / limit_s)
    return min(share, 1.0)


def lr_factor(share: float, warmup: float) -> float:
    """Linear from 0 to 1 over the first `warmup` of the run, then a cosine from 1 to 0; `share` in [0, 1]."""
    if share < warmup:
        return share / warmup
    return 0.5 * (1 + math.cos(math.pi * (share - warmup) / (1 - warmup))) if warmup < 1 else 1.0
