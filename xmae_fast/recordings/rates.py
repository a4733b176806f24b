"""Estimates the rate of samples from their times, and numbers the samples on a grid of even times."""

from __future__ import annotations

import numpy as np

from xmae_fast._optional import need

_WINDOW = 32  # points of the shortest window that the rate is refined on
_WHOLE = 4  # packets; a shorter stretch is used whole
_WINDOWS = 64  # as many windows of one length at most
_LARGE = 1 << 20  # points that are worked on at a time
_USUAL = (12.5, 15.625, 29.97, 31.25, 37.5, 51.2, 59.94, 62.5, 102.4, 204.8)  # Hz, usual rates that are not whole


def points(seconds: np.ndarray) -> np.ndarray:
    """The number of the first row of each time; rows that share a time are one packet.

    Args:
        seconds: [n], which do not fall.

    Returns:
        [P] int64, ascending from 0.
    """
    new = np.empty(len(seconds), bool)
    new[:1] = True
    np.greater(seconds[1:], seconds[:-1], out=new[1:])
    return np.flatnonzero(new)


def estimate_rate(times: np.ndarray, rows: np.ndarray, counts: np.ndarray, breaks: np.ndarray) -> float:
    """The rate of samples in Hz, from times that may have jitter, be rounded, lack samples, or come in packets.

    A first figure is the median over short windows. The rate is then refined by the regression of the times on the
    numbers of the samples, in windows that become longer each time, until they are as long as a stretch.

    Args:
        times: [P], rising, in seconds, one for each packet.
        rows: [P], the row that each packet begins at.
        counts: [P], the rows of each packet.
        breaks: [S + 1], the numbers of the packets that stretches begin at, and P.

    Returns:
        The rate; NaN where there are less than two times.
    """
    longest = int(np.diff(breaks).max())
    short = min(16, longest - 1)
    if short < 1:
        return np.nan
    rate = _first_rate(times, rows, short)
    packet = float(np.median(counts))
    skip = int(packet > 1 and longest > _WHOLE)  # the first packet of a stretch may be the end of one
    longest -= skip
    size = _WINDOW
    while True:
        size = min(size, longest)
        slopes = []
        for begin, end in _windows(breaks, size, skip):
            level = times[begin:end] * rate
            level -= rows[begin:end]
            at = np.cumsum(lost(level, counts[begin:end], packet))
            at += rows[begin:end]
            del level
            every = max(1, size // _LARGE)
            t, at = times[begin:end:every], at[::every].astype(np.float64)
            if at[-1] > at[0]:
                at -= at.mean()
                slopes.append(float(at @ (t - t.mean())) / float(at @ at))
        if slopes and (slope := float(np.median(slopes))) > 0:
            rate = 1 / slope
        if size == longest:
            return rate
        size *= 2 if size < 1024 else 4


def _first_rate(times: np.ndarray, rows: np.ndarray, short: int) -> float:
    """The median rate of up to a million windows of `short` packets."""
    every = max(1, (len(times) - short) // _LARGE)
    spans = times[short:][::every] - times[:-short][::every]
    return float(np.median((rows[short:][::every] - rows[:-short][::every]) / spans))


def _windows(breaks: np.ndarray, size: int, skip: int) -> list[tuple[int, int]]:
    """Windows of `size` points that lie in one stretch each, after its first `skip` points."""
    counts = np.maximum(np.diff(breaks) - skip, 0) // size
    total = int(counts.sum())
    most = max(2, min(_WINDOWS, 4 * _LARGE // size))
    chosen = np.unique(np.linspace(0, total - 1, min(total, most)).astype(np.int64))
    stops = np.cumsum(counts)
    stretch = np.searchsorted(stops, chosen, "right")
    begins = breaks[stretch] + skip + (chosen - (stops - counts)[stretch]) * size
    return [(int(begin), int(begin) + size) for begin in begins]


def raised(level: np.ndarray) -> np.ndarray:
    """How many samples are missing before each point, from the first one on.

    Of all whole numbers that never fall, these are nearest to `level` in the sum of squares: a sample that is early or
    late moves nothing, and lost samples raise all that follow.

    Args:
        level: [P], the number of a point by its time minus its number by counting; changed in place.

    Returns:
        [P] int64, rising from 0.
    """
    optimize = need("scipy.optimize", "uneven times need", "prepare")
    turn = np.exp(2j * np.pi * level[:4096]).mean()
    level -= np.angle(turn) / (2 * np.pi)
    found = np.empty(len(level), np.int64)
    floor = np.iinfo(np.int64).min
    for begin in range(0, len(level), _LARGE):
        part = found[begin : begin + _LARGE]
        part[:] = np.round(optimize.isotonic_regression(level[begin : begin + _LARGE]).x)
        np.maximum(part, floor, out=part)
        floor = int(part[-1])
    return found - found[:1]


def lost(level: np.ndarray, counts: np.ndarray, packet: float) -> np.ndarray:
    """How many samples are missing just before each point, 0 before the first one.

    Samples of packets are missing where both their first and their last sample are late, by half a packet at least.

    Args:
        level: [P], as `raised` takes it; changed in place.
        counts: [P], the rows of each packet.
        packet: the median of all counts.

    Returns:
        [P] int64.
    """
    after = level - counts if packet > 1 else None
    found = raised(level)
    found[1:] = np.diff(found)
    if after is not None:
        after = np.diff(raised(after))
        np.minimum(found[1:], after, out=found[1:])
        found[found < packet / 2] = 0
    return found


def usual_rate(rate: float, longest: float, moved: float = 0.5) -> float:
    """The nearest whole or usual rate if it moves the last sample of a stretch by less than `moved` samples.

    Args:
        rate: in Hz.
        longest: the duration of the longest stretch in seconds.
        moved: in samples.

    Returns:
        The rate in Hz.
    """
    for usual in (float(round(rate)), min(_USUAL, key=lambda usual: abs(usual - rate))):
        if abs(usual - rate) * longest < moved:
            return usual
    return float(rate)
