"""Copies shards of any layout into one packed file, which is mapped and read fastest."""

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
from xmae_fast.data.formats.shards import open_shard
from xmae_fast.data.index.segment_index import Paths
from xmae_fast.data.options import Quality, quality_pair
from xmae_fast.data.repacking.copy import PackedCopy
from xmae_fast.data.repacking.journal import Journal, locked, sync_folder
from xmae_fast.data.segments import Segments
from xmae_fast.workers.progress import Progress


@dataclass(frozen=True)
class RepackReport:
    """What `repack` has written.

    Args:
        output: the file.
        segments: n.
        subjects: how many subjects the segments have.
        seq_len: L.
        dtype: of the signals.
        sampling_freq: in Hz; None if it is not known.
        size: of the file, in bytes.
        sources: the shards that segments were taken from.
        rejected: how many segments were left out, by reason.
        broken: the shards that were left out, and why.
        checksums: of the signals.
        resumed: how many segments an earlier, interrupted call had copied.
        seconds: how long the call took.
    """

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
        """The fields by name, for JSON."""
        return asdict(self)

    def describe(self) -> str:
        """Says in a few lines what was written."""
        rate = f" at {self.sampling_freq:g} Hz" if self.sampling_freq else ""
        rejected = ", ".join(f"{count:,} {reason}" for reason, count in self.rejected.items()) or "none"
        lines = [
            f"{self.output}: {self.segments:,} segments of {self.seq_len} samples{rate}, {self.dtype}, of"
            f" {self.subjects:,} subjects from {len(self.sources)} shard(s);"
            f" {self.size:,} bytes in {self.seconds:.1f} s",
            f"left out: {rejected}",
            *(f"left out: {reason}" for reason in problems.grouped(self.broken)),
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
    signals: Literal["both", "ppg"] | None = None,
) -> RepackReport:
    """Copy the selected segments, in the order of the shards, to one HDF5 file of the packed layout.

    The file has the following data sets:

    ppg, ecg: [n, L], contiguous from a multiple of 4096 bytes on. The values are those of the shards, bit for bit, in
        native byte order, or converted to `dtype`.
    subject: [n] int32, indices into `subjects`.
    ppg_quality, ecg_quality: [n] float64. A file of PPG alone has neither ecg nor ecg_quality.
    source: [n] int32, indices into `sources`, which has the columns path, size, mtime_ns and probe.
    key: [n] bytes, the name of the record in its source: group/key, or of a packed shard its own `key`, or else the
        number of the row.

    Each data set has its SHA-256 as the attribute `checksum`; attributes of the root say how the file was made.

    `output` appears whole, after everything was read again and compared, or not at all. Until then the data are in
    `.<name>.partial` beside it. A call with the same shards and settings goes on where an interrupted one has ended; a
    call with others starts again. Except for the index, memory does not grow with n.

    Args:
        paths: the shards.
        output: the file.
        quality, subjects, exclude_subjects, exclude_prefixes, layout, cache_dir, normalize_dtype, num_threads: see
            `SegmentDataset`.
        on_bad: what happens to a segment or a shard with a problem: "raise" raises ValueError, "skip" leaves it out and
            counts it.
        dtype: of the signals in the file; by default that of the shards. It must be given if the shards have several.
        progress: is called with (shard, segments that are done, segments in all or None) while shards are indexed, then
            with ("copy", segments that are done, n) and ("verify", segments that are done, n).
        overwrite: replace `output` if it is a packed file of `repack` or `prepare`; another file is never replaced. An
            `output` that the same call has made is finished, and its report is returned.
        signals: "ppg" copies the PPG alone, "both" needs shards that all have ECG; None copies what the shards have.

    Raises:
        FileNotFoundError, ValueError: as `SegmentDataset` raises them; ValueError also for shards of several dtypes
            without `dtype`, and for a segment that `dtype` cannot hold.
        FileExistsError: `output` is there and is not to be replaced.
        OSError: another process writes the same output, or the disk has no room.
        ShardChangedError: a shard has changed meanwhile.
    """
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
    paths = [paths] if isinstance(paths, (str, os.PathLike)) else list(paths)
    _check_folder(output, paths)
    segments = Segments(paths, signals=signals, **selection, **options)
    if segments.signals == "ppg":
        selection["signals"] = segments.signals
    for shard in segments.index.shards:
        check_not_input(output, [shard.path, *shard.sidecar.valid_for.get("others", {})])
    kind = _stored_dtype(segments, dtype)
    if not overwrite and os.path.exists(output):
        return _finished(output, segments, kind, selection | {"dtype": dtype})
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
        if not overwrite and os.path.exists(output):
            raise FileExistsError(f"output: {output} appeared meanwhile (overwrite=True replaces it)")
        os.replace(partial, output)
        sync_folder(output)
        copy.journal.remove()
    used = [segments.index.shards[i].path for i in copy.source.used]
    return RepackReport(
        output, len(segments), len(segments.subjects), segments.seq_len, kind.name, segments.sampling_freq, size, used,
        dict(segments.rejected.most_common()), dict(segments.index.broken), checksums, resumed,
        time.perf_counter() - began,
    )  # fmt: skip


