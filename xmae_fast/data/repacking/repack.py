"""Shards of any layout to one packed file, which maps and loads fastest."""

import os
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np

from xmae_fast._files import check_not_input, check_replaceable
from xmae_fast.data import problems
from xmae_fast.data.augment import NormalizeDtype
from xmae_fast.data.formats import packed
from xmae_fast.data.formats.layout import Layout
from xmae_fast.data.index.segment_index import Paths
from xmae_fast.data.options import Quality, quality_pair
from xmae_fast.data.repacking.copy import PackedCopy
from xmae_fast.data.repacking.journal import Journal, locked, sync_folder
from xmae_fast.data.segments import Segments
from xmae_fast.workers.progress import Progress


@dataclass(frozen=True)
class RepackReport:
    """What `repack` wrote. segments, seq_len: n and L of the signals; size: bytes of the file; rejected: segments that
    were left out, by reason; broken: shards that were, and why; checksums: of PPG and ECG; resumed: segments that an
    earlier, interrupted call had copied."""

    output: str
    segments: int
    subjects: int
    seq_len: int
    dtype: str
    sampling_freq: float | None
    size: int
    sources: list[str]
    rejected: dict[str, int]
    broken: dict[str, str]
    checksums: dict[str, str]
    resumed: int
    seconds: float

    def to_dict(self) -> dict:
        return asdict(self)

    def describe(self) -> str:
        """A few lines."""
        rate = f" at {self.sampling_freq:g} Hz" if self.sampling_freq else ""
        rejected = ", ".join(f"{count:,} {reason}" for reason, count in self.rejected.items()) or "none"
        lines = [
            f"{self.output}: {self.segments:,} segments of {self.seq_len} samples{rate}, {self.dtype}, of"
            f" {self.subjects:,} subjects from {len(self.sources)} shard(s);"
            f" {self.size:,} bytes in {self.seconds:.1f} s",
            f"left out: {rejected}",
            *(f"left out: {reason}" for reason in self.broken.values()),
            *(f"{name}: {checksum}" for name, checksum in self.checksums.items()),
        ]
        if self.resumed:
            lines.insert(1, f"resumed: {self.resumed:,} segments were there already")
        return "\n".join(lines)


