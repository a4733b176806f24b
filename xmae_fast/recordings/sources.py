"""Finds recordings in files, folders and by patterns, and reads them; each recording has a name of its own."""

from __future__ import annotations

import glob
import hashlib
import json
import logging
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from xmae_fast.recordings.choosing import read_channels
from xmae_fast.recordings.formats.devices import is_aside
from xmae_fast.recordings.formats.edf import open_edf
from xmae_fast.recordings.formats.hdf5 import SUFFIXES as HDF5
from xmae_fast.recordings.formats.hdf5 import is_recording, open_hdf5
from xmae_fast.recordings.formats.mat import open_mat
from xmae_fast.recordings.formats.numpy import open_npy, open_npz
from xmae_fast.recordings.formats.table import is_table, open_table
from xmae_fast.recordings.formats.wfdb import header_files, is_multi_segment, open_wfdb
from xmae_fast.recordings.formats.wfdb_header import why_aside
from xmae_fast.recordings.own_files import is_own
from xmae_fast.recordings.reading import Reading
from xmae_fast.recordings.recording import Content, Recording, RecordingError

_log = logging.getLogger("xmae_fast.recordings")


class Format(NamedTuple):
    """A kind of file: its name, what finds out about the content of a file, and the packages that this needs."""

    name: str
    open: Callable[[str, Reading], Content]
    packages: tuple[str, ...] = ()


_TABLE = Format("CSV", open_table, ("pandas",))
_EDF = Format("EDF", open_edf)
FORMATS = {
    ".mat": Format("MATLAB", open_mat),
    ".hea": Format("WFDB", open_wfdb, ("wfdb",)),
    ".csv": _TABLE,
    ".csv.gz": _TABLE,
    ".tsv": _TABLE,
    ".tsv.gz": _TABLE,
    ".txt": _TABLE,
    ".txt.gz": _TABLE,
    ".parquet": Format("Parquet", open_table, ("pandas", "pyarrow")),
    ".edf": _EDF,
    ".bdf": _EDF,
    ".npz": Format("NumPy", open_npz),
    ".npy": Format("NumPy", open_npy),
    **dict.fromkeys(HDF5, Format("HDF5", open_hdf5)),
}
_SUFFIXES = sorted(FORMATS, key=len, reverse=True)
_PROSE = (".txt", ".txt.gz")  # files of these suffixes in a folder count if they are tables


# Patterns of the words by which the names of two files of one recording differ.
KIND_WORDS = {"PPG": "ppg|pleth|bvp", "ECG": "ecg|ekg"}


class Source(NamedTuple):
    """One recording.

    Args:
        path: the file, or the header of several files.
        name: the path from the folder that all inputs have in common, with "/". It does not change if that folder
            moves.
        ecg: the file of the ECG, if it has one of its own.
        problem: why the file has no partner, if it was to have one.
    """

    path: str
    name: str
    ecg: str = ""
    problem: str = ""

    @property
    def suffix(self) -> str | None:
        """The suffix that names the format."""
        return suffix_of(self.path)

    @property
    def form(self) -> Format:
        """The format that the suffix names.

        Raises:
            KeyError: it names none.
        """
        return FORMATS[self.suffix or ""]

    @property
    def forms(self) -> tuple[Format, ...]:
        """The formats of all files."""
        return self.form, *((FORMATS[suffix_of(self.ecg) or ""],) if self.ecg else ())

    @property
    def stem(self) -> str:
        """The name without its suffix, and without the word for the PPG if the ECG has a file of its own."""
        stem = self.name[: -len(self.suffix)] if self.suffix else self.name
        if not self.ecg:
            return stem
        folder, slash, own = stem.rpartition("/")
        rest = re.sub(rf"[\W_]*({KIND_WORDS['PPG']})[\W_]*", "_", own, flags=re.IGNORECASE).strip("_")
        return f"{folder}{slash}{rest or own}"


def suffix_of(path: str) -> str | None:
    """The longest suffix of a path that names a format; None if none does."""
    lower = os.path.basename(path).lower()
    return next((suffix for suffix in _SUFFIXES if lower.endswith(suffix) and lower != suffix), None)


