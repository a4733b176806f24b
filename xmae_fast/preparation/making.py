"""Makes the part of one recording: it is read, cut into windows, cleaned and judged."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np

from xmae_fast._files import atomic_path
from xmae_fast.preparation.again import AGAIN, is_locked, may_pass
from xmae_fast.preparation.common_times import Spacing, largest_shift_ms
from xmae_fast.preparation.parts import COLUMNS
from xmae_fast.preparation.recipe import apply_recipe
from xmae_fast.preparation.settings import LOW_ECG_RATE, Settings
from xmae_fast.preparation.telling import look, of_polarity, of_rejected, turn_round
from xmae_fast.preparation.windows import Windows, cut
from xmae_fast.recordings.pairs import read_source
from xmae_fast.recordings.recording import RecordingError
from xmae_fast.recordings.saying import printable
from xmae_fast.recordings.sources import Source, fingerprint
from xmae_fast.recordings.subjects import subject_from_path
from xmae_fast.workers.progress import StageProgress

_WINDOWS = 1024  # windows between two calls of `tell`


def make_part(
    source: Source, settings: Settings, identity: str, path: Path, tell: StageProgress = lambda *_: None
) -> None:
    """Read one recording, cut it into windows, clean and judge these, and write the part.

    Args:
        source: the recording.
        settings: what `prepare` was asked for.
        identity: is stored in the part, see `load_part`.
        path: the part, which appears whole or not at all.
        tell: is called with (windows that are done, windows in all).

    Raises:
        RecordingError: the recording cannot become segments.
        OSError, ImportError: the part cannot be written, or a package is missing.
    """
    try:
        content = _made(source, settings, tell)
    except RecordingError as error:
        if not may_pass(error):
            raise
        what = f"{source.path}: another process has locked it" if is_locked(error) else str(error)
        raise RecordingError(f"{what}; {AGAIN}") from error
    except MemoryError as error:
        detail = f" ({error})" if str(error) else ""
        what = f"{source.path}: {source.form.name}: expected enough memory to prepare it{detail}"
        raise RecordingError(f"{what}; {AGAIN}") from error
    arrays, about = content
    arrays["about"] = np.array(json.dumps({"identity": identity, "source": printable(source.name)} | about))
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, **arrays)


def _made(source: Source, settings: Settings, tell: StageProgress) -> tuple[dict[str, Any], dict[str, Any]]:
    """The arrays of the part of a recording, and what is known about it."""
    before = _mark(source)
    recording = read_source(source, settings.reading)
    if _mark(source) != before:
        what = f"{source.path}: expected a recording at rest, it changed while it was read"
        raise RecordingError(f"{what}; {AGAIN}")
    assert recording.ppg is not None
    ecg = recording.ecg
    rates = {"ppg_fs": recording.ppg.fs, "ecg_fs": None if ecg is None else ecg.fs}
    try:
        windows = cut(recording, settings.window_s, settings.hop_s)
        turned = turn_round(windows, dict(zip(settings.reading.kinds, settings.polarity, strict=False)))
        total = len(windows.starts)
        pieces = []
        for start in range(0, total, _WINDOWS):
            rows = slice(start, start + _WINDOWS)
            made = apply_recipe(
                *windows.signals(rows), **rates, seq_len=settings.seq_len, recipe=settings.recipe,
                max_missing=settings.max_missing, ecg_delay_s=windows.ecg_delay_s[rows],
            )  # fmt: skip
            pieces.append(made)
            tell(min(start + _WINDOWS, total), total)
        subjects = _subjects(source, settings, windows.subjects)
    except ValueError as error:
        raise RecordingError(f"{source.path}: {source.form.name}: {error}") from error
    recording.notes += _rate_notes(windows, settings)
    ppg_segments, ecg_segments, *quality, reason = map(np.concatenate, zip(*pieces, strict=True))
    found = look(
        windows, settings.reading.kinds, {"PPG": ppg_segments, "ECG": ecg_segments},
        dict(zip(("PPG", "ECG"), quality, strict=True)), reason == "", settings.sampling_freq,
    )  # fmt: skip
    for name, values, threshold in zip(("ppg", "ecg"), quality, settings.quality, strict=True):
        reason[(values < threshold) & (reason == "")] = f"{name} quality"
    columns = dict(zip(COLUMNS, (subjects, windows.starts, *_ids(windows), *quality), strict=True))
    columns = {name: np.asarray(values) for name, values in columns.items()}
    good = reason == ""
    about = {
        "format": recording.form,
        "ppg": recording.ppg.name,
        "ecg": "" if ecg is None else ecg.name,
        **rates,
        "start": recording.start,
        "windows": total,
        "polarity": f"{' and '.join(turned)} turned round" if turned else "kept",
        "notes": [*recording.notes, *of_polarity(turned), *of_rejected(reason), *found],
    }
    arrays: dict[str, Any] = {
        "ppg": ppg_segments[good],
        "ecg": ecg_segments[good],
        "reason": reason[~good],
    }
    arrays |= {f"kept_{name}": values[good] for name, values in columns.items()}
    arrays |= {f"rejected_{name}": values[~good] for name, values in columns.items()}
    return arrays, about


def _rate_notes(windows: Windows, settings: Settings) -> list[str]:
    """What a user should know of the rates of the channels."""
    notes = []
    if len({channel.fs for channel in windows.channels}) > 1 and settings.recipe == "neurokit2":
        ppg, ecg = (Spacing(channel.fs, size) for channel, size in zip(windows.channels, windows.size, strict=True))
        notes.append(
            f"PPG at {ppg.fs:g} Hz and ECG at {ecg.fs:g} Hz: the recipe neurokit2 shifts them against each other by up"
            f" to {largest_shift_ms(ppg, ecg):.0f} ms within a window; the recipe batched does not"
        )
    if len(windows.channels) > 1 and windows.channels[1].fs < LOW_ECG_RATE:
        notes.append(
            f"ECG at {windows.channels[1].fs:g} Hz: below {LOW_ECG_RATE:g} Hz samples miss R peaks, so that many"
            " windows are rejected for too few beats; --signals ppg takes the PPG alone"
        )
    return notes


def _mark(source: Source) -> str:
    """The `fingerprint` of a recording; RecordingError if its files cannot be read."""
    try:
        return fingerprint(source)
    except OSError as error:
        raise RecordingError(f"{source.path}: {source.form.name}: {error}") from error


def _subjects(source: Source, settings: Settings, own: list[str]) -> np.ndarray:
    """The names `<dataset>_<subject>` of the groups of K windows, [K]. Names in the file go before those of the path.

    Args:
        source: the recording.
        settings: what `prepare` was asked for.
        own: [K], the subjects that the file names; "" where it names none.
    """
    fallback = ""
    if settings.subject != "name" or not all(own):
        fallback = subject_from_path(source, settings.subject)
    names = own if settings.subject == "name" else [fallback] * len(own)
    return np.array([f"{settings.dataset}_{_plain(name or fallback)}" for name in names])


def _plain(name: str) -> str:
    """A name without the characters that names in a shard must not have."""
    return re.sub(r"\s+", "-", re.sub(r"[/\x00]|\+\+\+", "-", printable(name.strip())))


def _ids(windows: Windows) -> tuple[list[str], ...]:
    """SegmentID, WinID and WinSeqID of each window, [K] each."""
    return tuple([_plain(v) for v in ids] for ids in (windows.segment_ids, windows.win_ids, windows.win_seq_ids))
