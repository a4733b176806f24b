"""Sentences about what looks wrong with a recording: upside down, clipped, noise, a wrong rate, channels exchanged.

The limits come from `xmae_fast.signals.shape`, which embedding uses too. Those of ECG hold for the simulator, BIDMC and
MIMIC: there more than 30 % of the power of ECG lies above 8 Hz and its slope has a kurtosis above 9; of PPG below 2 %
and below 5.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from xmae_fast.signals.beats import BEATS
from xmae_fast.signals.clean import CLEAN, fill_missing
from xmae_fast.signals.shape import (
    CLIPPED,
    FAST,
    FLAT,
    LOW_QUALITY,
    PULSE_RATES,
    UPSIDE_DOWN,
    fast_share,
    held_shares,
    slope_skewness,
)

_SHARP = 7.0  # kurtosis of the slope
_SLOW = 0.05  # share of the power above 8 Hz
_ECG_DOWN = -0.8  # skewness of cleaned ECG
_LEAST = 3  # windows
_SOME = 0.1  # share of the windows from which on flat and clipped ones are told
_APART = 0.15  # by which the rates of PPG and ECG differ
_JUDGED = 0.8  # the quality that both have where their rates are compared

_MOST_MISSING = 0.05  # share of the samples of a window that is looked at


class Measures(NamedTuple):
    """What W windows of one signal tell, [W] each.

    Args:
        fs: the rate of the recording in Hz.
        fast: the share of the power above 8 Hz.
        sharp: the kurtosis of the slope.
        skewness: of the slope of PPG, or of cleaned ECG; below 0 it is upside down.
        flat: the share of samples that keep their value.
        clipped: the share of samples that stay at an end.
        rate: beats per minute; NaN with fewer than four beats.
        quality: NaN where it is not known.
    """

    fs: float
    fast: np.ndarray
    sharp: np.ndarray
    skewness: np.ndarray
    flat: np.ndarray
    clipped: np.ndarray
    rate: np.ndarray
    quality: np.ndarray


def measure(
    kind: str, raw: np.ndarray, fs: float, clean: np.ndarray | None, clean_fs: float, quality: np.ndarray
) -> Measures:
    """Measure some windows of a signal.

    Args:
        kind: "PPG" or "ECG".
        raw: [W, n] windows as recorded; NaN where samples are missing. Windows that miss many tell nothing.
        fs: of the recording, in Hz.
        clean: [W, L], the same windows cleaned, in any unit; None cleans them here.
        clean_fs: the rate of `clean`, in Hz.
        quality: [W].
    """
    raw, missing = fill_missing(np.ascontiguousarray(raw, np.float64))
    varying = (np.ptp(raw, axis=1) > 0) & (missing <= _MOST_MISSING)
    raw, quality = raw[varying], quality[varying]
    if clean is None:
        clean, clean_fs = cleaned(kind, raw, fs), fs
    else:
        clean = np.asarray(clean, np.float64)[varying]
    flat, clipped = held_shares(raw, fs)
    slope = np.diff(raw, axis=1)
    slope -= slope.mean(1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        squares = slope * slope
        sharp = (squares * squares).mean(1) / squares.mean(1) ** 2
    skewness = orientation(kind, clean)
    return Measures(fs, fast_share(raw, fs), sharp, skewness, flat, clipped, _rates(kind, clean, clean_fs), quality)


def cleaned(kind: str, raw: np.ndarray, fs: float) -> np.ndarray:
    """Windows [W, n] without missing samples, cleaned as those of a kind."""
    if not len(raw):
        return raw
    return CLEAN[kind](raw, fs)


def orientation(kind: str, clean: np.ndarray) -> np.ndarray:
    """What tells whether cleaned windows [W, L] are upside down, [W]: the skewness of the slope of PPG, or of ECG."""
    if kind == "PPG":
        return slope_skewness(clean)
    x = clean - clean.mean(1, keepdims=True)
    squares = x * x
    with np.errstate(invalid="ignore", divide="ignore"):
        return (squares * x).mean(1) / squares.mean(1) ** 1.5


def is_upside_down(kind: str, skewness: np.ndarray) -> bool:
    """Whether the windows of a signal, of which `orientation` [W] is given, are upside down at the median."""
    limit = UPSIDE_DOWN if kind == "PPG" else _ECG_DOWN
    return len(skewness) >= _LEAST and float(np.median(skewness)) < limit


def problems(measured: Mapping[str, Measures]) -> list[str]:
    """What looks wrong with a recording; a sentence for each problem.

    Args:
        measured: by "PPG" and "ECG", or one of them.
    """
    found, usual = [], {}
    few = {kind: m for kind, m in measured.items() if len(m.fast) >= _LEAST}
    like = {kind: _like(m) for kind, m in few.items()}
    if like.get("PPG") == "ECG" and like.get("ECG") == "PPG":
        return ["PPG and ECG look exchanged: --ppg NAME and --ecg NAME say which is which"]
    for kind, m in few.items():
        other = "ECG" if kind == "PPG" else "PPG"
        if like[kind] == other:
            found.append(f"the {kind} looks like {other}: --{kind.lower()} NAME takes another channel")
        else:
            found += _of_one(kind, m)
            usual[kind] = m
    if len(usual) == 2:
        found += _of_both(usual)
    return found


def _like(m: Measures) -> str:
    """ "ECG" or "PPG" where a signal looks so, else ""."""
    fast, sharp = float(np.median(m.fast)), float(np.median(m.sharp))
    if fast > FAST and sharp > _SHARP:
        return "ECG"
    return "PPG" if fast < _SLOW and sharp < _SHARP else ""


def _of_one(kind: str, m: Measures) -> list[str]:
    """What looks wrong with one signal."""
    found, count = [], len(m.fast)
    right = f"is its rate of {m.fs:g} Hz right (--fs), and is it {kind}?"
    if is_upside_down(kind, m.skewness):
        how = "falls faster than it rises" if kind == "PPG" else "has its peaks downwards"
        words = "auto,keep" if kind == "PPG" else "keep,auto"
        found.append(f"the {kind} looks upside down, it {how}: --polarity {words} turns it round")
    for word, share, limit in (("flat", m.flat, FLAT), ("clipped", m.clipped, CLIPPED)):
        if (share >= limit).mean() >= _SOME:
            found.append(f"the {kind} is {word} in {np.count_nonzero(share >= limit)} of {count} windows looked at")
    fast = float(np.median(m.fast))
    if kind == "PPG" and fast > FAST:
        found.append(f"{fast:.0%} of the power of the PPG lies above its band: {right}")
    known = ~np.isnan(m.rate)
    if known.mean() < 0.5:
        found.append(f"the {kind} has fewer than four beats in {count - known.sum()} of {count} windows: {right}")
        return found
    rate = float(np.median(m.rate[known]))
    if not PULSE_RATES[0] <= rate <= PULSE_RATES[1]:
        found.append(f"the {kind} has {rate:.0f} beats per minute: {right}")
    quality = float(np.median(np.nan_to_num(m.quality, nan=-1.0)))
    if quality < LOW_QUALITY and not np.isnan(m.quality).all():
        found.append(f"the {kind} has a median quality of {quality:.2f}: {right}")
    return found


def _of_both(measured: Mapping[str, Measures]) -> list[str]:
    """Whether PPG and ECG have different rates of beats, though both are good."""
    rates = {}
    for kind, m in measured.items():
        good = m.rate[(m.quality >= _JUDGED) & ~np.isnan(m.rate)]
        if len(good) < _LEAST or len(good) < len(m.rate) / 2:
            return []
        rates[kind] = float(np.median(good))
    ppg, ecg = rates["PPG"], rates["ECG"]
    if abs(ppg - ecg) <= _APART * min(ppg, ecg):
        return []
    told = f"{ppg:.0f} beats per minute in the PPG and {ecg:.0f} in the ECG"
    return [f"{told}: is one of their sampling rates wrong, or are they of two persons?"]


def _rates(kind: str, clean: np.ndarray, fs: float) -> np.ndarray:
    """Beats per minute of windows [W, L], from the first beat to the last; NaN with fewer than four."""
    rate = np.full(len(clean), np.nan)
    if not len(clean):
        return rate
    beats = BEATS[kind](clean, fs)
    count = np.diff(beats.bounds)
    rows = np.flatnonzero(count >= 4)
    spans = beats.at[beats.bounds[1:][rows] - 1] - beats.at[beats.bounds[:-1][rows]]
    rate[rows] = 60 * fs * (count[rows] - 1) / spans
    return rate
