"""Makes the part of one recording: it is read, cut into windows, cleaned and judged."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np

from xmae_fast._files import atomic_path
from xmae_fast.preparation.parts import COLUMNS
from xmae_fast.preparation.recipe import apply_recipe
from xmae_fast.preparation.settings import Settings
from xmae_fast.preparation.windows import Windows, cut
from xmae_fast.recordings.pairs import read_source
from xmae_fast.recordings.recording import RecordingError
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
    before = _mark(source)
    recording = read_source(source, settings.reading)
    if _mark(source) != before:
        raise RecordingError(f"{source.path}: expected a recording at rest, it changed while it was read")
    assert recording.ppg is not None
    assert recording.ecg is not None
    rates = {"ppg_fs": recording.ppg.fs, "ecg_fs": recording.ecg.fs}
    try:
        windows = cut(recording, settings.window_s, settings.hop_s)
        total = len(windows.starts)
        pieces = []
        for start in range(0, total, _WINDOWS):
            rows = slice(start, start + _WINDOWS)
            made = apply_recipe(
                *windows.signals(rows), **rates, seq_len=settings.seq_len, recipe=settings.recipe,
                max_missing=settings.max_missing,
            )  # fmt: skip
            pieces.append(made)
            tell(min(start + _WINDOWS, total), total)
        subjects = _subjects(source, settings, windows.subjects)
    except ValueError as error:
        raise RecordingError(f"{source.path}: {source.form.name}: {error}") from error
    ppg, ecg, *quality, reason = map(np.concatenate, zip(*pieces, strict=True))
    for name, values, threshold in zip(("ppg", "ecg"), quality, settings.quality, strict=True):
        reason[(values < threshold) & (reason == "")] = f"{name} quality"
    columns = dict(zip(COLUMNS, (subjects, windows.starts, *_ids(windows), *quality), strict=True))
    columns = {name: np.asarray(values) for name, values in columns.items()}
    good = reason == ""
    about = {
        "identity": identity,
        "source": source.name,
        "format": recording.form,
        "ppg": recording.ppg.name,
        "ecg": recording.ecg.name,
        **rates,
        "start": recording.start,
        "windows": total,
        "notes": recording.notes,
    }
    arrays: dict[str, Any] = {
        "ppg": ppg[good],
        "ecg": ecg[good],
        "about": np.array(json.dumps(about)),
        "reason": reason[~good],
    }
    arrays |= {f"kept_{name}": values[good] for name, values in columns.items()}
    arrays |= {f"rejected_{name}": values[~good] for name, values in columns.items()}
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, **arrays)


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
    return re.sub(r"\s+", "-", re.sub(r"[/\x00]|\+\+\+", "-", name.strip()))


def _ids(windows: Windows) -> tuple[list[str], ...]:
    """SegmentID, WinID and WinSeqID of each window, [K] each."""
    return tuple([_plain(v) for v in ids] for ids in (windows.segment_ids, windows.win_ids, windows.win_seq_ids))
