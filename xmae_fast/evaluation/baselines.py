"""Reconstructions of masked ECG that need no network. S segments, L samples; `masked` [S, L] bool, True = hidden."""

from __future__ import annotations

import numpy as np


def linear_interpolation(ecg: np.ndarray, masked: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """Straight lines across each hidden span of ecg [S, L], level beyond the outermost visible samples.

    mean: [S] what a segment without any visible sample gets."""
    position = np.arange(ecg.shape[1])
    result = np.empty_like(ecg)
    for row, visible in enumerate(~masked):
        known = position[visible]
        result[row] = np.interp(position, known, ecg[row, known]) if len(known) else mean[row]
    return result


def visible_mean(ecg: np.ndarray, masked: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """The mean of the visible samples of each segment, [S, L]; mean: [S] where there is none."""
    count = (~masked).sum(1)
    sums = np.where(masked, 0, ecg).sum(1, dtype=np.float64)
    level = np.where(count > 0, sums / np.maximum(count, 1), mean)
    return np.broadcast_to(level[:, None], ecg.shape).astype(ecg.dtype)


def others_mean(ecg: np.ndarray, subject: np.ndarray) -> np.ndarray:
    """[S]: the mean ECG sample of all other subjects. ValueError with fewer than two."""
    names, number = np.unique(subject, return_inverse=True)
    if len(names) < 2:
        raise ValueError(f"subject: expected at least 2 subjects, got {len(names)}")
    sums, counts = np.bincount(number, ecg.sum(1, dtype=np.float64)), np.bincount(number) * ecg.shape[1]
    return ((sums.sum() - sums) / (counts.sum() - counts))[number]


def partner_of_other_subject(subject: np.ndarray, seed: int) -> np.ndarray:
    """[S] a random segment of another subject for each segment; ValueError with fewer than two subjects."""
    subject = np.asarray(subject)
    if len(np.unique(subject)) < 2:
        raise ValueError(f"subject: expected at least 2 subjects, got {len(np.unique(subject))}")
    rng = np.random.default_rng(seed)
    order = np.argsort(subject, kind="stable")
    first = np.searchsorted(subject[order], subject, "left")
    count = np.searchsorted(subject[order], subject, "right") - first
    drawn = rng.integers(0, len(subject) - count)
    return order[np.where(drawn < first, drawn, drawn + count)]


def shifted(signal: np.ndarray, seconds: float, fs: float) -> np.ndarray:
    """signal [S, L] later by `seconds` (a whole number of samples at `fs` Hz after rounding), what leaves at the end
    coming back at the start: every beat stays, at the price of one seam."""
    return np.roll(signal, round(seconds * fs), axis=1)


def masked_mse_by_segment(predicted: np.ndarray, ecg: np.ndarray, masked: np.ndarray) -> np.ndarray:
    """[S] float64: mean squared error over the hidden samples of each segment; ValueError where one hides none."""
    hidden = masked.sum(1)
    if (hidden == 0).any():
        raise ValueError("masked: expected hidden samples in every segment, got a segment without")
    return (np.where(masked, predicted - ecg, 0).astype(np.float64) ** 2).sum(1) / hidden
