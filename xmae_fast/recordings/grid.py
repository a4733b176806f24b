"""Places samples on a grid of even times, whatever their own times are like."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from xmae_fast.recordings.order import rising
from xmae_fast.recordings.rates import estimate_rate, lost, points, usual_rate
from xmae_fast.recordings.stretches import Stretches
from xmae_fast.recordings.uneven import resampled, truly_uneven

_ROUNDED = 1.5  # a rounded time may be wrong by this many samples
_BREAK = 1.0  # seconds without a sample that begin a new stretch, if they are several packets as well
_LONG_GAP = 180.0  # seconds; longer gaps take no memory
_WIDEST_GAPS = 50  # a grid with more than this many times the samples needs few gaps
_SCATTER = 0.27  # SD in samples of times about a grid; times that have nothing to do with it have 0.289
_WANDER = 2e-5  # a clock may wander by this share of the duration against an even one
_CLOSE = 0.1  # such an SD in samples tells of gaps also where a straight line would do
_STEADY = 0.5  # samples that times are off by at the median; if by more, few packets have a gap before them
_FEW_GAPS = 0.02
_MOST_GAPS = 0.2  # of the packets may have a gap before them
_WRONG = 0.02  # a rate that was asked for and differs by more from the times is said
_NONSENSE = 4.5  # a rate that was asked for and differs by more than this factor is refused
_SOME = 1 << 20  # points that a median is taken of


class Placed(NamedTuple):
    """Signals on a grid of even times.

    Args:
        values: an array [samples] for each signal, NaN where samples are missing; `Stretches` if gaps are long.
        fs: the rate of the grid in Hz.
        first: the time of the first sample of the grid in seconds, on the clock of the times that were given.
        notes: what a user should know of how the times were understood, a sentence each.
    """

    values: list[np.ndarray] | list[Stretches]
    fs: float
    first: float
    notes: list[str]


def place(seconds: np.ndarray, signals: Sequence[np.ndarray], fs: float | None = None, reuse: bool = False) -> Placed:
    """Place samples on a grid of even times.

    Even times keep their rows as they are, also if they are rounded to more than the distance of two samples, as those
    of BIDMC are: no time is then further than 1.5 samples from a straight line, and no two samples in a row are
    missing from times that are otherwise even. Where there are gaps and all other times are even, each sample takes
    the place that is nearest to its time.

    All other times are taken for those of even samples with jitter, of packets whose rows share a time, or of samples
    some of which were lost. The rate is that of the stretches between gaps, by regression. Samples follow each other
    by their rows; where the times of all later samples are higher than counting explains, samples are missing.
    Rows that share a time are spread evenly over the time until the next packet.

    Samples are truly uneven, as those of phones' cameras may be, if the signals are smoother by their times than by
    counting: the error of predicting a sample from its four neighbours is less than 0.8 of the error with
    even times, at the median. They are interpolated linearly onto a grid of the mean rate, and more than three samples
    without a value stay missing.

    Args:
        seconds: [n], the times of the samples; few may be NaN.
        signals: [n] each.
        fs: the rate in Hz. It is that of the samples between gaps, and a gap keeps its length in seconds.
        reuse: whether `seconds` and `signals` may be sorted where they are, so that a long recording is in memory once.

    Returns:
        The signals on the grid.

    Raises:
        ValueError: times fall by more than packets overlap, or they are too uneven for a grid, or `fs` has nothing to
            do with them.
    """
    notes: list[str] = []
    seconds, signals = rising(np.asarray(seconds, np.float64), list(signals), notes, reuse)
    even = _even(seconds)
    if even is not None and not (_hole(seconds) and _gapped(seconds, clear=True) is not None):
        return Placed(signals, _agreed(fs, even, notes), float(seconds[0]), notes)
    gapped = _gapped(seconds) if fs is None else None
    if gapped is not None:
        at, rate = gapped
        return Placed(_spread(at, signals, rate), rate, float(seconds[0]), notes)
    rows = points(seconds)
    if fs is None and len(rows) > 0.9 * len(seconds) and truly_uneven(seconds, signals):
        at, signals, rate = resampled(seconds, signals)
        missing = int(at[-1]) + 1 - len(at)
        notes.append(
            f"time: samples are uneven; they are interpolated to {rate:g} Hz by their times"
            + (f", and {missing} samples are missing" if missing else "")
        )
        return Placed(_spread(at, signals, rate), rate, float(seconds[0]), notes)
    times = seconds if len(rows) == len(seconds) else seconds[rows]
    counts = np.diff(rows, append=len(seconds)).astype(np.int32)
    breaks = _breaks(times)
    longest = float((times[breaks[1:] - 1] - times[breaks[:-1]]).max())
    rate = usual_rate(estimate_rate(times, rows, counts, breaks), longest)
    if not np.isfinite(rate) or rate <= 0:
        raise ValueError(_uneven(seconds, rate))
    used = _agreed(fs, rate, notes)
    packet = float(np.median(counts))
    if packet > 1:
        notes.append(f"time: packets of {packet:g} rows share a time; they are spread evenly")
    at, off = _numbers(times, rows, counts, breaks, rate, used)
    packets = len(rows)
    del times, rows, counts
    missing = np.count_nonzero(np.diff(at) > 1)
    wander = max(_ROUNDED, packet, _WANDER * len(seconds))
    most = _MOST_GAPS if off < _STEADY else _FEW_GAPS
    if missing > most * (packets - 1) or off > wander:
        raise ValueError(_uneven(seconds, rate))
    if off > max(_ROUNDED, packet):
        notes.append(f"time: the times wander by about {off / rate:.2g} s against even samples of {rate:g} Hz")
    if missing:
        notes.append(f"time: {int(at[-1]) + 1 - len(at)} samples are missing in {missing} gaps at {used:g} Hz")
    return Placed(_spread(at, signals, used), used, float(seconds[0]), notes)


def _agreed(fs: float | None, rate: float, notes: list[str]) -> float:
    """`fs` if it was asked for, else the rate of the times. A disagreement is said or refused."""
    if fs is None:
        return rate
    factor = max(fs / rate, rate / fs)
    if factor > _NONSENSE:
        raise ValueError(f"fs: the times have {rate:g} samples per second, expected a rate like this, got {fs:g} Hz")
    if factor > 1 + _WRONG:
        notes.append(f"time: the times have {rate:g} samples per second; --fs {fs:g} goes before them")
    return float(fs)


def _even(seconds: np.ndarray) -> float | None:
    """The rate of times that lie on a straight line but for rounding, else None."""
    intervals = len(seconds) - 1
    span = seconds[-1] - seconds[0]
    line = np.arange(len(seconds)) * span
    line /= intervals
    line += seconds[0]
    np.subtract(seconds, line, out=line)
    return _whole_rate(intervals, span) if max(line.max(), -line.min()) * intervals < _ROUNDED * span else None


def _whole_rate(samples: int, seconds: float) -> float:
    """The rate in Hz; rounded to a whole number if that moves the last sample by less than one."""
    fs = samples / seconds if seconds else np.nan
    return float(round(fs)) if abs(fs - round(fs)) * seconds < 1 else float(fs)


def _hole(seconds: np.ndarray) -> bool:
    """Whether two samples or more are missing at once."""
    steps = np.diff(seconds)
    return bool(steps.max() > 2.5 * np.median(steps) > 0)


def _gapped(seconds: np.ndarray, clear: bool = False) -> tuple[np.ndarray, float] | None:
    """The numbers of samples [n] whose times are even but for gaps, and their rate; None if they are not."""
    steps = np.diff(seconds)
    even = steps[steps < 1.5 * np.median(steps)]
    span = even.sum()
    fs = (len(even) / span if clear else _whole_rate(len(even), span)) if span else np.nan
    if not np.isfinite(fs) or fs <= 0:
        return None
    mostly = len(even) >= (1 - _MOST_GAPS) * len(steps)
    del steps, even
    exact = (seconds - seconds[0]) * fs
    at = np.round(exact).astype(np.int64)
    exact -= at
    wide = at[-1] > _WIDEST_GAPS * len(at) and not mostly
    if wide or (np.diff(at) < 1).any() or exact.std() > (_CLOSE if clear else _SCATTER):
        return None
    return at, fs


def _breaks(times: np.ndarray) -> np.ndarray:
    """The numbers of the packets that stretches begin at, and the number of packets."""
    steps = np.diff(times)
    return np.concatenate(([0], np.flatnonzero(steps > max(_BREAK, 10 * np.median(steps))) + 1, [len(times)]))


def _numbers(
    times: np.ndarray, rows: np.ndarray, counts: np.ndarray, breaks: np.ndarray, rate: float, used: float
) -> tuple[np.ndarray, float]:
    """The number of each sample [n] on a grid of the rate `used`, if the times have the rate `rate`.

    The second value tells by how many samples times differ from these numbers, at the median of the worst stretch.
    """
    packet = float(np.median(counts))
    gaps = np.zeros(len(rows), np.int64)  # samples that are missing before each packet
    off, origin, number = 0.0, 0.0, 0  # number: of the next sample
    for begin, end in pairwise(breaks.tolist()):
        part = slice(int(begin), int(end))
        level = times[part] - times[begin]
        level *= rate
        level -= rows[part]
        level += rows[begin]
        every = max(1, len(level) // _SOME)
        steady = level[::every].copy()
        gaps[part] = lost(level, counts[part], packet)
        del level
        steady -= np.cumsum(gaps[part])[::every]
        off = max(off, float(np.median(np.abs(steady - np.median(steady)))))
        start = times[begin] * rate + float(np.median(steady[:64]))  # of the stretch in samples, without jitter
        if begin:
            gaps[begin] = max(round(float(start - origin)) - number, 0)
        else:
            origin = start
        number += int(gaps[part].sum() + counts[part].sum())
    if used != rate:
        gaps = np.round(gaps * (used / rate)).astype(np.int64)
    np.cumsum(gaps, out=gaps)
    at = gaps if len(rows) == rows[-1] + counts[-1] else np.repeat(gaps, counts)
    at += np.arange(len(at))
    return at, off


def _spread(at: np.ndarray, signals: Sequence[np.ndarray], fs: float) -> list:
    """The signals on the grid; `at` [n] rises."""
    size = int(at[-1]) + 1
    holes = np.diff(at)
    longest = _LONG_GAP * fs if size < 4 * len(at) else min(_LONG_GAP, 10.0) * fs
    cuts = np.flatnonzero(holes > longest) + 1
    edges = np.concatenate(([0], cuts, [len(at)]))
    firsts = at[edges[:-1]]
    placed = []
    for x in signals:
        parts = []
        for begin, end, first in zip(edges[:-1], edges[1:], firsts, strict=True):
            grid = np.full(int(at[end - 1] - first) + 1, np.nan)
            grid[at[begin:end] - first] = x[begin:end]
            parts.append(grid)
        placed.append(Stretches(firsts, parts) if len(cuts) else parts[0])
    return placed


def _uneven(seconds: np.ndarray, rate: float) -> str:
    longest = float(np.diff(seconds).max())
    return (
        f"time: expected evenly spaced samples with few gaps, got {rate:g} Hz, gaps up to {longest:g} s; "
        f"--time none takes the rows as even samples"
    )
