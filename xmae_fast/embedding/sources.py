"""What `embed_files` embeds: segments of shards, or windows of recordings in NumPy files."""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np

from xmae_fast.data.augment import NormalizeDtype
from xmae_fast.data.formats.layout import Layout
from xmae_fast.data.formats.linked import content_probe
from xmae_fast.data.index.segment_index import Paths, Shard
from xmae_fast.data.repacking.source import record_names
from xmae_fast.data.segments import Segments
from xmae_fast.embedding.preprocess import check_rate, prepare_ppg
from xmae_fast.embedding.windows import Windows, check_windowing
from xmae_fast.model.recipe import Recipe
from xmae_fast.workers.progress import Progress

RECORDINGS = (".npy", ".npz")


class Read(NamedTuple):
    """k prepared segments.

    Attributes:
        ppg: [k, L] float32.
        good: [k] bool, False where a segment cannot be embedded.
        columns: [k] arrays by name; "key" and "subject" are text.
    """

    ppg: np.ndarray
    good: np.ndarray
    columns: dict[str, np.ndarray]


class ShardSource:
    """Segments of shards, in the order of the shards.

    Args:
        paths, quality, layout, cache_dir, progress: as for `embed_files`.
        recipe: which the segments must follow.

    Raises:
        ValueError: the segments have another length or rate than the recipe says.
    """

    def __init__(
        self,
        paths: Paths,
        recipe: Recipe,
        *,
        quality: float | tuple[float, float],
        layout: Layout | None,
        cache_dir: str | os.PathLike[str] | None,
        progress: Progress | None,
    ) -> None:
        self.segments = Segments(
            paths, quality=quality, exclude_prefixes=(), layout=layout, cache_dir=cache_dir, progress=progress,
            normalize_dtype=cast(NormalizeDtype, recipe.normalize_dtype), signals="ppg",  # Segments checks the value
        )  # fmt: skip
        fs, L = self.segments.sampling_freq, self.segments.seq_len
        if recipe.samples != L or (fs is not None and fs != recipe.sampling_freq):
            wanted = f"segments of {recipe.samples} samples at {recipe.sampling_freq:g} Hz, as the model takes them"
            raise ValueError(f"paths: expected {wanted}, got {L} at {fs or recipe.sampling_freq:g} Hz")
        self._settings = {
            "layout": None if layout is None else repr(layout),
            "normalize_dtype": recipe.normalize_dtype,
        }
        self._subjects = np.array(self.segments.subjects)
        self._names: tuple[int, np.ndarray] = -1, np.empty(0, "S1")

    def __len__(self) -> int:
        return len(self.segments)

    def describe(self) -> dict[str, Any]:
        """The files and what is used of them, as plain values by which this source differs from others."""
        index = self.segments.index
        used = np.unique(index.shard_of(self.segments.rows)).tolist()
        return {
            "inputs": [_file(index.shards[i].path) | _linked(index.shards[i]) for i in used],
            "subjects": len(self.segments.subjects),
            "rejected": dict(sorted(self.segments.rejected.items())),
            **self._settings,
        }

    def read(self, items: np.ndarray) -> Read:
        """Read the segments of these numbers, [k], ascending."""
        ppg, ecg = np.zeros((2, len(items), self.segments.seq_len), np.float32)
        good = self.segments.read(items, 0, ppg, ecg)
        rows, index = self.segments.rows[items], self.segments.index
        columns = {
            "key": np.char.decode(self._keys(rows), "utf-8", "backslashreplace"),
            "subject": self._subjects[self.segments.subject_of(items)],
            "ppg_quality": index.quality[rows, 0].astype(np.float32),
            "ecg_quality": index.quality[rows, 1].astype(np.float32),
        }
        return Read(ppg, good, columns)

    def _keys(self, rows: np.ndarray) -> np.ndarray:
        """[k] bytes, the names of the records. The names of one shard at a time are kept in memory."""
        files, parts = self.segments.index.shard_of(rows), []
        for file in np.unique(files).tolist():
            shard = self.segments.index.shards[file]
            if self._names[0] != file:
                self._names = file, record_names(shard)
            parts.append(self._names[1][rows[files == file] - shard.start])
        return np.concatenate(parts)


