"""Chooses between several channels that can be meant: the better one by quality."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence

import numpy as np

from xmae_fast.recordings.channels import candidates
from xmae_fast.recordings.reading import Reading
from xmae_fast.recordings.recording import Channel, Content, Recording
from xmae_fast.recordings.sentinels import mark_missing
from xmae_fast.signals.beats import BEATS, template_quality
from xmae_fast.signals.clean import CLEAN, fill_missing

_NOISE = 0.6  # noise reaches a median quality of about 0.5
_LISTED = 8  # channels that a note names


def read_channels(content: Content, reading: Reading) -> Recording:
    """Choose and read the channels that `reading` asks for.

    Raises:
        ValueError: a channel is not there; the message lists the names.
    """
    found = {}
    for kind in reading.kinds:
        wanted = reading.wanted(kind)
        usual = content.usual.get(kind, [])[:1] or content.alike.get(kind) if wanted is None else None
        found[kind] = usual if usual else candidates(content.names, kind, wanted)
    belong = _belonging(content.names, found)
    if belong:
        found = {kind: [i for i in those if any(i in pair for pair in belong)] for kind, those in found.items()}
    numbers = list(dict.fromkeys(i for those in found.values() for i in those))
    loaded = content.load(numbers)
    by_number = dict(zip(numbers, loaded.channels, strict=True))
    missing = {number: mark_missing(channel) for number, channel in by_number.items()}
    for number in set(numbers) & set(content.light):
        by_number[number].turn_round()
    notes, chosen = [*content.notes, *loaded.notes], {}
    for kind, those in found.items():
        those = [i for i in those if not belong or any(i in pair for pair in belong)]
        number, is_good = best(kind, {i: by_number[i] for i in those}, reading.fs)
        belong = [pair for pair in belong if number in pair]
        chosen[kind] = by_number[number]
        if len(those) > 1:
            names = ", ".join(f"{by_number[i].name!r} ({i})" for i in those[:_LISTED])
            names += f" and {len(those) - _LISTED} others" if len(those) > _LISTED else ""
            why = "which has the best quality" if is_good else "the first, as none has a good quality"
            notes.append(
                f"{len(those)} channels can be the {kind}, {names}: number {number} is taken, {why};"
                f" --{kind.lower()} NUMBER takes another"
            )
        notes += missing.pop(number, [])
        if number in content.light:
            notes.append(f"{by_number[number].name}: it is the light that comes back, so it is turned round")
    notes += set_rates(chosen, reading.fs)
    return Recording(
        chosen.get("PPG"), chosen.get("ECG"), subjects=loaded.subjects, ids=loaded.ids, starts=loaded.starts,
        start=loaded.start, notes=notes, form=content.form,
    )  # fmt: skip


def _belonging(names: Sequence[str], found: dict[str, list[int]]) -> list[tuple[int, int]]:
    """Which PPG can go with which ECG: those of one group, so that two persons or windows are never mixed.

    Names such as "p1/ppg" and "p1/ecg" share a group, and "ppg[3]" and "ecg[3]" a number.

    Args:
        names: of all channels.
        found: the numbers of the channels that can be each kind.

    Returns:
        Numbers of a PPG and an ECG whose names share the most; empty if the names tell no difference.
    """
    if len(found) < 2 or max(map(len, found.values())) == 1:
        return []
    parts = {i: names[i].split("/")[:-1] for those in found.values() for i in those}
    ends = {i: re.search(r"\[\d+\]$", names[i]) for i in parts}
    shared = {}
    for ppg in found["PPG"]:
        for ecg in found["ECG"]:
            above = sum(itertools.accumulate(map(str.__eq__, parts[ppg], parts[ecg]), bool.__and__))
            one, other = ends[ppg], ends[ecg]
            shared[ppg, ecg] = above + (one is not None and other is not None and one.group() == other.group())
    most = max(shared.values())
    return [pair for pair, count in shared.items() if count == most] if most > min(shared.values()) else []


def set_rates(channels: dict[str, Channel], fs: float | None) -> list[str]:
    """Give channels the rate `fs`, which goes before that of the file.

    Args:
        channels: by their kinds; the rate of one that the file states none for is NaN.
        fs: in Hz; None keeps the rates of the file.

    Returns:
        Notes on what was changed.

    Raises:
        ValueError: a rate is not known, or the file has two and `fs` is none of them.
    """
    unknown = [channel for channel in channels.values() if np.isnan(channel.fs)]
    if fs is None:
        if unknown:
            raise ValueError("expected the sampling rate, which the file does not state: --fs HZ says it")
        return []
    stated = {kind: channel.fs for kind, channel in channels.items() if not np.isnan(channel.fs)}
    told = " and ".join(f"{rate:g} Hz for the {kind}" for kind, rate in stated.items())
    if len(set(stated.values())) > 1:
        if fs not in stated.values():
            raise ValueError(f"expected one rate that --fs {fs:g} can correct, the file states {told}")
        return [f"--fs {fs:g} is one of the rates that the file states, {told}: these are kept"]
    for channel in channels.values():
        channel.fs = fs
    return [f"--fs {fs:g} is taken, the file states {told}"] if stated and fs not in stated.values() else []


def best(kind: str, channels: dict[int, Channel], fs: float | None = None) -> tuple[int, bool]:
    """Choose the channel with the best median quality over some of its windows, and the first of equals.

    Args:
        kind: "PPG" or "ECG".
        channels: by their numbers.
        fs: in Hz; goes before the rates of the channels.

    Returns:
        The number of the channel, and whether its quality is above that of noise. If none is, the first is taken.
    """
    if len(channels) == 1:
        return next(iter(channels)), True
    quality = {number: max(quality_of(kind, channel, fs), _NOISE) for number, channel in channels.items()}
    number = max(quality, key=lambda number: (quality[number], -number))
    return number, quality[number] > _NOISE


def quality_of(kind: str, channel: Channel, fs: float | None = None) -> float:
    """The median template quality of up to 32 windows of 10 s, spread over the channel; -1 where there is none, or no
    rate is known. `fs` in Hz goes before the rate of the channel."""
    fs = channel.fs if fs is None else fs
    if np.isnan(fs):
        return -1.0
    size = min(round(10 * fs), channel.values.shape[1])
    piece, first = channel.spread(size, 32)
    windows, missing = fill_missing(np.ascontiguousarray(channel.cut(piece, first, size), np.float64))
    windows = windows[(missing < 0.5) & (np.ptp(windows, axis=1) > 0)]
    if not len(windows) or size < 4 * fs or fs <= 16:
        return -1.0
    clean = CLEAN[kind](windows, fs)
    quality = np.nan_to_num(template_quality(clean, BEATS[kind](clean, fs), fs)[0], nan=-1.0)
    return float(np.median(quality))
