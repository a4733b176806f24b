"""Values that stand for missing samples, such as -32768, -9999 or runs of exact zeros, where they behave so."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from xmae_fast.recordings.pieces import Pieces
from xmae_fast.recordings.recording import Channel
from xmae_fast.recordings.stretches import Stretches

# What devices and programs write for a missing sample: 0, the extremes of types, and customary numbers.
USUAL = frozenset(
    [0.0, -1.0, 9.969209968386869e36]
    + [float(number) for bits in (15, 23, 31, 63) for number in (-(2**bits), 1 - 2**bits, 2**bits - 1)]
    + [float(2**bits - 1) for bits in (16, 24, 32, 64)]
    + [float(sign * (10**digits - 1)) for digits in (3, 4, 5, 6) for sign in (1, -1)]
)
Runs = tuple[np.ndarray, ...]  # row, first sample, and the one after the last, [runs] each
_PASSES = 8  # how many values of a channel may stand for missing
_SHORT, _LONG = 0.04, 0.25  # s; the least length of a run between jumps, and of one within the signal
_RARE = 0.2  # share of the samples
_APART = 1.0  # s; the signal between two runs lasts so long at least, in the median


def mark_missing(channel: Channel) -> list[str]:
    """Make samples of a channel NaN whose value stands for missing.

    A usual value (0, -1, -9999, the extremes of types, and so on) stands for missing where it lies farther from all
    other samples than these span; any other minimum or maximum does if it lies twice as far away and comes in runs of
    three samples or more alone. A usual value nearer by stands for missing in runs of 40 ms or longer that begin and
    end with a jump, or that no step of the signal is large enough to reach. 0 within the signal does in runs of 0.25 s
    or longer if the signal never else keeps a value for a quarter of that time. So a signal that is clipped, or passes
    through 0, keeps all its samples.

    Args:
        channel: its values are replaced, not changed in place.

    Returns:
        A sentence for each such value.
    """
    values = channel.values
    if isinstance(values, Stretches):
        blocks = [stretch[None] for stretch in values.stretches if len(stretch)]
    elif isinstance(values, Pieces):
        blocks = [values[i][None] for i in range(len(values)) if len(values[i])]
    else:
        blocks = [values] if values.size else []
    fs = channel.fs if np.isfinite(channel.fs) and channel.fs > 0 else 250.0
    found = list(_sentinels(blocks, fs))
    if not found:
        return []
    total, notes = sum(block.size for block in blocks), []
    for value, masks in found:
        count = sum(int(mask.sum()) for mask in masks)
        blocks = [np.where(mask, np.nan, block) for block, mask in zip(blocks, masks, strict=True)]
        notes.append(
            f"{channel.name}: the value {value:g} stands for missing here: {count:,} samples ({count / total:.2%})"
        )
    if isinstance(values, Stretches):
        rows = iter(blocks)
        cleaned = [next(rows)[0] if len(stretch) else stretch for stretch in values.stretches]
        channel.values = Stretches(values.firsts, cleaned, values.size)
    elif isinstance(values, Pieces):
        rows = iter(blocks)
        channel.values = Pieces([next(rows)[0] if len(values[i]) else values[i] for i in range(len(values))])
    else:
        channel.values = blocks[0]
    return notes


def _sentinels(blocks: Sequence[np.ndarray], fs: float) -> Iterator[tuple[float, list[np.ndarray]]]:
    """(value, which samples stand for missing by it) for each value that does so.

    Args:
        blocks: [rows, samples] each; neighbours in a row were recorded one after another.
        fs: in Hz.
    """
    taken: list[float] = []
    limits = _limits(blocks, taken)
    for _ in range(_PASSES):
        for value in limits:
            masks = _at_the_end(blocks, value, taken, fs) if limits[0] < limits[1] else None
            if masks:
                yield value, masks
                taken.append(value)
                limits = _limits(blocks, taken)
                break
        else:
            break
    if limits[0] < 0 < limits[1] and (masks := _zeros_within(blocks, fs)):
        yield 0.0, masks


def _limits(blocks: Sequence[np.ndarray], without: Sequence[float]) -> tuple[float, float]:
    """The least and the greatest finite sample that is none of `without`; (inf, -inf) if there is none."""
    low, high = np.inf, -np.inf
    for block in blocks:
        few, many = float(block.min()), float(block.max())
        if np.isnan(few):
            few, many = float(np.fmin.reduce(block, None)), float(np.fmax.reduce(block, None))
        if not (np.isfinite(few) and np.isfinite(many)) or few in without or many in without:
            kept = np.isfinite(block)
            for value in without:
                kept &= block != value
            there = block[kept]
            few, many = (float(there.min()), float(there.max())) if there.size else (np.inf, -np.inf)
        low, high = min(low, few), max(high, many)
    return low, high


def _at_the_end(
    blocks: Sequence[np.ndarray], value: float, taken: Sequence[float], fs: float
) -> list[np.ndarray] | None:
    """Which samples of the least or greatest value stand for missing; None if none does."""
    masks = [block == value for block in blocks]
    usual = value in USUAL
    count = sum(int(np.count_nonzero(mask)) for mask in masks)
    if not usual and (count < 3 or any(_has_short_runs(mask) for mask in masks)):
        return None
    low, high = _limits(blocks, [*taken, value])
    distance, span = max(low - value, value - high), high - low
    runs = [_runs(mask) for mask in masks]
    if span > 0 and usual and distance > span and (value not in (0, -1) or _are_apart(runs, blocks, fs)):
        return masks
    if span > 0 and not usual and distance > 2 * span:
        return masks
    if not usual or span <= 0:
        return None
    runs = [_longer(run, max(5, round(_SHORT * fs))) for run in runs]
    if not any(len(row) for row, _, _ in runs) or not _are_apart(runs, blocks, fs):
        return None
    rest = np.concatenate([block[np.isfinite(block) & ~mask] for block, mask in zip(blocks, masks, strict=True)])
    steps = np.concatenate(
        [
            np.abs(np.diff(np.where(mask, np.nan, block), axis=1)).ravel()
            for block, mask in zip(blocks, masks, strict=True)
        ]
    )
    steps = steps[np.isfinite(steps)]
    if not len(steps):
        return None
    if distance > steps.max():  # no step of the signal leads there: all ways are jumps
        return _chosen(blocks, runs)
    body = np.percentile(rest, [1, 99])
    jump = max(2 * float(np.percentile(steps, 99.9)), 0.25 * float(body[1] - body[0]))
    return _chosen(blocks, [_between_jumps(b, run, value, jump) for b, run in zip(blocks, runs, strict=True)])


def _zeros_within(blocks: Sequence[np.ndarray], fs: float) -> list[np.ndarray] | None:
    """Which zeros within the range of a signal stand for missing; None if none does."""
    masks = [block == 0 for block in blocks]
    if not any(mask.any() for mask in masks):
        return None
    runs = [_longer(_runs(mask), max(8, round(_LONG * fs))) for mask in masks]
    if not any(len(row) for row, _, _ in runs) or not _are_apart(runs, blocks, fs):
        return None
    rest = np.concatenate([block[np.isfinite(block) & (block != 0)] for block in blocks])
    low, high = np.percentile(rest, [5, 95]) if rest.size else (0.0, 0.0)
    if not low < 0 < high:
        return None
    held = 1
    for block, run in zip(blocks, runs, strict=True):
        same = np.diff(np.where(_mask(block.shape, run), np.nan, block), axis=1) == 0
        _, begin, end = _runs(same)
        held = max(held, 1 + int((end - begin).max(initial=0)))
    return _chosen(blocks, [_longer(run, 4 * held) for run in runs])


def _chosen(blocks: Sequence[np.ndarray], runs: Sequence[Runs]) -> list[np.ndarray] | None:
    """The samples of runs, as masks of the blocks; None if there is no run."""
    if not any(len(row) for row, _, _ in runs):
        return None
    return [_mask(block.shape, run) for block, run in zip(blocks, runs, strict=True)]


def _runs(mask: np.ndarray) -> Runs:
    """The runs of True in the rows of mask [rows, samples]: row, first sample, and the one after the last, [runs]."""
    if not mask.any():
        return (np.zeros(0, np.int64),) * 3
    edges = np.diff(np.pad(mask, ((0, 0), (1, 1))).view(np.int8), axis=1)
    row, begin = np.nonzero(edges == 1)
    return row, begin, np.nonzero(edges == -1)[1]


def _has_short_runs(mask: np.ndarray) -> bool:
    """Whether a run of True, of those in mask [rows, samples] one after another, has fewer than three samples."""
    at = np.flatnonzero(mask)
    if not len(at):
        return False
    ends = np.append(np.flatnonzero(np.diff(at) != 1), len(at) - 1)
    return int(np.diff(ends, prepend=-1).min()) < 3


def _longer(runs: Runs, least: int) -> Runs:
    """The runs of at least so many samples."""
    keep = runs[2] - runs[1] >= least
    return tuple(x[keep] for x in runs)


def _between_jumps(block: np.ndarray, runs: Runs, value: float, jump: float) -> Runs:
    """The runs whose neighbours lie farther than `jump` from `value`: both, or the one that there is."""
    row, begin, end = runs
    sides = np.full((2, len(row)), np.nan)
    before, after = begin > 0, end < block.shape[1]
    sides[0, before] = block[row[before], begin[before] - 1]
    sides[1, after] = block[row[after], end[after]]
    far = np.abs(sides - value) > jump
    keep = (far | np.isnan(sides)).all(0) & far.any(0)
    return tuple(x[keep] for x in runs)


def _are_apart(runs: Sequence[Runs], blocks: Sequence[np.ndarray], fs: float) -> bool:
    """Whether runs are rare, or the signal between them usually lasts _APART seconds. One that is 0 between its pulses
    has neither."""
    if sum(int((end - begin).sum()) for _, begin, end in runs) < _RARE * sum(block.size for block in blocks):
        return True
    between: list[np.ndarray] = []
    for (row, begin, end), block in zip(runs, blocks, strict=True):
        for k in np.unique(row).tolist():
            mine = row == k
            lengths = np.append(begin[mine], block.shape[1]) - np.append(0, end[mine])
            between.append(lengths[lengths > 0])
    lengths = np.concatenate(between) if between else np.zeros(0)
    return not len(lengths) or bool(np.median(lengths) >= _APART * fs)


def _mask(shape: tuple[int, ...], runs: Runs) -> np.ndarray:
    """The samples of runs as True in an array [rows, samples]."""
    edges = np.zeros((shape[0], shape[1] + 1), np.int8)
    np.add.at(edges, (runs[0], runs[1]), 1)
    np.add.at(edges, (runs[0], runs[2]), -1)
    return np.cumsum(edges[:, :-1], axis=1, dtype=np.int8) > 0
