"""Recordings whose PPG and ECG are in two files: which files belong together, and how they are put on one time line."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Sequence
from datetime import datetime, timedelta

from xmae_fast.recordings.reading import Reading
from xmae_fast.recordings.recording import Channel, Recording, RecordingError
from xmae_fast.recordings.sources import KIND_WORDS, Source, read_recording
from xmae_fast.recordings.stretches import Stretches


def pair_sources(sources: Sequence[Source]) -> list[Source]:
    """Make one recording of each two files of one folder whose names are equal without the words of the signals.

    The words are those of KIND_WORDS; separators, case and suffixes do not count. A file whose name has no such word,
    or words of both signals, stays a recording of its own.

    Returns:
        The recordings, sorted by name. A file without a partner, or with several, has a `problem`.
    """
    groups: dict[tuple[str, str], dict[str, list[Source]]] = {}
    paired: list[Source] = []
    for source in sources:
        stem = os.path.basename(source.stem).lower()
        kinds = [kind for kind, words in KIND_WORDS.items() if re.search(words, stem)]
        if len(kinds) != 1:
            paired.append(source)
            continue
        rest = re.sub(r"[\W_]+", "", re.sub("|".join(KIND_WORDS.values()), "", stem))
        group = groups.setdefault((os.path.dirname(source.path), rest), {kind: [] for kind in KIND_WORDS})
        group[kinds[0]].append(source)
    for group in groups.values():
        members = [*group["PPG"], *group["ECG"]]
        if len(group["PPG"]) == len(group["ECG"]) == 1:
            ppg, ecg = members
            paired.append(ppg._replace(ecg=ecg.path))
            continue
        listed = ", ".join(os.path.basename(source.path) for source in members) if len(members) > 1 else "no other"
        problem = f"expected a file of PPG and one of ECG whose names are equal otherwise, found {listed}"
        paired += [source._replace(problem=problem) for source in members]
    return sorted(paired, key=lambda source: source.name)


def read_source(source: Source, reading: Reading) -> Recording:
    """Read a recording from its file, or from its two files.

    Raises:
        RecordingError, FileNotFoundError, ImportError: as `read_recording`; or the two files do not belong together.
    """
    if not source.ecg:
        try:
            return read_recording(source.path, reading)
        except RecordingError as error:
            if source.problem:
                raise RecordingError(f"{source.path}: {source.problem}") from error
            raise
    ppg = read_recording(source.path, reading._replace(signals="ppg"))
    ecg = read_recording(source.ecg, reading._replace(signals="ecg"))
    try:
        return _joined(ppg, ecg, os.path.basename(source.ecg))
    except ValueError as error:
        raise RecordingError(f"{source.path}: {error}") from None


def _joined(one: Recording, other: Recording, name: str) -> Recording:
    """The PPG of one recording and the ECG of the other, from the later start on; `name` is that of the other."""
    ppg, ecg = one.ppg, other.ecg
    assert ppg is not None
    assert ecg is not None
    if len(ppg.values) > 1 or len(ecg.values) > 1:
        raise ValueError(f"expected one continuous signal in each file of a pair, got {len(ppg.values)} pieces of PPG"
                         f" and {len(ecg.values)} of ECG")  # fmt: skip
    whose = {subject for recording in (one, other) for subject in recording.subjects if subject}
    if len(whose) > 1:
        raise ValueError(f"expected one subject in both files of a pair, found {' and '.join(sorted(whose))}")
    offset, said = _offset(one.start, other.start)
    start, notes = one.start, [f"the ECG is that of {name}"]
    if offset is None:
        notes.append(f"{said}: PPG and ECG are taken to start together")
        start = one.start or other.start
    else:
        ppg, ecg, later, left = _from_one_time(ppg, ecg, offset)
        start = (datetime.fromisoformat(one.start) + timedelta(seconds=later)).isoformat()
        notes.append(f"the ECG starts {offset:g} s after the PPG; the recording begins with the later one, and"
                     f" {abs(left) * 1e3:.3g} ms of that remain")  # fmt: skip
    form = one.form if one.form == other.form else f"{one.form} and {other.form}"
    return Recording(
        ppg, ecg, subjects=[*whose][:1], start=start, notes=[*one.notes, *other.notes, *notes], form=form
    )  # fmt: skip


def _offset(ppg: str, ecg: str) -> tuple[float | None, str]:
    """Seconds from the start of the PPG to that of the ECG, both by ISO 8601; None, and why, if that is not known."""
    if not (ppg and ecg):
        which = {(True, False): "the file of the ECG states", (False, True): "the file of the PPG states"}
        return None, f"{which.get((bool(ppg), bool(ecg)), 'the files state')} no date and time"
    begins = [datetime.fromisoformat(text) for text in (ppg, ecg)]
    if (begins[0].tzinfo is None) != (begins[1].tzinfo is None):
        return None, "one of the files states its time zone and the other does not"
    return (begins[1] - begins[0]).total_seconds(), ""


def _from_one_time(ppg: Channel, ecg: Channel, offset: float) -> tuple[Channel, Channel, float, float]:
    """Both channels from the later start on.

    The channel of the lower rate begins with its first sample at or after the later start, and the other with the
    sample nearest to that one, so that half a sample of the higher rate is the most that remains.

    Args:
        ppg, ecg: the channels.
        offset: seconds from the start of the PPG to that of the ECG.

    Returns:
        The channels; seconds from the start of the PPG to the new start; and by how many seconds the ECG begins after
        the PPG.

    Raises:
        ValueError: they do not overlap.
    """
    begins = {"ppg": 0.0, "ecg": offset}
    channels = {"ppg": ppg, "ecg": ecg}
    ends = {kind: begins[kind] + channel.values.shape[1] / channel.fs for kind, channel in channels.items()}
    later = max(begins.values())
    if later >= min(ends.values()):
        gap = later - min(ends.values())
        raise ValueError(f"expected PPG and ECG of the same time, one ends {gap:g} s before the other begins")
    slow, fast = sorted(channels, key=lambda kind: channels[kind].fs)
    skipped = {slow: math.ceil((later - begins[slow]) * channels[slow].fs - 1e-6)}
    first = begins[slow] + skipped[slow] / channels[slow].fs
    skipped[fast] = max(round((first - begins[fast]) * channels[fast].fs), 0)
    new = {kind: begins[kind] + skipped[kind] / channels[kind].fs for kind in channels}
    cut = {kind: _without(channels[kind], count) for kind, count in skipped.items()}
    return cut["ppg"], cut["ecg"], new["ppg"], new["ecg"] - new["ppg"]


def _without(channel: Channel, count: int) -> Channel:
    """A channel without its first `count` samples."""
    values = channel.values
    if not isinstance(values, Stretches):
        return Channel(channel.name, values[0][None, count:], channel.fs)
    firsts, stretches = [], []
    for first, stretch in zip(values.firsts.tolist(), values.stretches, strict=True):
        if first + len(stretch) > count:
            firsts.append(max(first - count, 0))
            stretches.append(stretch[max(count - first, 0) :])
    return Channel(channel.name, Stretches(firsts, stretches, values.size - count), channel.fs)
