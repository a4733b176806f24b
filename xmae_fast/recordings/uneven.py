"""Samples that were truly taken at uneven times, as those of phones' cameras may be."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from xmae_fast.recordings.rates import usual_rate

_SMOOTHER = 0.8  # the signal is this much smoother by its times than by counting where its samples are uneven
_BRIDGED = 3.0  # samples between two uneven samples that are interpolated
_ROWS = 200_000  # that the unevenness is measured on
_FEWEST = 50  # rows that it can be measured on


def truly_uneven(seconds: np.ndarray, signals: Sequence[np.ndarray]) -> bool:
    """Whether the signals [n] are smoother by their times than by counting.

    Each sample is predicted from its four neighbours by the polynomial through them, once at their times and once at
    even times. Samples are uneven if the median error is less than 0.8 of that with even times.
    """
    seconds = seconds[:_ROWS]
    if len(seconds) < _FEWEST or not signals:
        return False
    t = [seconds[k : len(seconds) - 4 + k] - seconds[2:-2] for k in (0, 1, 3, 4)]
    near = (t[3] - t[0]) < 8 * np.median(np.diff(seconds))
    near &= np.minimum.reduce(np.diff(t, axis=0)) > 0
    t = [x[near] for x in t]
    if len(t[0]) < _FEWEST:
        return False
    ratios = []
    for x in signals:
        x = x[: len(seconds)]
        values = [x[k : len(x) - 4 + k][near] for k in (0, 1, 3, 4)]
        centre = x[2:-2][near]
        weights = [np.prod([-t[j] / (t[k] - t[j]) for j in range(4) if j != k], axis=0) for k in range(4)]
        by_time = sum(w * v for w, v in zip(weights, values, strict=True)) - centre
        counted = sum(w * v for w, v in zip((-1 / 6, 2 / 3, 2 / 3, -1 / 6), values, strict=True)) - centre
        even = np.nanmedian(np.abs(counted))
        if even > 0:
            ratios.append(float(np.nanmedian(np.abs(by_time)) / even))
    return bool(ratios) and float(np.median(ratios)) < _SMOOTHER


def resampled(seconds: np.ndarray, signals: Sequence[np.ndarray]) -> tuple[np.ndarray, list[np.ndarray], float]:
    """Signals of uneven samples at even times, interpolated linearly.

    Args:
        seconds: [n], the times of the samples, which do not fall.
        signals: [n] each.

    Returns:
        The numbers [m] of the even samples that lie in no gap, the signals [m], and the mean rate in Hz without gaps.
    """
    steps = np.diff(seconds)
    close = steps < (_BRIDGED + 1) * steps.mean(where=steps <= 4 * np.median(steps))
    begins = np.flatnonzero(~close) + 1
    span = float(steps[close].sum())
    rate = usual_rate(np.count_nonzero(close) / span, span)
    ats, pieces = [], [[] for _ in signals]
    for begin, end in pairwise([0, *begins.tolist(), len(seconds)]):
        t = (seconds[begin:end] - seconds[0]) * rate
        at = np.arange(int(np.ceil(t[0] - 1e-6)), int(np.floor(t[-1] + 1e-6)) + 1)
        ats.append(at)
        for piece, x in zip(pieces, signals, strict=True):
            piece.append(np.interp(at, t, x[begin:end]))
    return np.concatenate(ats), [np.concatenate(piece) for piece in pieces], rate
