"""Joins pieces of a signal that were recorded one after another."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from xmae_fast.recordings.stretches import Stretches

LONG_GAP_S = 60.0  # a longer gap takes no memory


def join(firsts: Sequence[int], pieces: Sequence[np.ndarray], length: int, fs: float) -> np.ndarray | Stretches:
    """Join pieces of a signal; what lies between them is missing.

    Args:
        firsts: [S], the number of the first sample of each piece, ascending; pieces do not overlap.
        pieces: S arrays of samples.
        length: samples of the whole signal.
        fs: the sampling frequency in Hz, which tells how long a gap is.

    Returns:
        [1, length] float64 if no gap is long, NaN in the gaps; `Stretches` otherwise, with short gaps filled.
    """
    longest = LONG_GAP_S * fs
    groups: list[list[int]] = []
    end = 0
    for number, (first, piece) in enumerate(zip(firsts, pieces, strict=True)):
        if not len(piece):
            continue
        if groups and first - end <= longest:
            groups[-1].append(number)
        else:
            groups.append([number])
        end = first + len(piece)
    if not groups:
        return Stretches([], [], length) if length > longest else np.full((1, length), np.nan)
    single = len(groups) == 1 and firsts[groups[0][0]] <= longest and length - end <= longest
    stretches, starts = [], []
    for numbers in groups:
        start = 0 if single else int(firsts[numbers[0]])
        last = numbers[-1]
        stop = length if single else int(firsts[last]) + len(pieces[last])
        if len(numbers) == 1 and stop - start == len(pieces[last]):
            stretches.append(np.asarray(pieces[last], np.float64))
        else:
            values = np.full(stop - start, np.nan)
            for number in numbers:
                at = int(firsts[number]) - start
                values[at : at + len(pieces[number])] = pieces[number]
            stretches.append(values)
        starts.append(start)
    return stretches[0][None] if single else Stretches(starts, stretches, length)
