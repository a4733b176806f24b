"""Opens recordings of PPG for embedding: one signal for each piece, whatever file they come from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from xmae_fast.embedding.windows import Windows, samples_of
from xmae_fast.model.recipe import Recipe
from xmae_fast.recordings.reading import Reading
from xmae_fast.recordings.recording import Channel
from xmae_fast.recordings.sentinels import mark_missing
from xmae_fast.recordings.sources import Source, read_recording
from xmae_fast.recordings.stretches import Stretches

MOST_MISSING = 0.5  # share of the samples; windows that miss more are left out, those of plain NumPy files excepted
SHORT = "recording shorter than a window"
_SEARCHED = 1 << 28  # bytes as float64; values that stand for missing are not looked for in larger arrays
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

    An array [T] or [R, T] in .npy is R recordings, each in a row, and is mapped into memory. Everything else is read as
    `read_recording` does.

    Raises:
        ValueError: the file cannot be read, or holds something else; the message names it.
        ImportError: a package that reads this format is missing.
    """
    if source.suffix == ".npy" and reading.ppg is None and (plain := _plain(source.path, reading.fs)) is not None:
        return plain
    recording = read_recording(source.path, reading)
    ppg = recording.ppg
    assert ppg is not None
    pieces = len(ppg.values)
    rows = [ppg.values] if isinstance(ppg.values, Stretches) else [ppg.values[number] for number in range(pieces)]
    begins = np.zeros(pieces) if recording.starts is None else np.nan_to_num(np.asarray(recording.starts, np.float64))
    return Signal(
        rows, float(ppg.fs), pieces > 1, ppg.name, recording.form, begins, list(recording.subjects) or [""] * pieces,
        recording.start, recording.notes, drop=source.suffix != ".npz" or isinstance(ppg.values, Stretches),
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


def _plain(path: str, fs: float | None) -> Signal | None:
    """Rows of recordings in a .npy file; None if it holds a structured array."""
    try:
        signal = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ImportError, MemoryError):
        raise
    except Exception as error:  # damage makes NumPy raise anything
        raise ValueError(f"paths: expected an array [T] or [R, T] in {path} ({error})") from error
    if not isinstance(signal, np.ndarray):  # an .npz file by its content
        signal.close()
        return None
    if signal.dtype.names:
        return None
    if signal.ndim not in (1, 2) or signal.dtype.kind not in "fiu":
        got = f"{signal.dtype} {list(signal.shape)}"
        raise ValueError(f"paths: expected real numbers [T] or [R, T] in {path}, got {got}")
    if fs is None:
        raise ValueError(f"fs: expected the rate of {path} in Hz, got None: --fs HZ says it")
    notes = []
    if signal.ndim == 2 and signal.shape[1] == 1 < signal.shape[0]:
        notes.append(f"the column of {signal.shape[0]:,} numbers is taken as one recording")
        signal = signal[:, 0]
    channel = Channel("ppg", np.atleast_2d(signal), fs)
    if signal.size * 8 <= _SEARCHED:
        notes += mark_missing(channel)
    rows = list(channel.values) if isinstance(channel.values, np.ndarray) else []
    return Signal(
        rows, fs, signal.ndim == 2, "", "NumPy", np.zeros(len(rows)), [""] * len(rows), notes=notes,
        drop=False,
    )  # fmt: skip
