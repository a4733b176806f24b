"""Places signals by the times that lie beside them in a file of arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from xmae_fast.recordings.grid import place
from xmae_fast.recordings.reading import Reading
from xmae_fast.recordings.recording import Channel
from xmae_fast.recordings.stretches import Stretches
from xmae_fast.recordings.times import TimeColumn

_LATEST = 3600.0  # seconds; times that differ by more are not of one clock
_RELATIVE = 1e8  # seconds; greater times may be Unix time
_PLAUSIBLE = (16.0, 5000.0)  # Hz
_ROUNDED = 1.5  # a rounded time may be wrong by this many samples
_SAME = 0.02  # rates that differ by less are the same


class Beside(NamedTuple):
    """The times of the samples of a signal.

    Args:
        name: of the array, whose last word may be a unit.
        values: [samples] numbers, or dates and times.
    """

    name: str
    values: np.ndarray


def place_channels(
    channels: Sequence[Channel], times: Sequence[Beside | None], reading: Reading, notes: list[str]
) -> str:
    """Place channels of one piece by their times: gaps become missing samples. Their values and rates are replaced.

    Channels with times of their own that begin later than others begin with missing samples. A rate that the file
    states stays, and times that contradict it are left aside, with a note.

    Args:
        channels: whose rate is NaN if the file states none.
        times: of each channel; None if there are none.
        reading: what was asked for; its `time` "none" takes samples as even.
        notes: gets what a user should know.

    Returns:
        The start by ISO 8601; "" if it is not known.

    Raises:
        ValueError: the times cannot be understood, and the rate is not known otherwise.
    """
    start, begins = "", []
    if reading.time == "none":
        return start
    for beside in {id(one.values): one for one in times if one is not None}.values():
        those = [c for c, one in zip(channels, times, strict=True) if one is not None and one.values is beside.values]
        known = [channel.fs for channel in those if not np.isnan(channel.fs)]
        if reading.fs is None and not known and (rate := _plain_rate(beside)):
            for channel in those:
                channel.fs = rate
            begins.append((float(beside.values.flat[0]), those))
            continue
        try:
            column = TimeColumn([beside.name], reading.day_first)
            column.add(np.ravel(beside.values))
            found = column.finish(reading.fs)
            placed = place(found.seconds, [np.asarray(channel.values)[0] for channel in those], reading.fs)
        except ValueError as error:
            if len(known) < len(those) and reading.fs is None:
                raise ValueError(f"{error}; --fs HZ takes the samples as even") from None
            notes.append(f"{those[0].name}: samples are taken as even, the times beside it are not used ({error})")
            continue
        if reading.fs is None and any(abs(placed.fs - fs) > _SAME * fs for fs in known):
            stated = f"the file states {known[0]:g} Hz, and the times beside it give {placed.fs:g} Hz"
            notes.append(f"{those[0].name}: {stated}: the times are not used")
            continue
        for channel, values in zip(those, placed.values, strict=True):
            channel.values = values if isinstance(values, Stretches) else values[None]
            channel.fs = placed.fs if reading.fs is not None or np.isnan(channel.fs) else channel.fs
        start = start or found.start
        notes += [*found.notes, *placed.notes]
        begins.append((_first(beside.values, found.seconds) + placed.first, those))
    _align(begins, notes)
    return start


def _plain_rate(beside: Beside) -> float | None:
    """The rate in Hz of even times in seconds from about 0 on, which need no guesses; None for other times."""
    values = np.ravel(beside.values)
    if beside.name != "time" or values.dtype.kind != "f" or not abs(values[0]) < _RELATIVE:
        return None
    rate = rate_of_times(values, "")[0]
    return rate if _PLAUSIBLE[0] <= rate <= _PLAUSIBLE[1] else None


def rate_of_times(times: np.ndarray, name: str) -> tuple[float, list[str]]:
    """The rate in Hz of samples at `times` [samples] in s, and a note if they are too uneven to tell: then it is NaN.

    The rate is rounded to a whole number if that moves the last sample by less than one.
    """
    span = float(times[-1] - times[0])
    if not (np.isfinite(times).all() and span > 0):
        return np.nan, [f"{name}: the times beside it do not rise, its samples are taken as even"]
    fs = (len(times) - 1) / span
    off = np.arange(len(times)) / fs
    off -= times
    if max(off.max() + times[0], -off.min() - times[0]) * fs > _ROUNDED:
        uneven = f"the times beside it are uneven (steps up to {float(np.diff(times).max()):g} s)"
        return np.nan, [f"{name}: {uneven}, its samples are taken as even"]
    return (float(round(fs)) if abs(fs - round(fs)) * span < 1 else fs), []


def _first(values: np.ndarray, seconds: np.ndarray) -> float:
    """The first of the times `values` [samples] in seconds, of which `seconds` [samples] are relative."""
    raw = np.ravel(values)
    raw = raw.astype(np.int64) if raw.dtype.kind in "Mm" else raw
    return float(raw[0]) * float(seconds[-1] - seconds[0]) / float(raw[-1] - raw[0]) if raw[-1] != raw[0] else 0.0


def _align(begins: list[tuple[float, list[Channel]]], notes: list[str]) -> None:
    """Put missing samples before the channels that begin later than others: (first time in seconds, channels) each."""
    earliest = min((first for first, _ in begins), default=0.0)
    for first, channels in begins:
        for channel in channels:
            late = round((first - earliest) * channel.fs)
            if not 0 < late <= _LATEST * channel.fs:
                continue
            if isinstance(channel.values, Stretches):
                whole = channel.values
                channel.values = Stretches((whole.firsts + late).tolist(), whole.stretches, whole.size + late)
            else:
                channel.values = np.concatenate([np.full((1, late), np.nan), np.asarray(channel.values)], 1)
            notes.append(f"{channel.name} begins {first - earliest:.3f} s after the other channel, by its times")
