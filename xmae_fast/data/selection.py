"""Selects the segments of an index that are used."""

from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from xmae_fast.data import problems
from xmae_fast.data.index.segment_index import SegmentIndex
from xmae_fast.data.options import Quality, quality_pair
from xmae_fast.data.splits import split_subjects

# Why a segment is not used. A segment with a problem is counted under the problem's name.
_REASONS = ("", "excluded subject", "subject not selected", "low ppg quality", "low ecg quality", "")
_PROBLEM = 5


class Selection(NamedTuple):
    """The segments of an index that are used.

    Args:
        rows: [k] int64, their rows in the index, ascending.
        subjects: the sorted names of their subjects.
        subject: for each subject of the index, its number in `subjects`, or -1; int32.
        rejected: how many of the other segments were left out, by reason.
        bad: the row of the first segment that was left out because of a problem, or -1.
    """

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
    signals: str = "both",
) -> Selection:
    """Select the segments of the wanted subjects whose qualities reach the thresholds and that have no problem.

    A segment that is left out is counted under the first reason that applies: a problem of its structure, its subject,
    its quality, a problem of its values. For the arguments see `SegmentDataset`. With signals="ppg" the quality of the
    ECG does not count.
    """
    ppg_quality, ecg_quality = quality_pair(quality)
    of_subject = _subject_reasons(index.subjects, subjects, exclude_subjects, exclude_prefixes, split, seed)
    reason = of_subject[index.subject]  # [n] uint8, numbers in _REASONS; 0 is used
    thresholds = ((3, ppg_quality), (4, ecg_quality))
    for code, threshold in thresholds if signals == "both" else thresholds[:1]:
        low = (reason == 0) & ~(index.quality[:, code - 3] >= threshold)
        reason += low.view(np.uint8) * np.uint8(code)  # ten times as fast as assigning through the mask
    troubled = np.flatnonzero(index.problem & problems.relevant(normalize_dtype))
    found = index.problem[troubled]
    found[((found & problems.STRUCTURE) == 0) & (reason[troubled] != 0)] = 0  # they keep the reason that they have
    reason[troubled[found != 0]] = _PROBLEM
    rejected = problems.count(found, normalize_dtype) + Counter({"unreadable shard": len(index.broken)})
    rejected.update({text: int(np.count_nonzero(reason == code)) for code, text in enumerate(_REASONS) if text})
    rows = np.flatnonzero(reason == 0)
    number = np.full(len(index.subjects), -1, np.int32)
    used = np.flatnonzero(np.bincount(index.subject[rows], minlength=len(index.subjects)))
    number[used] = np.arange(len(used))
    names = [index.subjects[i] for i in used]
    bad = troubled[found != 0]
    return Selection(rows, names, number, +rejected, int(bad[0]) if len(bad) else -1)


def _subject_reasons(
    names: list[str],
    subjects: Iterable[str] | None,
    exclude_subjects: Iterable[str],
    exclude_prefixes: tuple[str, ...],
    split: str | None,
    seed: int,
) -> np.ndarray:
    """For each name the reason why the subject is not used: uint8, numbers in _REASONS."""
    chosen = {name for name in names if not name.startswith(exclude_prefixes)}
    chosen -= _names("exclude_subjects", exclude_subjects)
    if subjects is not None:
        chosen &= _names("subjects", subjects)
    if split is not None:
        chosen = set(split_subjects(chosen, seed, exclude_prefixes=exclude_prefixes)[split])
    return np.array([0 if n in chosen else 1 if n.startswith(exclude_prefixes) else 2 for n in names], np.uint8)


def _names(argument: str, names: Iterable[str]) -> set[str]:
    if isinstance(names, str):
        raise ValueError(f"{argument}: expected a list of names, got the text {names!r}")
    return set(names)
