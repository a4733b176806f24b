"""Embeddings of millions of segments, by any number of processes; interrupted work goes on where it was."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch

from xmae_fast._processes import device_of, place_in_environment
from xmae_fast.data.formats.layout import Layout
from xmae_fast.data.index.segment_index import Paths
from xmae_fast.embedding import checks
from xmae_fast.embedding.batches import encode_batches, made_ahead
from xmae_fast.embedding.precision import autocast_of, check_weights
from xmae_fast.embedding.sources import Read, RecordingSource, ShardSource, recording_files
from xmae_fast.embedding.store import FORMATS, Store, import_parquet
from xmae_fast.model.outputs import output_shape
from xmae_fast.model.pretrained import from_pretrained, recipe_of
from xmae_fast.model.recipe import Recipe
from xmae_fast.model.xmae import xMAE
from xmae_fast.workers.progress import Progress

DTYPES = ("float32", "float16")
_PART_BYTES = 1 << 25  # what a killed process may lose: about a minute's work of two cores


@dataclass(frozen=True)
class ExtractionReport:
    """What a call of `embed_files` did.

    Attributes:
        folder: of the embeddings.
        rows, parts: segments and parts of the whole work.
        written: segments that this process has embedded.
        resumed: segments in the share of this process that were embedded before.
        unusable: how many of those written could not be embedded and are NaN.
        rejected: segments that were left out, by reason.
        complete: whether all parts are there, those of other processes too.
        seconds: time of reading, encoding and writing.
    """

    folder: str
    rows: int
    parts: int
    written: int
    resumed: int
    unusable: int
    rejected: dict[str, int]
    complete: bool
    seconds: float

    @property
    def segments_per_s(self) -> float:
        """Speed of this process."""
        return self.written / self.seconds if self.seconds else 0.0

    def describe(self) -> str:
        """The report as a few lines of text."""
        share = f"{self.written:,} embedded in {self.seconds:.1f} s, {self.segments_per_s:,.0f} segments/s"
        lines = [f"{self.folder}: {self.rows:,} segments in {self.parts:,} part(s); {share}"]
        if self.resumed:
            lines.append(f"{self.resumed:,} were there already")
        if self.unusable:
            lines.append(f"{self.unusable:,} could not be embedded: NaN")
        if self.rejected:
            lines.append("left out: " + ", ".join(f"{count:,} {reason}" for reason, count in self.rejected.items()))
        if not self.complete:
            lines.append("parts of other processes are still missing")
        return "\n".join(lines)


def embed_files(
    paths: Paths,
    folder: str | os.PathLike[str],
    model: xMAE | str | os.PathLike[str],
    *,
    output: str = "pooled",
    file_format: str = "h5",
    dtype: str = "float32",
    quality: float | tuple[float, float] = 0.0,
    fs: float | None = None,
    hop: float | None = None,
    tail: str = "drop",
    recipe: Recipe | None = None,
    batch_size: int | None = None,
    part_rows: int | None = None,
    device: str | torch.device | None = None,
    autocast: torch.dtype | None = None,
    precision: str | None = None,
    rank: int | None = None,
    world_size: int | None = None,
    overwrite: bool = False,
    layout: Layout | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> ExtractionReport:
    """Embed all segments of shards, or all windows of recordings, into a folder that `read_embeddings` reads.

    Args:
        paths: shards (files, folders, patterns, addresses; as for `SegmentDataset`), or NumPy files of PPG as recorded
            (.npy [T] or [R, T]; .npz with such an array "ppg" and perhaps a number "fs").
        folder: of the embeddings; it is made if it is not there. Interrupted work goes on, and parts that are there
            stay.
        model: an xMAE, or what `from_pretrained` takes.
        output, autocast, precision: as for `Embedder`. They do not change the dtype of the files.
        file_format: "h5", "npy" (which can be mapped into memory; tables are .npz files beside it) or "parquet".
        dtype: "float32" or "float16".
        quality: that both signals of a segment of shards reach; 0 takes every segment whose quality can be read.
        fs, hop, tail: as for `Embedder`; for recordings alone.
        recipe: for recordings, in place of the model's.
        batch_size: segments at a time; None for 64 on a CPU and 1024 elsewhere.
        part_rows: segments of a part; None for 32 MiB of embeddings.
        device: None for the GPU of torchrun's LOCAL_RANK, or a GPU if there is one, or the CPU.
        rank, world_size: the number of this process and how many share the work; None for those of torchrun, or for one
            process alone. Process r embeds parts r, r + world_size, ...; the files are the same for any number.
        overwrite: replace the embeddings of other work, which one process alone can. Other files in the folder stay.
        layout, cache_dir: as for `SegmentDataset`; for shards alone.
        progress: called with (stage, done, total): a shard that is indexed, then "embed" and segments of this process.

    Returns:
        What this call did.

    Raises:
        ValueError, TypeError, FileNotFoundError: an argument is wrong; the message names it.
        FileExistsError: the folder holds something else.
    """
    for name, value, allowed in (("file_format", file_format, FORMATS), ("dtype", dtype, DTYPES)):
        if value not in allowed:
            raise ValueError(f"{name}: expected one of {', '.join(map(repr, allowed))}, got {value!r}")
    for name, value in (("batch_size", batch_size), ("part_rows", part_rows)):
        if value is not None and value < 1:
            raise ValueError(f"{name}: expected at least 1 or None, got {value}")
    if file_format == "parquet":
        import_parquet()
    rank, world_size = _place(rank, world_size)
    place = device_of(device)
    if overwrite and world_size > 1:
        raise ValueError("overwrite: expected False with several processes, got True")
    autocast = autocast_of(precision, autocast)
    model = model if isinstance(model, xMAE) else from_pretrained(model)
    check_weights(precision, model)
    shape = output_shape(model, output)
    recipe = recipe or recipe_of(model)
    source = _source(paths, recipe, fs, hop, tail, quality, layout, cache_dir, progress)
    model = model.to(place)
    batch_size = batch_size or (64 if model.mask_token.device.type == "cpu" else 1024)
    if part_rows is None:
        part_rows = max(1, _PART_BYTES // (int(np.prod(shape)) * np.dtype(dtype).itemsize))
    parts = -(-len(source) // part_rows)
    store = Store(folder)
    plan = {
        "output": output, "shape": list(shape), "dtype": dtype, "file_format": file_format, "rows": len(source),
        "part_rows": part_rows, "parts": parts, "quality": quality, "model": _digest(model), **source.describe(),
        **({} if autocast is None else {"autocast": str(autocast)}),
    }  # fmt: skip
    store.open(json.loads(json.dumps(plan)), overwrite)
    try:
        mine = range(rank, parts, world_size)
        todo = [number for number in mine if not store.has(number)]
        rows = {number: store.rows(number) for number in mine}
        resumed = sum(rows.values()) - sum(rows[number] for number in todo)
        tell = progress or (lambda *_: None)
        tell("embed", resumed, sum(rows.values()))
        written = unusable = 0
        began = time.perf_counter()
        with _Writer(store) as writer:
            batches = made_ahead(_batches(source, store, todo, batch_size))
            for (number, read), features in encode_batches(model, batches, output, autocast):
                features[~read.good] = np.nan
                if not written:
                    checks.warn_all(checks.embedding_problems(features, read.good))
                writer.add(number, features, read.columns)
                written, unusable = written + len(features), unusable + int((~read.good).sum())
                tell("embed", resumed + written, sum(rows.values()))
    finally:
        store.close()
    complete = all(store.has(number) for number in range(parts))
    rejected = plan["rejected"]
    seconds = time.perf_counter() - began
    return ExtractionReport(
        os.fspath(folder), len(source), parts, written, resumed, unusable, rejected, complete, seconds
    )


class _Writer:
    """Collects the rows of a part, and writes the part when it is complete, while the next one is embedded."""

    def __init__(self, store: Store) -> None:
        self.store, self.rows, self.columns, self.number = store, [], [], -1
        self.pool = ThreadPoolExecutor(1, "xmae_fast writer")
        self.writing: Future | None = None

    def __enter__(self) -> _Writer:
        return self

    def __exit__(self, kind, *_) -> None:
        self.pool.shutdown(wait=True)
        if kind is None and self.writing is not None:
            self.writing.result()

    def add(self, number: int, rows: np.ndarray, columns: dict[str, np.ndarray]) -> None:
        self.rows.append(rows)
        self.columns.append(columns)
        if sum(map(len, self.rows)) < self.store.rows(number):
            return
        if self.writing is not None:
            self.writing.result()
        table = {name: np.concatenate([part[name] for part in self.columns]) for name in columns}
        self.writing = self.pool.submit(self.store.write, number, np.concatenate(self.rows), table)
        self.rows, self.columns = [], []


def _batches(
    source: ShardSource | RecordingSource, store: Store, todo: list[int], batch_size: int
) -> Iterator[tuple[tuple[int, Read], np.ndarray]]:
    """((part, read), ppg) of all parts to do. No batch crosses parts, so that files do not depend on who does what."""
    for number in todo:
        first = number * store.plan["part_rows"]
        stop = first + store.rows(number)
        for start in range(first, stop, batch_size):
            read = source.read(np.arange(start, min(start + batch_size, stop)))
            yield (number, read), read.ppg


def _source(paths, recipe, fs, hop, tail, quality, layout, cache_dir, progress) -> ShardSource | RecordingSource:
    files = recording_files(paths)
    if files is not None:
        return RecordingSource(files, recipe, fs=fs, hop=hop, tail=tail)
    for name, value in (("fs", fs), ("hop", hop)):
        if value is not None:
            raise ValueError(f"{name}: expected None with shards, whose segments are cut and prepared, got {value}")
    return ShardSource(paths, recipe, quality=quality, layout=layout, cache_dir=cache_dir, progress=progress)


def _place(rank: int | None, world_size: int | None) -> tuple[int, int]:
    """rank and world_size: those given, or those of torchrun, or those of one process alone."""
    if (rank is None) != (world_size is None):
        raise ValueError(f"rank, world_size: expected both or neither, got {rank} and {world_size}")
    if rank is None or world_size is None:
        return place_in_environment()
    if not 0 <= rank < world_size:
        raise ValueError(f"rank: expected 0 to world_size - 1 = {world_size - 1}, got {rank}")
    return rank, world_size


def _digest(model: xMAE) -> str:
    """SHA-256 of the configuration, weights and statistics of a model."""
    digest = hashlib.sha256(json.dumps(model.cfg.to_dict(), sort_keys=True).encode())
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return f"sha256:{digest.hexdigest()}"
