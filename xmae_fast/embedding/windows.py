"""Windows of recordings: where they begin, and their samples."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from xmae_fast.embedding.preprocess import check_rate
from xmae_fast.model.recipe import Recipe
from xmae_fast.recordings.stretches import Stretches

TAILS = ("drop", "align")
_BLOCK = 512  # windows that are looked at together


class Windows:
    """W windows over recordings.

    Args:
        recordings: R arrays [T], or `Stretches` of one piece.
        fs: Hz.
        recipe: its segment_s is the length of a window.
        hop: seconds from window to window; None for their length, so that they lie side by side.
        tail: "drop" leaves out an end that is shorter than the next window; "align" adds a window that ends with the
            recording.

    Attributes:
        record: [W] int64, the number of the recording.
        start: [W] int64, the first sample in the recording.
        samples: how many samples a window has, n.
        unused_s: [R] seconds at the end of each recording that no window covers.

    Raises:
        ValueError: an argument is wrong, or a recording is shorter than a window.
    """

    def __init__(
        self,
        recordings: Sequence[np.ndarray | Stretches],
        fs: float,
        recipe: Recipe,
        hop: float | None = None,
        tail: str = "drop",
    ) -> None:
        check_rate(fs, recipe)
        check_windowing(hop, tail)
        self.recordings, self.fs, self.samples = recordings, fs, round(recipe.segment_s * fs)
        hop = recipe.segment_s if hop is None else hop
        if hop * fs < 1:
            raise ValueError(f"hop: expected at least one sample, {1 / fs:g} s, got {hop:g} s")
        starts, self._skipped = [], 0
        for number, recording in enumerate(recordings):
            T = samples_of(recording)
            if self.samples > T:
                which = f"signal {number}" if len(recordings) > 1 else "signal"
                got = f"{T:,} samples, {T / fs:.4g} s at {fs:g} Hz"
                raise ValueError(f"{which}: expected at least one window of {recipe.segment_s:g} s, got {got}")
            count = math.floor((T - self.samples) / (hop * fs) + 1e-9) + 1
            near = self._near(recording, count, hop * fs)
            self._skipped += count - len(near)
            begin = np.minimum(np.rint(near * (hop * fs)).astype(np.int64), T - self.samples)
            if tail == "align" and begin[-1] + self.samples < T:
                begin = np.append(begin, T - self.samples)
            starts.append(begin)
        self.start = np.concatenate([np.empty(0, np.int64), *starts])
        self.record = np.repeat(np.arange(len(starts)), [len(begin) for begin in starts])
        lengths = np.array([samples_of(recording) for recording in recordings])
        self.unused_s = (lengths - [begin[-1] + self.samples for begin in starts]) / fs

    def __len__(self) -> int:
        return len(self.start)

    def _near(self, recording: np.ndarray | Stretches, count: int, step: float) -> np.ndarray:
        """The numbers of windows that may hold a sample, and of the last of `count` that begin every `step` samples.

        A device whose clock starts in 1970 leaves a gap of decades, whose windows would not fit into memory.
        """
        if not isinstance(recording, Stretches) or not len(recording.firsts):
            return np.arange(count)
        return np.union1d(recording.windows_near(self.samples, step, count), [count - 1])

    @property
    def times(self) -> np.ndarray:
        """[W] seconds from the first sample of the recording to that of the window."""
        return self.start / self.fs

    def cut(self, items: np.ndarray) -> np.ndarray:
        """The samples of the windows of these numbers [k]: [k, n] float64."""
        out = np.empty((len(items), self.samples))
        for row, item in enumerate(items.tolist()):
            first, recording = self.start[item], self.recordings[int(self.record[item])]
            if isinstance(recording, Stretches):
                out[row] = recording.cut(first[None], self.samples)[0]
            else:
                out[row] = recording[first : first + self.samples]
        return out

    def leave_out(self, most: float) -> tuple[int, int]:
        """Leave out windows that miss more than a share `most` of their samples.

        Returns:
            How many windows without any sample, and how many others, were left out.
        """
        missing = np.zeros(len(self))
        for number, recording in enumerate(self.recordings):
            mine = np.flatnonzero(self.record == number)
            if isinstance(recording, Stretches):
                recorded = recording.recorded(self.start[mine], self.samples)
                missing[mine[~recorded]] = 1
                mine = mine[recorded]
            elif np.isfinite(recording).all():
                continue
            for block in np.array_split(mine, -(-len(mine) // _BLOCK)) if len(mine) else ():
                missing[block] = 1 - np.isfinite(self.cut(block)).mean(1)
        empty, few = int((missing == 1).sum()) + self._skipped, int(((missing > most) & (missing < 1)).sum())
        keep = missing <= most
        self.start, self.record = self.start[keep], self.record[keep]
        return empty, few


def samples_of(recording: np.ndarray | Stretches) -> int:
    """T of an array [T] or of `Stretches`."""
    return recording.size if isinstance(recording, Stretches) else len(recording)


def check_windowing(hop: float | None, tail: str) -> None:
    """Raise ValueError unless `hop` and `tail` are as `Windows` takes them."""
    if hop is not None and not (isinstance(hop, int | float) and math.isfinite(hop) and hop > 0):
        raise ValueError(f"hop: expected a positive number of seconds or None, got {hop!r}")
    if tail not in TAILS:
        raise ValueError(f"tail: expected 'drop' or 'align', got {tail!r}")


def as_recordings(signal) -> list[np.ndarray]:
    """Recordings as a list of arrays [T].

    Args:
        signal: [T], [R, T] or a list of [T]; arrays, tensors or numbers.

    Raises:
        ValueError, TypeError: it is something else.
    """
    if hasattr(signal, "detach"):  # a tensor
        signal = signal.detach().cpu().numpy()
    if isinstance(signal, list | tuple) and len(signal) and np.ndim(signal[0]) > 0:
        listed = [np.asarray(one) for one in signal]
    else:
        whole = np.asarray(signal)
        if whole.ndim not in (1, 2):
            raise ValueError(f"signal: expected shape [T] or [R, T], or a list of such [T], got {list(whole.shape)}")
        listed = [whole] if whole.ndim == 1 else list(whole)
    for one in listed:
        if one.ndim != 1:
            raise ValueError(f"signal: expected recordings of shape [T], got one of {list(one.shape)}")
        if one.dtype.kind not in "fiub":
            raise TypeError(f"signal: expected real numbers, got dtype {one.dtype}")
    if not listed:
        raise ValueError("signal: expected at least one recording, got none")
    return listed
