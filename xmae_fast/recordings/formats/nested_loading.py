"""Makes channels of the signals among nested variables."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np

from xmae_fast.recordings.formats.array_times import Beside, place_channels
from xmae_fast.recordings.formats.mat_pulsedb import IDS
from xmae_fast.recordings.formats.nested import Text, key_of, text_of, values_of
from xmae_fast.recordings.formats.nested_facts import SUBJECTS, rate_of, starts_of, subjects_of, times_of
from xmae_fast.recordings.formats.nested_signals import LEAST, Found, Signal, reader
from xmae_fast.recordings.pieces import Pieces
from xmae_fast.recordings.reading import Reading
from xmae_fast.recordings.recording import Channel, Content, Loaded


def content_of(
    found: Found,
    opened: Callable[[], AbstractContextManager],
    reading: Reading,
    *,
    fallback: float = np.nan,
    form: str = "",
    usual: dict[str, list[int]] | None = None,
) -> Content:
    """What a file offers.

    Args:
        found: its signals.
        opened: opens the file for reading them.
        reading: what is asked for.
        fallback: the rate in Hz of signals for which the file states none.
        form: the name of the format.
        usual: as that of `Content`.

    Raises:
        ValueError: there are no signals; the message says what there is.
    """
    if not found.signals:
        listed = ", ".join(found.held[:10]) or "nothing"
        more = f" and {len(found.held) - 10} more" if len(found.held) > 10 else ""
        raise ValueError(f"expected a signal, numbers of at least {LEAST} samples, found {listed}{more}")

    def load(numbers: Sequence[int]) -> Loaded:
        chosen = [found.signals[i] for i in numbers]
        notes: list[str] = []
        with opened() as file:
            channels = [_channel(signal, file, notes) for signal in chosen]
            first, pieces = chosen[0], len(channels[0].values)
            known: dict[tuple[int, str], Beside] = {}
            times = [
                times_of(signal, channel.values.shape[1], file, known) if len(channel.values) == 1 else None
                for signal, channel in zip(chosen, channels, strict=True)
            ]
            start = place_channels(channels, times, reading, notes)
            for channel in channels:
                if np.isnan(channel.fs) and not np.isnan(fallback):
                    channel.fs = fallback
                    notes.append(f"the file states no rate, {fallback:g} Hz is taken as in {form}")
            subjects = _subjects(first, pieces, file)
            ids = _ids(first, pieces, file)
            starts = starts_of(first, file) if len(first.pieces) == pieces > 1 else None
        if starts is None and pieces > 1:
            starts = np.full(pieces, np.nan)
        said = list(dict.fromkeys(notes))
        return Loaded(channels, subjects=subjects, ids=ids, starts=starts, start=start, notes=said)

    return Content([signal.name for signal in found.signals], load, form=form, usual=usual or {}, notes=found.notes)


def _channel(signal: Signal, file: Any, notes: list[str]) -> Channel:
    pieces = reader(signal)(file)
    fs, said = rate_of(signal, len(pieces[0]), file)
    notes += said
    if len(pieces) > 1 and not signal.windows:
        notes.append(f"{signal.name}: its {len(pieces)} elements are taken as pieces, each a recording of its own")
    if signal.windows:
        notes.append(f"{signal.name}: the matrix is taken as {len(pieces)} windows of {len(pieces[0])} samples")
    if len(pieces) == 1:
        return Channel(signal.name, np.asarray(pieces[0], np.float64)[None], fs)
    if len({len(piece) for piece in pieces}) == 1:
        return Channel(signal.name, np.stack(pieces).astype(np.float64), fs)
    return Channel(signal.name, Pieces([np.asarray(piece, np.float64) for piece in pieces]), fs)


def _subjects(signal: Signal, pieces: int, file: Any) -> list[str]:
    """The subject of each piece: beside it, one for all, or one for each in a list beside the signal; [] without."""
    found = subjects_of(signal, file)
    if len(found) == pieces and any(found):
        return found
    if found:
        return found[:1] * pieces
    for struct in reversed(signal.scopes[0]):
        for name, node in struct.fields.items():
            if key_of(name) not in SUBJECTS:
                continue
            if isinstance(node, Text) and len(node.rows) == pieces:
                return [row.strip() for row in node.rows]
            if len(values := values_of(node, file)) == pieces and np.isfinite(values).all():
                return [str(int(value)) if value.is_integer() else str(value) for value in values.tolist()]
    return []


def _ids(signal: Signal, pieces: int, file: Any) -> list[tuple[str, str, str]]:
    """SegmentID, WinID and WinSeqID of each piece: as the file says, or counted from 1; [] for a single piece."""
    counted = [("1", str(i + 1), str(i + 1)) for i in range(pieces)]
    if pieces == 1:
        return []
    if len(signal.scopes) != pieces:
        return counted
    ids = []
    for scope, own in zip(signal.scopes, counted, strict=True):
        texts = [text_of(scope[-1].fields.get(name), file) if scope else "" for name in IDS]
        ids.append((texts[0] or own[0], texts[1] or own[1], texts[2] or own[2]))
    return ids
