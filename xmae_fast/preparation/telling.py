"""What `prepare` tells of a recording: how its signals look, and whether they were turned round."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress

import numpy as np

from xmae_fast.data.formats.linked import content_probe
from xmae_fast.preparation.windows import Windows
from xmae_fast.recordings.findings import Measures, cleaned, is_upside_down, measure, orientation, problems
from xmae_fast.recordings.recording import Channel
from xmae_fast.recordings.saying import alike, without_path
from xmae_fast.recordings.sources import Source
from xmae_fast.signals.clean import fill_missing

_FEW, _MANY, _SHARE = 6, 32, 8  # windows that are looked at: one in 8, within these limits
_DECIDE = 64  # windows that decide whether a signal is turned round
_LISTED = 2  # recordings that are named of those with the same sentence


def turn_round(windows: Windows, words: Mapping[str, str]) -> dict[str, str]:
    """Turn channels that are upside down round.

    Args:
        windows: of the recording; the values of its channels are replaced.
        words: by "PPG" and "ECG", "keep", "auto" or "flip", in the order of `windows.channels`.

    Returns:
        By kind, why a channel was turned round: "auto" or "flip".
    """
    turned = {}
    for k, (channel, (kind, word)) in enumerate(zip(windows.channels, words.items(), strict=True)):
        if word == "flip" or (word == "auto" and _is_down(kind, channel, _raw(windows, k, _DECIDE))):
            turned[kind] = word
            channel.turn_round()
    return turned


def look(
    windows: Windows,
    kinds: Sequence[str],
    made: Mapping[str, np.ndarray],
    quality: Mapping[str, np.ndarray],
    good: np.ndarray,
    sampling_freq: float,
) -> list[str]:
    """What looks wrong with a recording.

    Args:
        windows: the K windows of the recording.
        kinds: of its channels, "PPG" and "ECG".
        made: by kind, [K, L], the segments that were made of the windows.
        quality: by kind, [K].
        good: [K] bool, the windows that became segments.
        sampling_freq: of the segments, in Hz.

    Returns:
        A sentence for each problem.
    """
    rows = np.flatnonzero(good)
    cleaned_too = 2 * len(rows) >= len(good)  # else most windows became none, and all are looked at as recorded
    rows = rows if cleaned_too else np.arange(len(good))
    rows = _spread(rows, min(_MANY, max(_FEW, len(rows) // _SHARE)))
    measured: dict[str, Measures] = {}
    for k, (kind, channel) in enumerate(zip(kinds, windows.channels, strict=True)):
        raw = channel.cut(windows.piece[rows], windows.first[k][rows], windows.size[k])
        segments = made[kind][rows] if cleaned_too else None
        measured[kind] = measure(kind, raw, channel.fs, segments, sampling_freq, quality[kind][rows])
    return problems(measured)


def of_rejected(reason: np.ndarray) -> list[str]:
    """A sentence if all or most windows of a recording were rejected; `reason` [K] is "" for the others."""
    counts = Counter(reason[reason != ""].tolist())
    count, total = sum(counts.values()), len(reason)
    if 2 * count <= total:
        return []
    told = ", ".join(f"{number} {text}" for text, number in counts.most_common())
    return [f"{'all' if count == total else f'{count} of'} {total} windows were rejected: {told}"]


def of_polarity(turned: Mapping[str, str]) -> list[str]:
    """A sentence for each channel that was turned round."""
    why = {"auto": "it was upside down", "flip": "as --polarity asks"}
    return [f"the {kind} was turned round, {why[word]}" for kind, word in turned.items()]


def of_doubles(sources: Sequence[Source]) -> dict[str, list[str]]:
    """Sentences, by name, about recordings of which another one seems to be a copy: their files have the same content,
    or the same name in another format."""
    stems, sizes, contents = defaultdict(list), defaultdict(list), defaultdict(list)
    for source in sources:
        stems[source.stem].append(source)
        if source.suffix != ".hea":  # the signals of equal headers may differ
            with suppress(OSError):
                sizes[os.path.getsize(source.path)].append(source)
    for size, those in sizes.items():
        for source in those if len(those) > 1 else ():
            with suppress(OSError):
                contents[size, content_probe(source.path, size)].append(source)
    found: dict[str, list[str]] = defaultdict(list)
    for what, groups in (
        ("another file has the same content", contents), ("another file has the same name in another format", stems)
    ):  # fmt: skip
        for those in groups.values():
            for source in those if len(those) > 1 else ():
                found[source.name].append(f"{what}, so that one recording may be there twice")
    return found


def grouped(sentences: Iterable[tuple[str, str]]) -> list[str]:
    """Lines for sentences about recordings; those that differ only in the recording and in numbers become one.

    Args:
        sentences: (the recording's name, a sentence).

    Returns:
        The sentence alone where it is of one recording and names it, else "2 recordings: sentence: a.csv, b.csv".
    """
    lines = []
    for members in alike(sentences):
        name, sentence = members[0]
        if len(members) == 1:
            lines.append(sentence if name in sentence else f"{name}: {sentence}")
            continue
        names = list(dict.fromkeys(name for name, _ in members))
        more = f" and {len(names) - _LISTED:,} more (records.csv)" if len(names) > _LISTED else ""
        told = ", ".join(names[:_LISTED]) + more
        lines.append(f"{len(names):,} recordings: {without_path(name, sentence)}: {told}")
    return lines


def _raw(windows: Windows, k: int, count: int) -> np.ndarray:
    """Up to `count` windows of channel k, spread over the recording."""
    rows = _spread(np.arange(len(windows.starts)), count)
    return windows.channels[k].cut(windows.piece[rows], windows.first[k][rows], windows.size[k])


def _spread(rows: np.ndarray, count: int) -> np.ndarray:
    """Up to `count` of `rows`, evenly spread."""
    if len(rows) <= count:
        return rows
    return rows[np.linspace(0, len(rows) - 1, count).astype(np.int64)]


def _is_down(kind: str, channel: Channel, raw: np.ndarray) -> bool:
    raw, missing = fill_missing(np.ascontiguousarray(raw, np.float64))
    raw = raw[(missing < 0.5) & (np.ptp(raw, axis=1) > 0)]
    return is_upside_down(kind, orientation(kind, cleaned(kind, raw, channel.fs)))
