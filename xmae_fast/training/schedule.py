"""How the learning rate changes in a run."""

from __future__ import annotations

import math


def progress(step: int, steps: float, elapsed_s: float = 0.0, limit_s: float | None = None) -> float:
    """The share of the run, in (0, 1], that lies before the middle of a step.

    Where the run has a time limit, it is the larger of the shares of steps and of time, so that a schedule over it ends
    with the run whichever limit is met first.

    Args:
        step: number of the step, from 0.
        steps: of the whole run.
        elapsed_s: seconds of the run so far.
        limit_s: seconds after which the run ends; None for no limit.
    """
    share = (step + 0.5) / steps
    if limit_s is not None:
        share = max(share, elapsed_s / limit_s)
    return min(share, 1.0)


def lr_factor(share: float, warmup: float) -> float:
    """What the learning rate is multiplied by: it rises from 0 to 1 in a line, then falls to 0 along a cosine.

    Args:
        share: of the run that has passed, in [0, 1].
        warmup: share of the run in which it rises.
    """
    if share < warmup:
        return share / warmup
    return 0.5 * (1 + math.cos(math.pi * (share - warmup) / (1 - warmup))) if warmup < 1 else 1.0
