"""Which segments of an index are used."""

from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from xmae_fast.data import problems
from xmae_fast.data.index import SegmentIndex, count_reasons
from xmae_fast.data.splits import split_subjects

Quality = float | tuple[float, float]


class Selection(NamedTuple):
    """rows: (k,) int64 of the index, ascending; subjects: sorted names that remain; subject: of all subjects of the
    index, the number among `subjects`, or -1; rejected: reasons and counts of all other segments; bad: row of the first
    segment that is left out for a problem, or -1."""

    rows: np.ndarray
    subjects: list[str]
    subject: np.ndarray
    rejected: Counter[str]
    bad: int


def select(
    index: SegmentIndex,
    *,
    quality: Quality,
    subjects: Iterable[str] | None,
    exclude_subjects: Iterable[str],
    exclude_prefixes: tuple[str, ...],
    split: str | None,
    seed: int,
    normalize_dtype: str,
) -> Selection:
    """Segments of wanted subjects whose qualities reach the thresholds and that have no problem. A segment counts under
    the first reason that applies: problems of its structure, subject, quality, values."""
    ppg_quality, ecg_quality = quality_pair(quality)
    excluded = np.array([name.startswith(exclude_prefixes) for name in index.subjects], bool)
    wanted = _wanted(index.subjects, subjects, exclude_subjects, exclude_prefixes, split, seed)
    structure = index.problem & (problems.BAD_KEY | problems.WRONG_SHAPE | problems.UNREADABLE | problems.OUTSIDE)
    with np.errstate(invalid="ignore"):
        reasons = {
            "excluded subject": excluded[index.subject],
            "subject not selected": ~wanted[index.subject],
            "low ppg quality": ~(index.quality[:, 0] >= ppg_quality),
            "low ecg quality": ~(index.quality[:, 1] >= ecg_quality),
        }
    left = structure == 0
    rejected = count_reasons(index, structure, normalize_dtype)
    for reason, applies in reasons.items():
        rejected[reason] += int((left & applies).sum())
        left &= ~applies
    bad = (index.problem & problems.relevant(normalize_dtype)) != 0
    rejected += problems.count(index.problem[left & bad], normalize_dtype)
    first = np.flatnonzero((left | (structure != 0)) & bad)
    rows = np.flatnonzero(left & ~bad)
    number = np.full(len(index.subjects), -1, np.int32)
    used = np.unique(index.subject[rows])
    number[used] = np.arange(len(used))
    names = [index.subjects[i] for i in used]
    return Selection(rows, names, number, +rejected, int(first[0]) if len(first) else -1)


def quality_pair(quality: Quality) -> tuple[float, float]:
    """(ppg, ecg) thresholds; ValueError for anything but a number or a pair of numbers."""
    pair = tuple(quality) if isinstance(quality, (tuple, list)) else (quality, quality)
    if len(pair) != 2 or not all(isinstance(value, (int, float)) for value in pair):
        raise ValueError(f"quality: expected a number or a pair (ppg, ecg) of numbers, got {quality!r}")
    return pair


def _wanted(
    names: list[str],
    subjects: Iterable[str] | None,
    exclude_subjects: Iterable[str],
    exclude_prefixes: tuple[str, ...],
    split: str | None,
    seed: int,
) -> np.ndarray:
    """(len(names),) bool."""
    chosen = {name for name in names if not name.startswith(exclude_prefixes)}
    chosen -= _names("exclude_subjects", exclude_subjects)
    if subjects is not None:
        chosen &= _names("subjects", subjects)
    if split is not None:
        chosen = set(split_subjects(chosen, seed, exclude_prefixes=exclude_prefixes)[split])
    return np.array([name in chosen for name in names], bool)


def _names(argument: str, names: Iterable[str]) -> set[str]:
    if isinstance(names, str):
        raise ValueError(f"{argument}: expected a list of names, got the text {names!r}")
    return set(names)
