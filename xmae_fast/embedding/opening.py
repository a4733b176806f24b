"""Opens recordings of PPG for embedding: one signal for each piece, whatever file they come from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from xmae_fast.embedding.windows import Windows, samples_of
from xmae_fast.model.recipe import Recipe
from xmae_fast.recordings.reading import Reading
from xmae_fast.recordings.sources import Source, read_recording
from xmae_fast.recordings.stretches import Stretches

MOST_MISSING = 0.5  # share of the samples; windows that miss more are left out, those of plain NumPy files excepted
SHORT = "recording shorter than a window"
EMPTY, SPARSE = "window without any sample", "window that misses more than half of its samples"


class Signal(NamedTuple):
    """The PPG of one recording.

    Attributes:
        rows: R pieces, arrays [T] or `Stretches`; NaN where samples are missing.
        fs: Hz.
        numbered: whether the pieces have numbers in the keys of their windows.
        channel: the name of the channel; "" if it has none.
        form: the name of the format.
        begins: [R], when each piece begins, in seconds.
        subjects: [R], as the file names them; "" where it names none.
        start: date and time of the first sample by ISO 8601; "" if they are not known.
        notes: how the file was understood, a sentence each.
        drop: whether windows that miss more than half of their samples are left out.
    """

    rows: Sequence[np.ndarray | Stretches]
    fs: float
    numbered: bool
    channel: str
    form: str
    begins: np.ndarray
    subjects: list[str]
    start: str = ""
    notes: Sequence[str] = ()
    drop: bool = True

    @property
    def nbytes(self) -> int:
        """The memory that the samples take; 0 where they are mapped from the file."""
        first = self.rows[0] if len(self.rows) else None
        if isinstance(first, np.memmap):
            return 0
        return sum(
            sum(part.nbytes for part in row.stretches) if isinstance(row, Stretches) else row.nbytes
            for row in self.rows
        )


def open_signal(source: Source, reading: Reading) -> Signal:
    """Open the PPG of a recording.

    An array [T] or [R, T] in .npy, or "ppg" in .npz, is R recordings, each in a row, and is mapped into memory where
    that is possible. Everything else is read as `read_recording` does.

    Raises:
        ValueError: the file cannot be read, or holds something else; the message names it.
        ImportError: a package that reads this format is missing.
    """
    if source.suffix in (".npy", ".npz") and reading.ppg is None and (plain := _plain(source, reading.fs)) is not None:
        return plain
    recording = read_recording(source.path, reading)
    ppg = recording.ppg
    assert ppg is not None
    pieces = len(ppg.values)
    rows = [ppg.values] if isinstance(ppg.values, Stretches) else list(ppg.values)
    begins = np.zeros(pieces) if recording.starts is None else np.nan_to_num(np.asarray(recording.starts, np.float64))
    return Signal(
        rows, float(ppg.fs), pieces > 1, ppg.name, recording.form, begins, list(recording.subjects) or [""] * pieces,
        recording.start, recording.notes,
    )  # fmt: skip


def cut_signal(signal: Signal, recipe: Recipe, hop: float | None, tail: str) -> tuple[Windows, Counter[str]]:
    """The windows of a recording, and what is left out of it, by reason.

    Args:
        signal: the recording.
        recipe, hop, tail: as for `Windows`.
    """
    size, left_out = round(recipe.segment_s * signal.fs), Counter[str]()
    long = [i for i, row in enumerate(signal.rows) if samples_of(row) >= size]
    if len(long) < len(signal.rows):
        left_out[SHORT] += len(signal.rows) - len(long)
    windows = Windows([signal.rows[i] for i in long], signal.fs, recipe, hop, tail)
    if signal.drop:
        for reason, count in zip((EMPTY, SPARSE), windows.leave_out(MOST_MISSING), strict=True):
            left_out += Counter({reason: count})
    windows.recordings = signal.rows
    windows.record = np.asarray(long, np.int64)[windows.record]
    return windows, left_out


def _plain(source: Source, fs: float | None) -> Signal | None:
    """Rows of recordings in a NumPy file; None if the file is laid out in another way."""
    path, own, subject = source.path, None, ""
    try:
        stored = np.load(path, mmap_mode="r", allow_pickle=False)
        if isinstance(stored, np.ndarray):
            if stored.dtype.names:
                return None
            signal = stored
        else:
            with stored:
                if "ppg" not in stored.files or (fs is None and "fs" not in stored.files):
                    return None
                signal = stored["ppg"]
                own = float(stored["fs"]) if "fs" in stored.files else None
                if "subject" in stored.files and stored["subject"].size == 1:
                    subject = str(stored["subject"].ravel()[0])
    except (ImportError, MemoryError):
        raise
    except Exception as error:  # damage makes NumPy raise anything
        raise ValueError(f"paths: expected an array [T] or [R, T], or .npz with 'ppg', in {path} ({error})") from error
    if signal.ndim not in (1, 2) or signal.dtype.kind not in "fiu":
        got = f"{signal.dtype} {list(signal.shape)}"
        raise ValueError(f"paths: expected real numbers [T] or [R, T] in {path}, got {got}")
    if fs is None and own is None:
        raise ValueError(f"fs: expected the rate of {path} in Hz, got None: --fs HZ says it")
    notes = []
    if fs is not None and own is not None and own != fs:
        notes.append(f"--fs {fs:g} is taken, the file states {own:g} Hz")
    if signal.ndim == 2 and signal.shape[1] == 1 < signal.shape[0]:
        notes.append(f"the column of {signal.shape[0]:,} numbers is taken as one recording")
        signal = signal[:, 0]
    rate = own if fs is None else fs
    assert rate is not None
    rows = [signal] if signal.ndim == 1 else list(signal)
    return Signal(
        rows, rate, signal.ndim == 2, "" if source.suffix == ".npy" else "ppg", "NumPy", np.zeros(len(rows)),
        [subject] * len(rows), notes=notes, drop=False,
    )  # fmt: skip
