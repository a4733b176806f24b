"""Common times of PPG and ECG that have different sampling rates."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Spacing(NamedTuple):
    """How the samples of a window follow each other: the rate in Hz, and how many there are."""

    fs: float
    samples: int


def positions(
    ppg: Spacing, ecg: Spacing, delay_s: np.ndarray, seq_len: int
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Where the windows of two signals are resampled, so that both are taken at the same times.

    The times are spread evenly over what both windows cover. If the window of the slower signal lies within that of the
    faster one, they are the times that the published rule gives the slower signal.

    Args:
        ppg, ecg: the samples of a window of PPG and of ECG.
        delay_s: [K], how much later the ECG's first sample is than the PPG's, in seconds.
        seq_len: L, the samples of a segment.

    Returns:
        For PPG and for ECG, [L] for all windows or [K, L], positions in samples of the window; None stands for
        j (n - 1) / (L - 1), as in the published rule. Both are None if the rates are equal.
    """
    if ppg.fs == ecg.fs:
        return None, None
    shifts = np.array([np.zeros(len(delay_s)), delay_s])  # [2, K], the times of the first samples
    begin = shifts.max(0)
    ends = shifts + [[(signal.samples - 1) / signal.fs] for signal in (ppg, ecg)]
    step = (ends.min(0) - begin) / max(seq_len - 1, 1)
    if np.ptp(delay_s) == 0:  # one row of positions serves all windows
        shifts, begin, ends, step = shifts[:, :1], begin[:1], ends[:, :1], step[:1]
    times = begin[:, None] + step[:, None] * np.arange(seq_len)
    found: list[np.ndarray | None] = []
    for signal, first, end in zip((ppg, ecg), shifts, ends, strict=True):
        is_rule = (first == begin) & (end == ends.min(0))
        if is_rule.all():
            found.append(None)
            continue
        at = np.clip((times - first[:, None]) * signal.fs, 0, signal.samples - 1)  # rounding may pass the last sample
        at[is_rule] = np.arange(seq_len) * ((signal.samples - 1) / max(seq_len - 1, 1))
        found.append(at[0] if len(at) == 1 else at)
    return found[0], found[1]


def largest_shift_ms(ppg: Spacing, ecg: Spacing) -> float:
    """How far the published rule shifts PPG and ECG against each other at the end of a window, in ms."""
    return 1000 * abs((ppg.samples - 1) / ppg.fs - (ecg.samples - 1) / ecg.fs)
