"""Embeddings of millions of segments, by any number of processes; interrupted work goes on where it was."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from time import perf_counter
from typing import Any

import numpy as np
import torch

from xmae_fast._processes import device_of, place_in_environment
from xmae_fast.backend.explaining import note_implementations
from xmae_fast.data.formats.layout import Layout
from xmae_fast.data.index.segment_index import Paths
from xmae_fast.embedding import checks
from xmae_fast.embedding.batches import encode_batches, made_ahead
from xmae_fast.embedding.inputs import find_recordings
from xmae_fast.embedding.parquet import import_parquet
from xmae_fast.embedding.precision import autocast_of, check_weights
from xmae_fast.embedding.read import Read
from xmae_fast.embedding.recording_source import COLUMNS, RecordingSource
from xmae_fast.embedding.report import ExtractionReport
from xmae_fast.embedding.shard_source import ShardSource
from xmae_fast.embedding.store import FORMATS, Store
from xmae_fast.model.outputs import output_shape
from xmae_fast.model.pretrained import from_pretrained, recipe_of
from xmae_fast.model.recipe import Recipe
from xmae_fast.model.xmae import xMAE
from xmae_fast.recordings.reading import Reading
from xmae_fast.recordings.recording import RecordingError
from xmae_fast.workers.progress import Progress

_log = logging.getLogger("xmae_fast.embedding")
DTYPES = ("float32", "float16")
_PART_BYTES = 1 << 25  # what a killed process may lose: about a minute's work of two cores


def embed_files(
    paths: Paths,
    folder: str | os.PathLike[str],
    model: xMAE | str | os.PathLike[str],
    *,
    output: str = "pooled",
    file_format: str = "h5",
    dtype: str = "float32",
    quality: float | tuple[float, float] = 0.0,
    ppg: str | None = None,
    fs: float | None = None,
    hop: float | None = None,
    tail: str = "drop",
    polarity: str = "keep",
    subject: str = "name",
    time: str | None = None,
    day_first: bool | None = None,
    skip_rows: int | None = None,
    encoding: str | None = None,
    decimal: str | None = None,
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
        paths: shards (files, folders, patterns, addresses; as for `SegmentDataset`), or recordings of PPG, alone or
            with other signals, in any format that `prepare` reads (files, folders with all folders in them, patterns).
            A .npy file holds [T] or [R, T], a recording in each row.
        folder: of the embeddings; it is made if it is not there. Interrupted work goes on, and parts that are there
            stay. `recordings.csv` in it says what was found out about each recording.
        model: an xMAE, or what `from_pretrained` takes.
        output, autocast, precision: as for `Embedder`. They do not change the dtype of the files.
        file_format: "h5", "npy" (which can be mapped into memory; tables are .npz files beside it) or "parquet".
        dtype: "float32" or "float16".
        quality: that the PPG of a segment of shards reaches; 0 takes every segment whose quality can be read.
        ppg, time, day_first, skip_rows, encoding, decimal: how recordings are read, as for `prepare`.
        fs: Hz of recordings, which goes before that of the file.
        hop, tail: as for `Embedder`; for recordings alone.
        polarity: what is done with a recording that is upside down: "keep" leaves it as it is and says so; "auto" turns
            it round; "flip" turns every recording round.
        subject: how recordings get their subjects, as for `prepare`.
        recipe: for recordings, in place of the model's.
        batch_size: segments at a time; None for 64 on a CPU and 1024 elsewhere.
        part_rows: segments of a part; None for 32 MiB of embeddings.
        device: None for the GPU of torchrun's LOCAL_RANK, or a GPU if there is one, or the CPU.
        rank, world_size: the number of this process and how many share the work; None for those of torchrun, or for one
            process alone. Process r embeds parts r, r + world_size, ...; the files are the same for any number.
        overwrite: replace the embeddings of other work, which one process alone can. Other files in the folder stay.
        layout, cache_dir: as for `SegmentDataset`; for shards alone.
        progress: called with (stage, done, total): a shard that is indexed, or "recordings", then "embed" and segments
            of this process.

    Returns:
        What this call did.

    Raises:
        ValueError, TypeError, FileNotFoundError: an argument is wrong; the message names it.
        FileExistsError: the folder holds something else.
        RecordingError: no recording can be embedded. One that cannot does not stop the call: it is in `errors` of the
            report, and the same call tries it again; its windows then come after those of the others.
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
    store = Store(folder)
    reading = Reading(ppg, None, fs, "ppg", time, day_first, skip_rows, encoding, decimal)
    options = {"reading": reading, "hop": hop, "tail": tail, "polarity": polarity, "subject": subject}
    begun = None if overwrite else store.begun()
    source = _source(paths, recipe, options, begun, quality, layout, cache_dir, progress)
    model = model.to(place)
    batch_size = batch_size or (64 if model.mask_token.device.type == "cpu" else 1024)
    if part_rows is None:
        part_rows = max(1, _PART_BYTES // (int(np.prod(shape)) * np.dtype(dtype).itemsize))
    parts = -(-len(source) // part_rows)
    plan = {
        "output": output, "shape": list(shape), "dtype": dtype, "file_format": file_format, "rows": len(source),
        "part_rows": part_rows, "parts": parts, "quality": quality, "model": _digest(model), **source.describe(),
        **({} if autocast is None else {"autocast": str(autocast)}),
    }  # fmt: skip
    findings = source.findings()
    store.open(json.loads(json.dumps(plan)), overwrite, alone=world_size == 1)
    try:
        if isinstance(source, RecordingSource):
            store.write_table(COLUMNS, source.table())
        else:
            checks.warn_all(text for texts in findings.values() for text in texts)
        mine = range(rank, parts, world_size)
        todo = [number for number in mine if not store.has(number)]
        rows = {number: store.rows(number) for number in mine}
        resumed = sum(rows.values()) - sum(rows[number] for number in todo)
        tell = progress or (lambda *_: None)
        if resumed:
            _log.debug("%s: %d of %d parts are there", folder, len(mine) - len(todo), len(mine))
        with torch.autocast(place.type, autocast) if autocast is not None else nullcontext():
            note_implementations(model)
        tell("embed", resumed, sum(rows.values()))
        written = unusable = 0
        began = perf_counter()
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
    seconds = perf_counter() - began
    return ExtractionReport(
        os.fspath(folder), len(source), parts, written, resumed, unusable, rejected, complete, seconds,
        source.recordings, source.errors, findings,
    )  # fmt: skip


class _Writer:
    """Collects the rows of a part, and writes the part when it is complete, while the next one is embedded."""

    def __init__(self, store: Store) -> None:
        self.store, self.rows, self.done, self.columns = store, np.empty(0), 0, []
        self.pool = ThreadPoolExecutor(1, "xmae_fast writer")
        self.writing: Future | None = None

    def __enter__(self) -> _Writer:
        return self

    def __exit__(self, kind, *_) -> None:
        self.pool.shutdown(wait=True)
        if kind is None and self.writing is not None:
            self.writing.result()

    def add(self, number: int, rows: np.ndarray, columns: dict[str, np.ndarray]) -> None:
        if not self.done:  # batches that stay in memory one by one leave holes in the heap
            self.rows = np.empty((self.store.rows(number), *rows.shape[1:]), rows.dtype)
        self.rows[self.done : self.done + len(rows)] = rows
        self.done += len(rows)
        self.columns.append(columns)
        if self.done < len(self.rows):
            return
        if self.writing is not None:
            self.writing.result()
        table = {name: np.concatenate([part[name] for part in self.columns]) for name in columns}
        self.writing = self.pool.submit(self.store.write, number, self.rows, table)
        self.rows, self.done, self.columns = np.empty(0), 0, []


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


def _source(
    paths: Paths, recipe: Recipe, options: dict[str, Any], begun: dict[str, Any] | None, quality, layout, cache_dir,
    progress: Progress | None,
) -> ShardSource | RecordingSource:  # fmt: skip
    """What is embedded; `begun` is the plan of work that may have been begun, whose recordings keep their order."""
    paths = paths if isinstance(paths, str | os.PathLike) else list(paths)
    sources = find_recordings(paths, options["reading"].fs is not None)
    if sources is None:
        usual = {"polarity": "keep", "subject": "name", "signals": "ppg"}
        for name, value in {**options["reading"]._asdict(), **options}.items():
            if name not in ("reading", "tail") and value != usual.get(name):
                which = f"{usual.get(name)} with shards, whose segments are cut and prepared"
                raise ValueError(f"{name}: expected {which}, got {value}")
        return ShardSource(paths, recipe, quality=quality, layout=layout, cache_dir=cache_dir, progress=progress)
    order = [one["name"] for one in begun["inputs"]] if begun is not None and "windows" in begun else []
    source = RecordingSource(sources, recipe, **options, order=order, progress=progress)
    if lost := next((name for name in order if name in source.errors), None):
        raise RecordingError(f"{source.errors[lost]} (it could be read when these embeddings were begun)")
    return source


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
