"""Segments of shards, which `embed_files` embeds."""

from __future__ import annotations

import os
from typing import Any, cast

import numpy as np

from xmae_fast.data.augment import NormalizeDtype
from xmae_fast.data.formats.layout import Layout
from xmae_fast.data.index.segment_index import Paths, Shard
from xmae_fast.data.repacking.source import RepackSource, record_names
from xmae_fast.data.segments import Segments
from xmae_fast.embedding import checks
from xmae_fast.embedding.read import Read, describe_file
from xmae_fast.model.recipe import Recipe
from xmae_fast.workers.progress import Progress

_LOOKED_AT = 64  # segments of a shard that are looked at for what is wrong with it


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
        self.recordings = 0
        self.errors: dict[str, str] = {}
        self._subjects = np.array(self.segments.subjects)
        self._names: tuple[int, np.ndarray] = -1, np.empty(0, "S1")

    def __len__(self) -> int:
        return len(self.segments)

    def describe(self) -> dict[str, Any]:
        """The files and what is used of them, as plain values by which this source differs from others."""
        index = self.segments.index
        used = np.unique(index.shard_of(self.segments.rows)).tolist()
        return {
            "inputs": [describe_file(index.shards[i].path) | _linked(index.shards[i]) for i in used],
            "subjects": len(self.segments.subjects),
            "rejected": dict(sorted(self.segments.rejected.items())),
            **self._settings,
        }

    def findings(self) -> dict[str, list[str]]:
        """What looks wrong with the segments of shards, as they are stored, by the name of the shard."""
        segments, found = self.segments, {}
        files = segments.index.shard_of(segments.rows)
        stored = RepackSource(segments, np.dtype(np.float32))
        for file in np.unique(files).tolist():
            first, last = np.searchsorted(files, [file, file + 1]).tolist()
            ppg = stored.read(first, min(first + _LOOKED_AT, last))[0]
            if problems := checks.segment_problems(ppg, "prepare makes such of recordings"):
                found[os.path.basename(segments.index.shards[file].path)] = problems
        return found

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


def _linked(shard: Shard) -> dict[str, Any]:
    """The other files from which a shard takes data, if there are any."""
    others = shard.sidecar.valid_for.get("others", {})
    known = [[os.path.basename(path), *(mark[:1] + mark[2:] if mark else [])] for path, mark in others.items()]
    return {"others": known} if known else {}
