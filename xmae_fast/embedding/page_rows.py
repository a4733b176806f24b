"""What a page on embeddings shows of their rows, and how the windows of recordings follow each other in time."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from xmae_fast.embedding.store import TABLE, Store, iter_embeddings

SAMPLE = 20_000  # rows whose embeddings are looked at


@dataclass
class Rows:
    """What a page shows of n rows of embeddings.

    Attributes:
        columns: [n] each: "ppg_quality", and "time" and "pulse_rate" of recordings, or "ecg_quality" of shards.
        subjects: how many there are.
        unusable: [n] bool, rows without an embedding.
        sampled: [s], numbers of the rows whose embeddings are kept.
        embeddings: [s, D], tokens averaged.
    """

    columns: dict[str, np.ndarray]
    subjects: int
    unusable: np.ndarray
    sampled: np.ndarray
    embeddings: np.ndarray


class Course(NamedTuple):
    """Windows of a recording that follow each other in time.

    Attributes:
        name: of the recording.
        first, end: its rows.
        spans: of time [s], from the begin of the recording to its last window, that no window covers.
    """

    name: str
    first: int
    end: int
    spans: list[tuple[float, float]]


def read_rows(store: Store) -> Rows:
    """Read all parts of finished embeddings, one by one; ValueError if some are missing."""
    every = max(1, store.read_plan()["rows"] // SAMPLE)
    columns: dict[str, list[np.ndarray]] = {}
    unusable, sampled, kept, subjects, start = [], [], [], set(), 0
    for part in iter_embeddings(store.folder):
        flat = part.embeddings.reshape(len(part), -1)
        unusable.append(~np.isfinite(flat).all(1))
        those = np.arange(-start % every, len(part), every)
        found = part.embeddings[those].astype(np.float64)
        kept.append(found.mean(1) if found.ndim == 3 else found)
        sampled.append(those + start)
        subjects.update(np.unique(part.subject).tolist())
        for name, values in part.columns.items():
            columns.setdefault(name, []).append(values)
        start += len(part)
    joined = {name: np.concatenate(values) for name, values in columns.items()}
    return Rows(joined, len(subjects), np.concatenate(unusable), np.concatenate(sampled), np.concatenate(kept))


def read_recordings(store: Store) -> list[dict[str, str]]:
    """The rows of recordings.csv; none if it is not there."""
    path = store.folder / TABLE
    if not path.is_file():
        return []
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def row_ranges(table: list[dict[str, str]]) -> list[tuple[int, int]]:
    """The first row and the end of the rows of each recording, which follow each other as recordings.csv has them."""
    ends = np.cumsum([int(one["windows"] or 0) for one in table], dtype=np.int64).tolist()
    return list(zip([0, *ends[:-1]], ends, strict=True))


def courses_of(plan: dict[str, Any], table: list[dict[str, str]], rows: Rows) -> list[Course]:
    """The courses of time of all recordings; none of shards, whose segments have no times."""
    seconds = plan.get("preprocessing", {}).get("segment_s")
    if not table or not seconds or "time" not in rows.columns:
        return []
    hop, found = plan["windows"].get("hop") or seconds, []
    for one, (first, end) in zip(table, row_ranges(table), strict=True):
        times = rows.columns["time"][first:end]
        starts = [0, *(np.flatnonzero(np.diff(times) <= 0) + 1).tolist(), len(times)] if len(times) else [0]
        for number, (a, b) in enumerate(pairwise(starts)):
            name = one["recording"] + (f", part {number + 1}" if len(starts) > 2 else "")
            begins, ends = np.r_[0.0, times[a : b - 1] + seconds], times[a:b]
            wide = ends - begins > max(hop - seconds, 0) + 0.5 * min(hop, seconds)
            spans = list(zip(begins[wide].tolist(), ends[wide].tolist(), strict=True))
            found.append(Course(name, first + a, first + b, spans))
    return found
