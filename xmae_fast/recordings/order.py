"""Puts rows of samples in the order of their times."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_OVERLAP = 2.0  # seconds that times may fall by if packets overlap; more is a clock that was set back
_FEW = 0.01  # of the rows may lack a time


def rising(seconds: np.ndarray, signals: list, notes: list[str], reuse: bool) -> tuple[np.ndarray, list]:
    """Put rows in the order of their times.

    Args:
        seconds: [n], the times; few may be NaN.
        signals: [n] each.
        notes: gets what a user should know, a sentence each.
        reuse: whether `seconds` and `signals` may be sorted where they are, which saves memory.

    Returns:
        Times that do not fall, and the signals in their order.

    Raises:
        ValueError: many rows have no time, all have the same, or times fall by more than packets overlap.
    """
    known = ~np.isnan(seconds)
    if not known.all():
        count = len(seconds) - int(np.count_nonzero(known))
        if count > _FEW * len(seconds):
            row = int(np.flatnonzero(~known)[0]) + 1
            raise ValueError(f"time: {count} of {len(seconds)} rows have no time, the first is row {row}")
        notes.append(f"time: {count} of {len(seconds)} rows have no time; they take it from the rows around them")
        rows = np.flatnonzero(known)
        inner = slice(int(rows[0]), int(rows[-1]) + 1)
        seconds = np.interp(np.arange(inner.start, inner.stop), rows, seconds[known])
        signals = [x[inner] for x in signals]
    steps = np.diff(seconds)
    if len(steps) < 1 or seconds.max() == seconds.min():
        raise ValueError(f"time: expected rising numbers, all {len(seconds)} rows have one time")
    low = steps < 0
    if not low.any():
        return seconds, signals
    if (steps <= 0).all():
        notes.append("time: the last row is the earliest; rows are taken from the last to the first")
        return seconds[::-1], [x[::-1] for x in signals]
    falls = np.flatnonzero(low)
    deep = np.maximum.accumulate(seconds)[:-1] - seconds[1:]
    if deep.max() > _OVERLAP:
        row = int(np.flatnonzero(deep > _OVERLAP)[0])
        raise ValueError(
            f"time: expected rising numbers, but row {row + 2} of {len(seconds)} goes back by {deep[row]:g} s; "
            f"--time none takes the rows as even samples"
        )
    deepest = float(deep.max())
    del steps, low, deep
    order = np.argsort(seconds, kind="stable")
    again = 0
    if signals:
        order, again = _once(order, seconds, signals)
    notes.append(
        f"time: rows are sorted by their times, which fall {len(falls)} times by up to {deepest:g} s, first at row "
        f"{int(falls[0]) + 2}" + (f"; {again} repeated rows are left out" if again else "")
    )
    return _sorted(seconds, order, reuse), [_sorted(x, order, reuse) for x in signals]


def _sorted(x: np.ndarray, order: np.ndarray, reuse: bool) -> np.ndarray:
    """The values [m] of `x` in this order, in the memory of `x` if `reuse`."""
    if not reuse:
        return x[order]
    x[: len(order)] = x[order]
    return x[: len(order)]


def _once(order: np.ndarray, seconds: np.ndarray, signals: Sequence[np.ndarray]) -> tuple[np.ndarray, int]:
    """The order of rows without those that have the time and the values of the row before, and how many those are."""
    same = np.diff(seconds[order]) == 0
    for x in signals:
        x = x[order]
        same &= (x[1:] == x[:-1]) | (np.isnan(x[1:]) & np.isnan(x[:-1]))
    return order[np.concatenate(([True], ~same))], int(np.count_nonzero(same))
