"""What shards hold, how good it is, and what a loader would use of it."""

import os
import warnings
from dataclasses import asdict, dataclass

import numpy as np

from xmae_fast.data import problems
from xmae_fast.data.augment import NormalizeDtype
from xmae_fast.data.formats.layout import Layout
from xmae_fast.data.index.segment_index import Paths, SegmentIndex, Shard, open_index
from xmae_fast.data.options import Quality, quality_pair
from xmae_fast.data.selection import Selection, select
from xmae_fast.data.splits import EXCLUDED_PREFIXES
from xmae_fast.workers.progress import Progress

BINS = 10  # of the qualities, over 0 to 1
_LISTED = 20  # records with a problem that are named
_ORDERS = {">": "big-endian", "<": "little-endian"}


@dataclass(frozen=True)
class ShardSummary:
    """One shard. layout: "published" or "packed"; samples: of a segment; sampling_freq: Hz or None; mapped: whether it
    is read from a memory map, if not `why_not`; size: bytes."""

    path: str
    layout: str
    segments: int
    samples: int
    sampling_freq: float | None
    dtype: str
    mapped: bool
    why_not: str
    size: int


@dataclass(frozen=True)
class QualitySummary:
    """Qualities of one signal, in numbers of segments. counts: in 10 equal bins from 0 to 1, the last with 1; outside:
    less than 0 or more than 1; unknown: whose quality cannot be read; below, reached: against the threshold."""

    threshold: float
    counts: list[int]
    outside: int
    unknown: int
    below: int
    reached: int


@dataclass(frozen=True)
class ProblemRecord:
    """A segment that no loader uses."""

    shard: str
    record: str
    reason: str


@dataclass(frozen=True)
class ShardReport:
    """What `inspect_shards` found. broken: shards that cannot be read, and why. size: bytes of the others.

    used, used_subjects, rejected: what a loader with these thresholds takes, and what it leaves out, each segment by
    the first reason that applies; refused: why it would raise an error instead, or "". problems: segments that are
    unusable whatever their quality, by reason; problem_records: the first 20 of them."""

    shards: list[ShardSummary]
    broken: dict[str, str]
    segments: int
    size: int
    subjects: int
    segments_per_subject: dict[str, float]
    ppg_quality: QualitySummary
    ecg_quality: QualitySummary
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
    """Look through shards of any layout as a loader of all subjects would; arguments as for `SegmentDataset`, errors
    those of `open_index`. Shards that cannot be read are part of the report, unless none can: ValueError.
    `progress`: called with (shard, segments done, in all if known) for shards that are indexed."""
    ppg, ecg = quality_pair(quality)
    index = index_of(paths, layout, cache_dir, progress)
    selection = selection_of(index, quality, normalize_dtype)
    per_subject = np.bincount(index.subject, minlength=len(index.subjects))
    per_subject = per_subject[per_subject > 0]
    bad = problem_rows(index, normalize_dtype)[:_LISTED]
    found = problems.count(index.problem, normalize_dtype)
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
        ecg_quality=_histogram(index.quality[:, 1], ecg),
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
    """The index of the shards that can be read. ValueError, with all reasons, when none can."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"\d+ of \d+ shards are left out")  # the report names them
        return open_index(paths, layout=layout, cache_dir=cache_dir, on_bad="skip", progress=progress)


def selection_of(index: SegmentIndex, quality: Quality, normalize_dtype: NormalizeDtype) -> Selection:
    """What a loader takes of all subjects."""
    everyone = {"subjects": None, "exclude_subjects": (), "exclude_prefixes": EXCLUDED_PREFIXES}
    return select(index, quality=quality, normalize_dtype=normalize_dtype, split=None, seed=0, **everyone)


def problem_rows(index: SegmentIndex, normalize_dtype: NormalizeDtype) -> np.ndarray:
    """(k,) rows of the segments that are unusable whatever their quality."""
    return np.flatnonzero(index.problem & problems.relevant(normalize_dtype))


def record_names(index: SegmentIndex, rows: np.ndarray) -> list[tuple[Shard, str]]:
    """The shard of each row, and the name of the record in it."""
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
    )


def _histogram(quality: np.ndarray, threshold: float) -> QualitySummary:
    known = quality[~np.isnan(quality)]
    counts = np.histogram(known, [i / BINS for i in range(BINS + 1)])[0].tolist()
    reached = int((known >= threshold).sum())
    unknown = len(quality) - len(known)
    return QualitySummary(float(threshold), counts, len(known) - sum(counts), unknown, len(known) - reached, reached)


def _refusal(index: SegmentIndex, selection: Selection) -> str:
    if not len(selection.rows):
        return "no segment remains"
    used = [index.shards[i].header for i in np.unique(index.shard_of(selection.rows))]
    lengths = sorted({header.seq_len for header in used})
    if len(lengths) > 1:
        return f"segments of {', '.join(map(str, lengths))} samples in different shards"
    rates = sorted({header.sampling_freq for header in used} - {None})
    if len(rates) > 1:
        return f"{', '.join(f'{rate:g}' for rate in rates)} Hz in different shards"
    return ""