def find_sources(inputs: str | os.PathLike | Iterable[str | os.PathLike]) -> tuple[list[Source], Counter[str]]:
    """Find the recordings in inputs.

    Args:
        inputs: one or several files, folders (with all folders in them) and patterns. A WFDB record may be named
            without the suffix .hea.

    Returns:
        The recordings, sorted by name, and how many other files the folders hold, by suffix; WFDB headers of numerics
        and those without signals are among them, and tables that `prepare` and `embed_files` wrote.

    Raises:
        FileNotFoundError: an input is not there.
        ValueError: a file has no known format, or there is no recording at all.
    """
    given = [os.fspath(i) for i in ([inputs] if isinstance(inputs, (str, os.PathLike)) else inputs)]
    files: dict[str, None] = {}
    aside: Counter[str] = Counter()
    for entry in given:
        matches = [entry] if os.path.exists(entry) else sorted(glob.glob(entry, recursive=True))
        if not matches and os.path.isfile(f"{entry}.hea"):
            matches = [f"{entry}.hea"]
        if not matches:
            raise FileNotFoundError(f"inputs: expected a recording or a folder of them, found nothing at {entry}")
        for match in matches:
            if os.path.isdir(match):
                files |= dict.fromkeys(_in_folder(match, aside))
            elif match != entry and is_own(match):
                aside[os.path.basename(match)] += 1
            elif (suffix := suffix_of(match)) and (suffix not in _PROSE or is_table(match, fewest=1)):
                files[os.path.abspath(match)] = None
            elif match != entry:  # a pattern may find texts
                aside[os.path.splitext(match)[1]] += 1
            else:
                raise ValueError(f"inputs: expected a recording ({', '.join(FORMATS)}) or a folder, got {match}")
    if not files:
        raise ValueError(f"inputs: expected recordings ({', '.join(FORMATS)}), found none in {', '.join(given)}")
    root = given[0] if len(given) == 1 and os.path.isdir(given[0]) else os.path.commonpath(map(os.path.dirname, files))
    root = os.path.abspath(root)
    named = (Source(file, Path(os.path.relpath(file, root)).as_posix()) for file in files)
    return sorted(named, key=lambda source: source.name), aside


def _in_folder(folder: str, aside: Counter[str]) -> list[str]:
    """The recordings in a folder and the folders in it; other files are counted in `aside`."""
    found: list[str] = []
    seen: set[str] = set()  # links may lead back
    for parent, folders, names in os.walk(folder, followlinks=True):
        if (real := os.path.realpath(parent)) in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        paths = [os.path.abspath(os.path.join(parent, name)) for name in sorted(names) if not name.startswith(".")]
        suffixes = {path: suffix_of(path) for path in paths}
        headers = [path for path, suffix in suffixes.items() if suffix == ".hea"]
        belongs = {file for header in headers for file in map(os.path.abspath, header_files(header))}
        for path, suffix in suffixes.items():
            if is_own(path):
                aside[os.path.basename(path)] += 1
            elif path in belongs:  # signal files, and segments of a multi-segment record
                continue
            elif suffix == ".hea" and (why := why_aside(path)):
                aside[f"{suffix} {why}"] += 1
            elif suffix in HDF5 and not is_recording(path):
                aside[f"{suffix} (shards or others)"] += 1
            elif suffix and not is_aside(path) and (suffix not in _PROSE or is_table(path)):
                found.append(path)
            else:
                aside[os.path.splitext(path)[1] or os.path.basename(path)] += 1
    return found


def files_of(source: Source) -> list[str]:
    """The paths of all files of a recording; the one that names it comes first."""
    files = [source.path]
    if source.suffix == ".hea":
        files += header_files(source.path)
        if is_multi_segment(source.path):
            files += [file for segment in files[1:] for file in header_files(segment)]
    return files + (files_of(Source(source.ecg, "")) if source.ecg else [])


def fingerprint(source: Source) -> str:
    """A hash of the sizes and modification times of all files of a recording, which tells whether it has changed."""
    files = files_of(source)
    stats = [(os.path.basename(file), os.stat(file).st_size, os.stat(file).st_mtime_ns) for file in files]
    return hashlib.sha256(json.dumps(stats).encode()).hexdigest()


def read_recording(path: str | os.PathLike, reading: Reading | None = None) -> Recording:
    """Read one recording of any known format.

    Args:
        path: the file.
        reading: which channels are read, and the rate of files that do not state it.

    Raises:
        RecordingError: the file cannot be read as a recording; the message names it and says what was expected.
        FileNotFoundError: there is no file at `path`.
        ImportError: a package that reads this format is missing.
    """
    path = os.fspath(path)
    suffix = suffix_of(path)
    if suffix is None:
        raise RecordingError(f"{path}: expected a recording ({', '.join(FORMATS)})")
    if not os.path.isfile(path):
        raise FileNotFoundError(f"{path}: expected a recording, found nothing")
    form = FORMATS[suffix]
    try:
        reading = reading or Reading()
        recording = read_channels(form.open(path, reading), reading)
    except (ImportError, MemoryError):
        raise
    except Exception as error:  # damage makes the libraries raise anything
        kind = type(error).__name__
        detail = str(error) if kind == "ValueError" else f"expected a readable file ({kind}: {error})"
        raise RecordingError(f"{path}: {form.name}: {detail}") from error
    recording.form = recording.form or form.name
    for channel in recording.channels:
        if channel.fs <= 0:
            raise RecordingError(f"{path}: {channel.name}: expected a rate above 0 Hz, got {channel.fs:g}")
        if channel.values.size == 0:
            raise RecordingError(f"{path}: {channel.name}: expected samples, got none")
    _log.debug(
        "read %s as %s: %s", path, recording.form, ", ".join(f"{c.name} at {c.fs:g} Hz" for c in recording.channels)
    )
    return recording
