"""Looks through shards: what they hold, how good it is, and what a loader would use."""

import os
import warnings
from dataclasses import asdict, dataclass

import numpy as np

from xmae_fast.data import problems
from xmae_fast.data.augment import NormalizeDtype
from xmae_fast.data.formats.layout import Layout
from xmae_fast.data.index.segment_index import Paths, SegmentIndex, Shard, open_index
from xmae_fast.data.options import Quality, quality_pair
from xmae_fast.data.ppg_alone import problems_of_ppg
from xmae_fast.data.selection import Selection, select
from xmae_fast.data.splits import EXCLUDED_PREFIXES
from xmae_fast.workers.progress import Progress

BINS = 10  # into which qualities from 0 to 1 are counted
_LISTED = 20  # how many records with a problem are named
_ORDERS = {">": "big-endian", "<": "little-endian"}


@dataclass(frozen=True)
class ShardSummary:
    """One shard.

    Args:
        path: the file.
        layout: "published" or "packed".
        segments: how many it holds.
        samples: of a segment.
        sampling_freq: in Hz; None if it is not known.
        dtype: of the samples.
        mapped: whether it is read from a memory map.
        why_not: why it is not.
        size: of the file, in bytes.
        signals: "both", or "ppg" for a shard without ECG.
    """

    path: str
    layout: str
    segments: int
    samples: int
    sampling_freq: float | None
    dtype: str
    mapped: bool
    why_not: str
    size: int
    signals: str = "both"


@dataclass(frozen=True)
class QualitySummary:
    """The qualities of one signal, as numbers of segments.

    Args:
        threshold: the quality that a segment must reach.
        counts: in 10 equal bins from 0 to 1; the last bin includes 1.
        outside: segments whose quality is below 0 or above 1.
        unknown: segments whose quality cannot be read.
        below: segments whose quality is below the threshold.
        reached: segments whose quality reaches the threshold.
    """

    threshold: float
    counts: list[int]
    outside: int
    unknown: int
    below: int
    reached: int


@dataclass(frozen=True)
class ProblemRecord:
    """A segment that no loader uses: its shard, the name of its record, and why."""

    shard: str
    record: str
    reason: str


@dataclass(frozen=True)
class ShardReport:
    """What `inspect_shards` has found.

    Args:
        shards: the shards that can be read.
        broken: the shards that cannot be read, and why.
        segments: how many the shards hold.
        size: of the shards that can be read, in bytes.
        subjects: how many subjects have segments.
        segments_per_subject: "min", "median" and "max".
        ppg_quality: the qualities of the PPG.
        ecg_quality: the qualities of the ECG in the shards that have ECG; None if none has.
        used: how many segments a loader with these thresholds uses.
        used_subjects: how many subjects these have.
        rejected: how many segments it leaves out, by the first reason that applies to each.
        refused: why a loader would raise an error; "" if it would not.
        problems: how many segments cannot be used whatever their quality, by reason.
        problem_records: the first 20 of them.
    """

    shards: list[ShardSummary]
    broken: dict[str, str]
    segments: int
    size: int
    subjects: int
    segments_per_subject: dict[str, float]
    ppg_quality: QualitySummary
    ecg_quality: QualitySummary | None
    used: int
    used_subjects: int
    rejected: dict[str, int]
    refused: str
    problems: dict[str, int]
    problem_records: list[ProblemRecord]

    def to_dict(self) -> dict:
        """Plain lists, dictionaries, texts and numbers, for JSON."""
        return asdict(self)


def inspect_shards(
    paths: Paths,
    *,
    quality: Quality = 0.9,
    layout: Layout | None = None,
    cache_dir: str | os.PathLike | None = None,
    normalize_dtype: NormalizeDtype = "float16",
    progress: Progress | None = None,
) -> ShardReport:
    """Look through shards of any layout as a loader of all subjects would.

    If a shard has no ECG, this is a loader with signals="ppg".

    Args:
        paths, quality, layout, cache_dir, normalize_dtype: see `SegmentDataset`.
        progress: is called with (shard, segments that are done, segments in all or None) while shards are indexed.

    Returns:
        The report, which also names the shards that cannot be read.

    Raises:
        FileNotFoundError: a shard is missing.
        ValueError: no shard can be read, or an argument has a wrong value.
    """
    ppg, ecg = quality_pair(quality)
    index = index_of(paths, layout, cache_dir, progress)
    selection = selection_of(index, quality, normalize_dtype)
    per_subject = np.bincount(index.subject, minlength=len(index.subjects))
    per_subject = per_subject[per_subject > 0]
    bad = problem_rows(index, normalize_dtype)[:_LISTED]
    found = problems.count(index.problem, normalize_dtype)
    with_ecg = np.concatenate([np.full(s.stop - s.start, s.header.signals == "both") for s in index.shards])
    return ShardReport(
        shards=[_summary(shard) for shard in index.shards],
        broken=dict(index.broken),
        segments=len(index),
        size=sum(shard.sidecar.valid_for["size"] for shard in index.shards),
        subjects=len(per_subject),
        segments_per_subject={
            "min": int(per_subject.min()),
            "median": float(np.median(per_subject)),
            "max": int(per_subject.max()),
        },
        ppg_quality=_histogram(index.quality[:, 0], ppg),
        ecg_quality=_histogram(index.quality[with_ecg, 1], ecg) if with_ecg.any() else None,
        used=len(selection.rows),
        used_subjects=len(selection.subjects),
        rejected=dict(selection.rejected.most_common()),
        refused=_refusal(index, selection),
        problems=dict(found.most_common()),
        problem_records=[
            ProblemRecord(shard.path, name, problems.describe(int(index.problem[row]), normalize_dtype))
            for row, (shard, name) in zip(bad, record_names(index, bad), strict=True)
        ],
    )