class RecordingSource:
    """Windows of recordings. The name of a file is the subject; too short recordings are left out and counted.

    Args:
        paths: .npy files [T] or [R, T], or .npz files with such an array "ppg" and, if `fs` is None, a number "fs".
        recipe: by which windows are prepared.
        fs, hop, tail: as for `embed_files`.

    Raises:
        ValueError: an argument or a file is wrong.
    """

    def __init__(self, paths: Sequence[str], recipe: Recipe, *, fs: float | None, hop: float | None, tail: str) -> None:
        check_windowing(hop, tail)
        self.recipe, self.paths = recipe, list(paths)
        self.rejected: Counter[str] = Counter()
        self.settings = {"fs": fs, "hop": hop, "tail": tail}
        self._names: list[list[str]] = []
        self._subjects: list[str] = []
        self._windows: list[Windows] = []  # one of each file
        stems: dict[str, str] = {}
        for path in self.paths:
            stem = Path(path).stem
            if stem in stems:
                raise ValueError(f"paths: expected files of different names, got {stems[stem]} and {path}")
            stems[stem] = path
            self._add(path, stem, fs, hop, tail)
        if not self._windows:
            raise ValueError(f"paths: no window of {recipe.segment_s:g} s in {', '.join(self.paths)}")
        counts = [len(windows) for windows in self._windows]
        self._firsts = np.concatenate([[0], np.cumsum(counts)])

    def __len__(self) -> int:
        return int(self._firsts[-1])

    def describe(self) -> dict[str, Any]:
        """As `ShardSource.describe`."""
        return {
            "inputs": [_file(path) for path in self.paths],
            "subjects": len(self._windows),
            "rejected": dict(self.rejected),
            "windows": self.settings,
            "preprocessing": self.recipe.to_dict(),
        }

    def read(self, items: np.ndarray) -> Read:
        """Read the windows of these numbers, [k], ascending."""
        parts = []
        files = np.searchsorted(self._firsts, items, "right") - 1
        for file in np.unique(files).tolist():
            windows = self._windows[file]
            those = items[files == file] - self._firsts[file]
            prepared = prepare_ppg(windows.cut(those), windows.fs, self.recipe)
            names = [self._names[file][record] for record in windows.record[those].tolist()]
            times = windows.times[those]
            columns = {
                "key": np.array([f"{name}+++{t:.3f}" for name, t in zip(names, times.tolist(), strict=True)]),
                "subject": np.full(len(those), self._subjects[file]),
                "time": times,
                "ppg_quality": prepared.quality.astype(np.float32),
                "pulse_rate": prepared.pulse_rate.astype(np.float32),
            }
            parts.append(Read(prepared.ppg, prepared.usable, columns))
        columns = {name: np.concatenate([part.columns[name] for part in parts]) for name in parts[0].columns}
        ppg, good = (np.concatenate([part[i] for part in parts]) for i in (0, 1))
        return Read(ppg, good, columns)

    def _add(self, path: str, stem: str, fs: float | None, hop: float | None, tail: str) -> None:
        signal, own = _load(path)
        fs = own if fs is None else fs
        if fs is None:
            raise ValueError(f"fs: expected the rate of {path} in Hz, got None")
        check_rate(fs, self.recipe)
        rows = [signal] if signal.ndim == 1 else list(signal)
        names = [stem] if signal.ndim == 1 else [f"{stem}/{row}" for row in range(len(rows))]
        long = [i for i, row in enumerate(rows) if len(row) >= round(self.recipe.segment_s * fs)]
        if len(long) < len(rows):
            self.rejected["recording shorter than a window"] += len(rows) - len(long)
        if long:
            self._names.append([names[i] for i in long])
            self._subjects.append(stem)
            self._windows.append(Windows([rows[i] for i in long], fs, self.recipe, hop, tail))


def recording_files(paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]]) -> list[str] | None:
    """The files of recordings.

    Args:
        paths: files or patterns of recordings, or paths of shards.

    Returns:
        The files that the patterns match; None if `paths` are shards.

    Raises:
        ValueError: `paths` names both shards and recordings.
        FileNotFoundError: there is no such file.
    """
    listed = [os.fspath(p) for p in ([paths] if isinstance(paths, str | os.PathLike) else paths)]
    kinds = {path.endswith(RECORDINGS) for path in listed}
    if len(kinds) > 1:
        raise ValueError(f"paths: expected shards or recordings ({', '.join(RECORDINGS)}), got both")
    if kinds != {True}:
        return None
    found = [name for path in listed for name in (sorted(glob.glob(path)) if glob.has_magic(path) else [path])]
    for name in found:
        if not os.path.isfile(name):
            raise FileNotFoundError(f"paths: expected a NumPy file, {name} does not exist")
    if not found:
        raise FileNotFoundError(f"paths: no file matches {', '.join(listed)}")
    return found


def _load(path: str) -> tuple[np.ndarray, float | None]:
    """The array of a file, mapped into memory where that is possible, and its rate in Hz, or None."""
    try:
        stored = np.load(path, mmap_mode="r", allow_pickle=False)
        if isinstance(stored, np.ndarray):
            signal, fs = stored, None
        else:
            with stored:
                signal = stored["ppg"]
                fs = float(stored["fs"]) if "fs" in stored.files else None
    except (ValueError, KeyError, TypeError, EOFError, OSError) as error:
        raise ValueError(f"paths: expected an array [T] or [R, T], or .npz with 'ppg', in {path} ({error})") from error
    if signal.ndim not in (1, 2) or signal.dtype.kind not in "fiu":
        got = f"{signal.dtype} {list(signal.shape)}"
        raise ValueError(f"paths: expected real numbers [T] or [R, T] in {path}, got {got}")
    return signal, fs


def _linked(shard: Shard) -> dict[str, Any]:
    """The other files from which a shard takes data, if there are any."""
    others = shard.sidecar.valid_for.get("others", {})
    known = [[os.path.basename(path), *(mark[:1] + mark[2:] if mark else [])] for path, mark in others.items()]
    return {"others": known} if known else {}


def _file(path: str) -> dict[str, Any]:
    size = os.path.getsize(path)
    return {"name": os.path.basename(path), "bytes": size, "probe": content_probe(path, size)}