def _finished(output: str, segments: Segments, kind: np.dtype, settings: dict) -> RepackReport:
    """The report of an earlier call with the same shards and settings, which has written `output`.

    Raises:
        FileExistsError: another call has written it.
    """
    copy = PackedCopy(segments, kind, settings, -1, Journal(""), None)
    expected = {**copy.attributes(), "created": None}
    with open_shard(output) as file:
        same = {**file.attrs, "created": None} == expected  # they say which signals it has, too
        same = same and (len(segments), segments.seq_len) == file["ppg"].shape and file["ppg"].dtype == kind
        if not (same and bytes(file["sources"][()]) == copy.source.sources().tobytes()):
            message = f"{output} exists already, made with other settings (overwrite=True replaces it)"
            raise FileExistsError(f"output: {message}")
        checksums = {name: bytes(file[name].attrs["checksum"]).decode() for name in segments.names}
    used = [segments.index.shards[i].path for i in copy.source.used]
    return RepackReport(
        output, len(segments), len(segments.subjects), segments.seq_len, kind.name, segments.sampling_freq,
        os.stat(output).st_size, used, dict(segments.rejected.most_common()), dict(segments.index.broken), checksums,
        len(segments), 0.0,
    )  # fmt: skip


def _stored_dtype(segments: Segments, dtype: str | None) -> np.dtype:
    """The dtype of the signals in the file.

    Raises:
        ValueError: the shards have several and none was asked for, or a segment would become constant or not finite.
    """
    index = segments.index
    files = index.shard_of(segments.rows)
    types = {int(i): index.shards[i].format.dtype.newbyteorder("=") for i in np.unique(files)}
    if dtype is None:
        if len(set(types.values())) > 1:
            found = ", ".join(f"{kind} in {index.shards[i].path}" for i, kind in types.items())
            raise ValueError(f"dtype: expected the type to convert to, as the shards have several: {found}; got None")
        return types.popitem()[1]
    if dtype == "float16":  # values that overflow wider types were rejected before
        wider = np.isin(files, [i for i, kind in types.items() if kind != dtype])
        lost = index.problem[segments.rows] & problems.relevant(dtype) * wider
        if lost.any():
            first = int(np.flatnonzero(lost)[0])
            name, reason = index.name(int(segments.rows[first])), problems.describe(int(lost[first]), dtype)
            raise ValueError(f"dtype: expected values that float16 holds, {name} is {reason} in it")
    return np.dtype(dtype)


def _check_output(output: str, overwrite: bool) -> None:
    """An OSError says why `output` cannot be written."""
    if os.path.isdir(output) or not os.path.basename(output):
        raise IsADirectoryError(f"output: expected the name of a file, got the folder {output}")
    if not os.path.isdir(os.path.dirname(output) or "."):
        raise FileNotFoundError(f"output: expected a file in an existing folder, got {output}")
    if os.path.exists(output) and not overwrite and not packed.is_packed_file(output):
        raise FileExistsError(f"output: {output} exists already and is no packed file of xmae-fast: give another name")
    check_replaceable(output, packed.is_packed_file, "a packed file of xmae-fast")


def _check_folder(output: str, paths: Iterable[str | os.PathLike]) -> None:
    """Raise ValueError if a new output would be one more shard of an input folder, with its segments once more."""
    folder = os.path.realpath(os.path.dirname(output) or ".")
    for given in paths:
        if os.path.isdir(given) and os.path.realpath(given) == folder and not os.path.exists(output):
            what = f"{given} would hold every segment twice"
            raise ValueError(f"output: expected a file outside the input folder, got {output}: {what}")


def _listed(names: Iterable[str] | None) -> list[str] | str | None:
    """Names in sorted order. A text stays as it is; `Segments` says that it expects a list of names."""
    return names if names is None or isinstance(names, str) else sorted(set(names))