def index_of(
    paths: Paths, layout: Layout | None, cache_dir: str | os.PathLike | None, progress: Progress | None = None
) -> SegmentIndex:
    """The index of the shards that can be read; ValueError, with all reasons, if none can.

    If a shard has no ECG, what is wrong with a segment is what is wrong with its PPG, as for a loader with
    signals="ppg".
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"\d+ of \d+ shards are left out")  # the report names them
        index = open_index(paths, layout=layout, cache_dir=cache_dir, on_bad="skip", progress=progress)
    if _signals(index) == "ppg":
        index.problem = problems_of_ppg(index, layout or Layout())
    return index


def selection_of(index: SegmentIndex, quality: Quality, normalize_dtype: NormalizeDtype) -> Selection:
    """The segments that a loader of all subjects uses; it takes the PPG alone if a shard has no ECG."""
    everyone = {"subjects": None, "exclude_subjects": (), "exclude_prefixes": EXCLUDED_PREFIXES}
    return select(
        index, quality=quality, normalize_dtype=normalize_dtype, split=None, seed=0, signals=_signals(index), **everyone
    )


def _signals(index: SegmentIndex) -> str:
    """The signals that all shards have: "both", or "ppg" if a shard has no ECG."""
    return "ppg" if any(shard.header.signals == "ppg" for shard in index.shards) else "both"


def problem_rows(index: SegmentIndex, normalize_dtype: NormalizeDtype) -> np.ndarray:
    """The rows of the segments that cannot be used whatever their quality, [k]."""
    return np.flatnonzero(index.problem & problems.relevant(normalize_dtype))


def record_names(index: SegmentIndex, rows: np.ndarray) -> list[tuple[Shard, str]]:
    """The shard of each row in `rows` [k], and the name of its record there."""
    names = []
    for number, row in zip(index.shard_of(rows).tolist(), rows.tolist(), strict=True):
        shard = index.shards[number]
        if not names or names[-1][0] is not shard:
            keys = shard.sidecar.keys()
        names.append((shard, keys[row - shard.start].decode("utf-8", "replace")))
    return names


def _summary(shard: Shard) -> ShardSummary:
    header = shard.header
    dtype = np.dtype(header.dtype)
    return ShardSummary(
        path=shard.path,
        layout=header.form,
        segments=shard.stop - shard.start,
        samples=header.seq_len,
        sampling_freq=header.sampling_freq,
        dtype=dtype.name if dtype.isnative else f"{dtype.name} {_ORDERS[dtype.byteorder]}",
        mapped=header.mapped,
        why_not=header.why_not,
        size=shard.sidecar.valid_for["size"],
        signals=header.signals,
    )


def _histogram(quality: np.ndarray, threshold: float) -> QualitySummary:
    known = quality[~np.isnan(quality)]
    counts = np.histogram(known, [i / BINS for i in range(BINS + 1)])[0].tolist()
    reached = int((known >= threshold).sum())
    unknown = len(quality) - len(known)
    return QualitySummary(float(threshold), counts, len(known) - sum(counts), unknown, len(known) - reached, reached)


def _refusal(index: SegmentIndex, selection: Selection) -> str:
    """Why a loader would raise an error; "" if it would not."""
    if not len(selection.rows):
        return "no segment remains"
    used = [index.shards[i].header for i in np.unique(index.shard_of(selection.rows))]
    lengths = sorted({header.seq_len for header in used})
    if len(lengths) > 1:
        return f"segments of {', '.join(map(str, lengths))} samples in different shards"
    if len({header.signals for header in used}) > 1:
        return 'PPG alone in some shards, which needs signals="ppg"'
    rates = sorted({header.sampling_freq for header in used} - {None})
    if len(rates) > 1:
        return f"{', '.join(f'{rate:g}' for rate in rates)} Hz in different shards"
    return ""