def repack(
    paths: Paths,
    output: str | os.PathLike,
    *,
    quality: Quality = 0.0,
    subjects: Iterable[str] | None = None,
    exclude_subjects: Iterable[str] = (),
    exclude_prefixes: tuple[str, ...] = (),
    layout: Layout | None = None,
    cache_dir: str | os.PathLike | None = None,
    on_bad: Literal["skip", "raise"] = "skip",
    normalize_dtype: NormalizeDtype = "float16",
    dtype: Literal["float16", "float32", "float64"] | None = None,
    num_threads: int | None = None,
    progress: Progress | None = None,
    overwrite: bool = False,
) -> RepackReport:
    """Copy the segments that pass the selection, in the order of the shards, to one HDF5 file of the packed layout.

    ppg, ecg: (n, L), contiguous from a multiple of 4096 bytes on, values bit for bit in native byte order, or converted
        to `dtype`, which shards of different types need.
    subject: (n,) int32 into `subjects`; ppg_quality, ecg_quality: (n,) float64; source: (n,) int32 into `sources`
        (path, size, mtime_ns, probe); key: (n,) bytes, the record's name there (group/key; of a packed shard its own
        `key`, else the row number). Every data set has its SHA-256 as attribute `checksum`; the root's attributes say
        how the file came about.

    quality, subjects, exclude_subjects, exclude_prefixes, layout, cache_dir, on_bad, normalize_dtype, num_threads: as
        for `SegmentDataset`; "raise" refuses a segment or shard with a problem, "skip" leaves it out and counts it.
    progress: called with (stage, done, in all), stage a shard that is indexed, then "copy" and "verify" in segments.
    overwrite: replace a packed file of `repack` or `prepare` that is there; any other is left alone.

    `output` appears whole, after everything was read back and compared, or not at all. Until then the data are in
    `.<name>.partial` beside it; a call with the same shards and settings goes on where an interrupted one ended, any
    other starts anew. Memory does not grow with n beyond the index.

    Errors: those of `SegmentDataset`; FileExistsError; ValueError for shards of different dtypes without `dtype`, and
    for a segment that `dtype` cannot hold; OSError where another process writes the same output, or the disk has no
    room; ShardChangedError where a shard changed meanwhile."""
    output, began = os.fspath(output), time.perf_counter()
    _check_output(output, overwrite)
    if dtype not in (None, "float16", "float32", "float64"):
        raise ValueError(f"dtype: expected 'float16', 'float32', 'float64' or None, got {dtype!r}")
    if isinstance(exclude_prefixes, str):
        raise ValueError(f"exclude_prefixes: expected a list of names, got the text {exclude_prefixes!r}")
    selection = {
        "quality": tuple(map(float, quality_pair(quality))),
        "subjects": _listed(subjects),
        "exclude_subjects": _listed(exclude_subjects),
        "exclude_prefixes": _listed(exclude_prefixes),
        "on_bad": on_bad,
        "normalize_dtype": normalize_dtype,
    }
    options = {"num_threads": num_threads, "layout": layout, "cache_dir": cache_dir, "progress": progress}
    segments = Segments(paths, **selection, **options)
    for shard in segments.index.shards:
        check_not_input(output, [shard.path, *shard.sidecar.valid_for.get("others", {})])
    kind = _stored_dtype(segments, dtype)
    partial = os.path.join(os.path.dirname(output), f".{os.path.basename(output)}.partial")
    with locked(partial, output) as fd:
        _check_output(output, overwrite)
        copy = PackedCopy(segments, kind, selection | {"dtype": dtype}, fd, Journal(f"{partial}.json"), progress)
        resumed = copy.prepare(os.path.dirname(output) or ".")
        copy.run()
        checksums = copy.verify()
        packed.set_checksums(fd, checksums)
        os.fsync(fd)
        size = os.fstat(fd).st_size
        _check_output(output, overwrite)
        os.replace(partial, output)
        sync_folder(output)
        copy.journal.remove()
    used = [segments.index.shards[i].path for i in copy.source.used]
    return RepackReport(
        output, len(segments), len(segments.subjects), segments.seq_len, kind.name, segments.sampling_freq, size, used,
        dict(segments.rejected.most_common()), dict(segments.index.broken), checksums, resumed,
        time.perf_counter() - began,
    )  # fmt: skip


def _stored_dtype(segments: Segments, dtype: str | None) -> np.dtype:
    """The type of the signals in the file. ValueError where the shards have several and none was asked for, or where a
    segment would be constant or not finite in it."""
    index = segments.index
    files = index.shard_of(segments.rows)
    types = {int(i): index.shards[i].format.dtype.newbyteorder("=") for i in np.unique(files)}
    if dtype is None:
        if len(set(types.values())) > 1:
            found = ", ".join(f"{kind} in {index.shards[i].path}" for i, kind in types.items())
            raise ValueError(f"dtype: expected the type to convert to, as the shards have several: {found}; got None")
        return types.popitem()[1]
    if dtype == "float16":  # overflow in wider types is rejected before
        wider = np.isin(files, [i for i, kind in types.items() if kind != dtype])
        lost = index.problem[segments.rows] & problems.relevant(dtype) * wider
        if lost.any():
            first = int(np.flatnonzero(lost)[0])
            name, reason = index.name(int(segments.rows[first])), problems.describe(int(lost[first]), dtype)
            raise ValueError(f"dtype: expected values that float16 holds, {name} is {reason} in it")
    return np.dtype(dtype)


def _check_output(output: str, overwrite: bool) -> None:
    if os.path.isdir(output) or not os.path.basename(output):
        raise IsADirectoryError(f"output: expected the name of a file, got the folder {output}")
    if not os.path.isdir(os.path.dirname(output) or "."):
        raise FileNotFoundError(f"output: expected a file in an existing folder, got {output}")
    if os.path.exists(output) and not overwrite:
        raise FileExistsError(f"output: {output} exists already (overwrite=True replaces it)")
    check_replaceable(output, packed.is_packed_file, "a packed file of xmae-fast")


def _listed(names: Iterable[str] | None) -> list[str] | str | None:
    """Sorted, for one order of all; a text stays one, to be refused where names are expected."""
    return names if names is None or isinstance(names, str) else sorted(set(names))
