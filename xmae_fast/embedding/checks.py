"""Sentences about what looks wrong with recordings and with their embeddings."""

from __future__ import annotations

import warnings
from collections.abc import Iterable

import numpy as np

from xmae_fast.embedding.preprocess import Prepared
from xmae_fast.recordings.saying import alike, without_path
from xmae_fast.signals.shape import CLIPPED, FAST, FLAT, LOW_QUALITY, PULSE_RATES, UPSIDE_DOWN

RATES = (20.0, 2000.0)  # Hz
_SAME = 1e-3  # variance as a share of the mean square; of one person at rest it is 0.05 (random weights) to 0.3
LEAST_WINDOWS = 5
_NAMED = 3  # recordings that one line names


class SignalWarning(UserWarning):
    """A recording, or its embeddings, do not look like those of PPG."""


def issues_of(prepared: Prepared) -> dict[str, np.ndarray]:
    """Which of W windows have a problem, [W] bool for each kind of problem.

    "unusable": the window is constant, or nothing was recorded. "missing": some samples were missing and are filled.
    "flat", "clipped": this is so for a share of the window of at least FLAT or CLIPPED.
    """
    return {
        "unusable": ~prepared.usable,
        "missing": prepared.missing > 0,
        "flat": prepared.usable & (prepared.flat >= FLAT),
        "clipped": prepared.usable & (prepared.clipped >= CLIPPED),
    }


def warn_all(messages: Iterable[str]) -> None:
    """Warn with a SignalWarning for each message, in the name of the caller's caller."""
    for message in messages:
        warnings.warn(message, SignalWarning, stacklevel=3)


def signal_problems(
    prepared: Prepared,
    fs: float,
    judged: bool,
    remedy: str = "if so, give -signal",
    typical: Prepared | None = None,
) -> list[str]:
    """What looks wrong with recorded windows.

    Args:
        prepared: the windows.
        fs: Hz of the recording.
        judged: whether their quality was computed.
        remedy: what to do about a signal that is upside down.
        typical: windows that tell what is usual in the recording; None for `prepared`.

    Returns:
        A sentence for each problem.
    """
    W, found = len(prepared.usable), []
    words = {
        "unusable": "constant or without any value: their embeddings are NaN",
        "missing": "with missing samples, filled with the value before them",
        "flat": f"flat for {FLAT:.0%} of their time or more",
        "clipped": f"clipped: {CLIPPED:.0%} of their samples or more stay at the minimum or maximum",
    }
    for name, where in issues_of(prepared).items():
        if where.any():
            found.append(f"signal: {where.sum():,} of {W:,} windows are {words[name]}")
    if not RATES[0] <= fs <= RATES[1]:
        found.append(f"fs: {fs:g} Hz is an unusual rate of PPG; expected Hz, {RATES[0]:g} to {RATES[1]:g}")
    prepared = typical or prepared
    usable = prepared.usable
    if usable.sum() < LEAST_WINDOWS:
        return found
    if (fast := float(np.median(prepared.fast[usable]))) > FAST:
        found.append(f"fs: {fast:.0%} of the signal's power lies above the band of PPG; {_question(fs)}")
    if judged:
        found += _pulse_problems(prepared.pulse_rate[usable], prepared.quality[usable], fs)
    if is_upside_down(prepared):
        found.append(
            "signal: it falls faster than it rises, as PPG does upside down (recorded light instead of absorption);"
            f" {remedy}"
        )
    return found


def is_upside_down(prepared: Prepared) -> bool:
    """Whether recorded windows fall faster than they rise; False where there are too few of them to tell."""
    usable = prepared.usable
    if usable.sum() < LEAST_WINDOWS:
        return False
    return float(np.median(prepared.slope_skewness[usable])) < UPSIDE_DOWN


def _pulse_problems(rate: np.ndarray, quality: np.ndarray, fs: float) -> list[str]:
    question = _question(fs)
    known = ~np.isnan(rate)
    if known.mean() < 0.5:
        few = f"{np.count_nonzero(~known):,} of {len(rate):,} windows have fewer than four pulses"
        return [f"signal: {few}; {question}"]
    found, pulse = [], float(np.median(rate[known]))
    if not PULSE_RATES[0] <= pulse <= PULSE_RATES[1]:
        found.append(f"fs: it makes the pulse rate {pulse:.0f} per minute; {question}")
    middle = float(np.median(np.nan_to_num(quality, nan=-1)))
    if middle < LOW_QUALITY:
        found.append(f"signal: the median quality is {middle:.2f}; {question}")
    return found


def _question(fs: float) -> str:
    return f"is fs = {fs:g} Hz right, in Hz, and the signal PPG?"


def segment_problems(ppg: np.ndarray, remedy: str = "or give fs, and they are prepared") -> list[str]:
    """What looks wrong with segments [S, L] that should be prepared already; a sentence for each problem, with
    `remedy`."""
    low, high = float(ppg.min()), float(ppg.max())
    if low < -1.01 or high > 1.01:
        expected = f"values scaled to [-1, 1] per segment ({remedy})"
        return [f"segments: expected {expected}, got {low:.4g} to {high:.4g}"]
    narrow = np.ptp(ppg, axis=1) < 1.9
    if narrow.mean() > 0.5:
        expected = f"segments that reach from -1 to 1 each ({remedy})"
        return [f"segments: expected {expected}, {narrow.sum():,} of {len(ppg):,} do not"]
    return []


def grouped(messages: Iterable[tuple[str, str]]) -> list[str]:
    """Pairs (name of what it is about, message), one line for each group of `alike` messages, with the numbers of the
    first one."""
    lines = []
    for those in alike(messages):
        names, texts = [name for name, _ in those], [without_path(*one) for one in those]
        more = f" and {len(names) - _NAMED:,} more" if len(names) > _NAMED else ""
        first = " (the first of these)" if len(set(texts)) > 1 else ""
        lines.append(f"{', '.join(names[:_NAMED])}{more}: {texts[0]}{first}")
    return lines


def embedding_problems(embeddings: np.ndarray, usable: np.ndarray) -> list[str]:
    """What looks wrong with the `usable` [W] ones of embeddings [W, ...]; a sentence for each problem."""
    if usable.sum() < LEAST_WINDOWS:
        return []
    rows = embeddings[usable].reshape(int(usable.sum()), -1).astype(np.float64)
    size = (rows * rows).mean(0).sum()
    if size > 0 and rows.var(0).sum() > _SAME * size:
        return []
    same = f"those of {len(rows):,} windows are all but the same"
    return [f"embeddings: {same}; are the windows, or has the model collapsed?"]
