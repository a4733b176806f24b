"""Intervals by resampling subjects, because the segments of one subject are not independent."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

LEVEL = 0.95


class Interval(NamedTuple):
    """An estimate and the percentile interval of its bootstrap; the bounds are NaN with fewer than two subjects."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.4g} [{self.low:.4g}, {self.high:.4g}]"


def subject_weights(groups: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """How often each segment counts in each resample.

    Each resample draws as many subjects as there are, with replacement, and all segments of a subject count as often as
    the subject was drawn.

    Args:
        groups: [S], the subject of each segment.
        resamples: how many.
        seed: of the draws.

    Returns:
        [resamples, S].
    """
    drawn, number = subject_draws(groups, resamples, seed)
    return drawn[:, number]


def subject_draws(groups: np.ndarray, resamples: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """How often each subject is drawn in each resample, [resamples, subjects], and the column of each segment, [S]."""
    _, number = np.unique(groups, return_inverse=True)
    count = number.max() + 1
    return np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=resamples), number


def interval(value: float, resampled: np.ndarray, groups: np.ndarray) -> Interval:
    """The percentile interval of an estimate.

    Args:
        value: the estimate.
        resampled: [resamples], the estimate in each resample; NaN, where it could not be computed, is left out.
        groups: [S], the subject of each segment.
    """
    known = resampled[~np.isnan(resampled)]
    if len(np.unique(groups)) < 2 or not len(known):
        return Interval(float(value), float("nan"), float("nan"))
    tail = (1 - LEVEL) / 2
    return Interval(float(value), *(float(bound) for bound in np.quantile(known, [tail, 1 - tail])))


class SubjectBootstrap:
    """Means over segments with intervals over subjects.

    All means of one object have the same resamples, so that differences and ratios are paired.

    Args:
        groups: [S], the subject of each segment.
        resamples: how many, at least 1.
        seed: of the resamples.

    Raises:
        ValueError: an argument is wrong; the message names it.
    """

    def __init__(self, groups: np.ndarray, resamples: int = 1000, seed: int = 77) -> None:
        groups = np.asarray(groups)
        if groups.ndim != 1 or not len(groups):
            raise ValueError(f"groups: expected a subject for each segment, [S], got shape {list(groups.shape)}")
        if resamples < 1:
            raise ValueError(f"resamples: expected at least 1, got {resamples}")
        self.groups = groups
        names, self._number = np.unique(groups, return_inverse=True)
        self._drawn = np.random.default_rng(seed).multinomial(
            len(names), np.full(len(names), 1 / len(names)), size=resamples
        )

    def mean(self, values: np.ndarray) -> Interval:
        """The mean of values [S], with its interval."""
        return interval(values.mean(), self._means(values), self.groups)

    def reduction(self, values: np.ndarray, baseline: np.ndarray) -> Interval:
        """1 - mean(values) / mean(baseline), both [S]: the share by which the mean lies below that of the baseline."""
        ratio = self._means(values) / self._means(baseline)
        return interval(1 - values.mean() / baseline.mean(), 1 - ratio, self.groups)

    def _means(self, values: np.ndarray) -> np.ndarray:
        """The mean in each resample, [resamples]."""
        if values.shape != self.groups.shape:
            raise ValueError(f"values: expected shape {list(self.groups.shape)}, got {list(values.shape)}")
        sums, counts = np.bincount(self._number, values), np.bincount(self._number)
        return (self._drawn @ sums) / (self._drawn @ counts)
