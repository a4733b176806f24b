"""Reconstructions of masked ECG that need no network, for S segments of L samples."""

from __future__ import annotations

import numpy as np


def linear_interpolation(ecg: np.ndarray, masked: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """ECG with straight lines across hidden spans, and level before the first and after the last visible sample.

    Args:
        ecg: [S, L].
        masked: [S, L] bool, True where the ECG is hidden.
        mean: [S], the value of segments without any visible sample.

    Returns:
        [S, L].
    """
    position = np.arange(ecg.shape[1])
    result = np.empty_like(ecg)
    for row, visible in enumerate(~masked):
        known = position[visible]
        result[row] = np.interp(position, known, ecg[row, known]) if len(known) else mean[row]
    return result


def visible_mean(ecg: np.ndarray, masked: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """The mean of the visible samples of each segment, everywhere in it.

    Args:
        ecg: [S, L].
        masked: [S, L] bool, True where the ECG is hidden.
        mean: [S], the value of segments without any visible sample.

    Returns:
        [S, L].
    """
    count = (~masked).sum(1)
    sums = np.where(masked, 0, ecg).sum(1, dtype=np.float64)
    level = np.where(count > 0, sums / np.maximum(count, 1), mean)
    return np.broadcast_to(level[:, None], ecg.shape).astype(ecg.dtype)


def others_mean(ecg: np.ndarray, subject: np.ndarray) -> np.ndarray:
    """[S]: the mean ECG sample of all other subjects; ValueError if there are fewer than two subjects."""
    names, number = np.unique(subject, return_inverse=True)
    if len(names) < 2:
        raise ValueError(f"subject: expected at least 2 subjects, got {len(names)}")
    sums, counts = np.bincount(number, ecg.sum(1, dtype=np.float64)), np.bincount(number) * ecg.shape[1]
    return ((sums.sum() - sums) / (counts.sum() - counts))[number]


def partner_of_other_subject(subject: np.ndarray, seed: int) -> np.ndarray:
    """[S]: a random segment of another subject for each segment; ValueError if there are fewer than two subjects."""
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
    """Shift a signal in a circle, so that every beat stays, at the price of one seam.

    Args:
        signal: [S, L].
        seconds: by which it comes later, rounded to whole samples. What leaves at the end comes back at the start.
        fs: Hz.

    Returns:
        [S, L].
    """
    return np.roll(signal, round(seconds * fs), axis=1)


def masked_mse_by_segment(predicted: np.ndarray, ecg: np.ndarray, masked: np.ndarray) -> np.ndarray:
    """The mean squared error over the hidden samples of each segment.

    Args:
        predicted, ecg: [S, L].
        masked: [S, L] bool, True where the ECG is hidden.

    Returns:
        [S] float64.

    Raises:
        ValueError: a segment has no hidden sample.
    """
    hidden = masked.sum(1)
    if (hidden == 0).any():
        raise ValueError("masked: expected hidden samples in every segment, got a segment without")
    return (np.where(masked, predicted - ecg, 0).astype(np.float64) ** 2).sum(1) / hidden
