"""Embeddings on disk: a folder of parts, and embeddings.json, which says what they are. No file is half written."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from xmae_fast._files import LOCK, Lock, atomic_path, remains
from xmae_fast._full_disk import new_hdf5
from xmae_fast.data.formats.shards import import_h5py
from xmae_fast.embedding.frames import frame
from xmae_fast.embedding.parquet import TEXT, read_parquet, write_parquet

if TYPE_CHECKING:
    import pandas

FORMATS = ("h5", "npy", "parquet")
PLAN, TABLE = "embeddings.json", "recordings.csv"
_KIND, _VERSION = "xmae_fast embeddings", 1


@dataclass(frozen=True, eq=False)
class StoredEmbeddings:
    """Embeddings of n segments.

    Attributes:
        embeddings: [n, D], [n, proj_dim] or [n, N, D]; NaN for segments that could not be embedded.
        key: [n] text, the name of the record in its shard, or the name of the recording and the begin of the window.
        subject: [n] text.
        columns: further [n] arrays: "ppg_quality", and "ecg_quality" of shards, or "time" [s] and "pulse_rate" [1/min]
            of recordings.
        about: what embeddings.json says.
    """

    embeddings: np.ndarray
    key: np.ndarray
    subject: np.ndarray
    columns: dict[str, np.ndarray]
    about: dict[str, Any]

    def __len__(self) -> int:
        return len(self.embeddings)

    def to_frame(self) -> pandas.DataFrame:
        """A table of pandas with a row for each segment.

        Returns:
            The index is "key", the columns are "subject", those of `columns`, and the numbers of the embedding in the
            dtype of the files, named "xmae_pooled_0" and so on by the output.

        Raises:
            ImportError: pandas is missing.
        """
        columns = {"subject": self.subject.astype(object), **self.columns}
        return frame(self.embeddings, self.about["output"], columns, {"key": self.key.astype(object)})


def read_embeddings(folder: str | os.PathLike[str]) -> StoredEmbeddings:
    """Read all embeddings that `embed_files` or `xmae-fast embed` wrote to a folder, in the order of the input.

    Raises:
        FileNotFoundError: there is no such folder of embeddings.
        ValueError: a file is damaged, or parts are still missing.
    """
    parts = list(iter_embeddings(folder))
    if not parts:  # no segments: embed_files refuses that
        raise ValueError(f"{folder}: expected embeddings, found none")
    columns = {name: np.concatenate([part.columns[name] for part in parts]) for name in parts[0].columns}
    embeddings, key, subject = (
        np.concatenate([getattr(part, name) for part in parts]) for name in ("embeddings", "key", "subject")
    )
    return StoredEmbeddings(embeddings, key, subject, columns, parts[0].about)


def iter_embeddings(folder: str | os.PathLike[str]) -> Iterator[StoredEmbeddings]:
    """Read embeddings as `read_embeddings` does, but part by part, as they may not fit into memory together."""
    store = Store(folder)
    plan = store.read_plan()
    missing = [number for number in range(plan["parts"]) if not store.has(number)]
    if missing:
        todo = f"{len(missing):,} of {plan['parts']:,} parts are missing, number {missing[0]} for one"
        raise ValueError(f"{folder}: expected finished embeddings, {todo}; the same command again goes on")
    for number in range(plan["parts"]):
        yield store.read(number)


class Store:
    """The folder that one call of `embed_files` fills."""

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        self.plan: dict[str, Any] = {}
        self.lock: Lock | None = None

    def read_plan(self) -> dict[str, Any]:
        """Read embeddings.json.

        Raises:
            FileNotFoundError: it is not there.
            ValueError: it is damaged, or of another kind or version.
        """
        path = self.folder / PLAN
        if not path.is_file():
            raise FileNotFoundError(f"{self.folder}: expected a folder of embeddings, with {PLAN}")
        try:
            plan = json.loads(path.read_text(encoding="utf-8"))
            kind = plan["kind"], plan["version"]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path}: expected JSON as embed_files writes it, it is damaged ({error!r})") from error
        if kind != (_KIND, _VERSION):
            raise ValueError(f"{path}: expected {_KIND!r} of version {_VERSION}, got {kind[0]!r} of {kind[1]}")
        self.plan = plan
        return plan

    def begun(self) -> dict[str, Any] | None:
        """What embeddings.json says; None if there is no such file, or it is damaged or of another kind."""
        try:
            return self.read_plan()
        except (OSError, ValueError):
            return None

    def open(self, plan: dict[str, Any], overwrite: bool, alone: bool = True) -> None:
        """Begin the work, or go on with it, until `close`.

        Work whose plan names recordings that could not be read goes on with a plan in which some of them come after
        the others: full parts stay, and the last part is written again if it was not full.

        Args:
            plan: what embeddings.json says of the work.
            overwrite: replace the embeddings of other work.
            alone: whether this process alone does the work; several cannot add recordings.

        Raises:
            FileExistsError: the folder holds other work, or no embeddings at all.
            ValueError: recordings are to be added, and `alone` is False.
            BlockingIOError: another process writes to a folder that this one is to replace, or it replaces it.
        """
        plan = {"kind": _KIND, "version": _VERSION, **plan}
        self.folder.mkdir(parents=True, exist_ok=True)
        self.lock = lock = Lock(self.folder, shared=True)
        try:
            self._begin(lock, plan, overwrite, alone)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Release the lock of the folder."""
        if self.lock is not None:
            self.lock.release()

    def write_table(self, columns: Sequence[str], rows: Iterable[dict[str, Any]]) -> None:
        """Write recordings.csv, a row for each recording."""
        text: dict[str, Any] = {"encoding": "utf-8", "errors": "backslashreplace", "newline": ""}
        with atomic_path(self.folder / TABLE) as temporary, open(temporary, "w", **text) as file:
            table = csv.DictWriter(file, columns)
            table.writeheader()
            table.writerows(rows)

    def _begin(self, lock: Lock, plan: dict[str, Any], overwrite: bool, alone: bool) -> None:
        path = self.folder / PLAN
        if path.is_file():
            there = self.read_plan()
            if there == plan:
                return
            if (added := _added(there, plan)) is not None:
                if added:
                    self._add(lock, there, plan, overwrite, alone)
                return
            if not overwrite:
                other = ", ".join(key for key in {**plan, **there} if there.get(key) != plan.get(key))
                what = f"other embeddings ({other} differ)"
                raise FileExistsError(f"{self.folder}: holds {what}; overwrite=True replaces them")
            lock.release()
            self.lock = lock = Lock(self.folder)  # alone: others would write their parts between the new ones
            self._remove(self.read_plan())
        else:
            others = [e.name for e in self.folder.iterdir() if e.name != LOCK and not e.name.startswith(f".{PLAN}.")]
            if path.is_file():  # another process was quicker
                return self._begin(lock, plan, overwrite, alone)
            if others:
                expected = "a new folder, or one of embeddings"
                raise FileExistsError(f"{self.folder}: expected {expected}, it holds {others[0]!r}")
        try:
            with atomic_path(path, replace=False) as temporary:
                temporary.write_text(json.dumps(plan, indent=1) + "\n", encoding="utf-8")
        except FileExistsError:  # another process was quicker: its plan may be another one
            return self._begin(lock, plan, overwrite, alone)
        self.plan = plan
        lock.share()

    def _add(self, lock: Lock, there: dict[str, Any], plan: dict[str, Any], overwrite: bool, alone: bool) -> None:
        """Go from the plan `there` to one with more recordings after those of `there`."""
        if not alone:
            what = "can be read now and could not before: the same command with one process adds them"
            raise ValueError(f"{self.folder}: recordings {what}")
        lock.release()
        self.lock = lock = Lock(self.folder)  # alone: others would write parts of the old plan
        if self.read_plan() != there:  # another process was quicker
            self._begin(lock, plan, overwrite, alone)
            return lock.share()
        if plan["rows"] > there["rows"] and there["rows"] % there["part_rows"]:
            self._remove_part(there["parts"] - 1)
        with atomic_path(self.folder / PLAN) as temporary:
            temporary.write_text(json.dumps(plan, indent=1) + "\n", encoding="utf-8")
        self.plan = plan
        lock.share()

    def _remove(self, there: dict[str, Any]) -> None:
        """Remove the parts of the plan `there`, and then the plan, which until then tells what the parts are."""
        self.plan = there
        for number in range(there["parts"]):
            self._remove_part(number)
        if "windows" in there:
            (self.folder / TABLE).unlink(missing_ok=True)
        (self.folder / PLAN).unlink()

    def _remove_part(self, number: int) -> None:
        for part in self._paths(number):
            for old in (part, *remains(part)):
                old.unlink(missing_ok=True)

    def has(self, number: int) -> bool:
        """Whether all files of a part are there."""
        return all(path.is_file() for path in self._paths(number))

    def write(self, number: int, embeddings: np.ndarray, columns: dict[str, np.ndarray]) -> None:
        """Write a part. What a killed process has left of it is removed.

        Args:
            number: of the part.
            embeddings: [n, ...].
            columns: [n] arrays by name.
        """
        *tables, main = self._paths(number)
        for path in (*tables, main):
            for old in remains(path):
                old.unlink(missing_ok=True)
        embeddings = embeddings.astype(self.plan["dtype"])
        columns = {name: np.char.encode(x, "utf-8") if x.dtype.kind == "U" else x for name, x in columns.items()}
        if self.plan["file_format"] == "npy":
            with atomic_path(tables[0]) as temporary, open(temporary, "wb") as file:
                arrays: dict[str, Any] = columns  # in numpy's types a name might be that of an option
                np.savez(file, **arrays)
            with atomic_path(main) as temporary, open(temporary, "wb") as file:
                np.save(file, embeddings)
        elif self.plan["file_format"] == "h5":
            with atomic_path(main) as temporary, new_hdf5(temporary) as file:
                for name, values in {"embedding": embeddings, **columns}.items():
                    file.create_dataset(name, data=values)
        else:
            write_parquet(main, embeddings, columns)

    def read(self, number: int) -> StoredEmbeddings:
        """Read a part; ValueError if it is damaged or does not belong to these embeddings."""
        *tables, main = self._paths(number)
        try:
            if self.plan["file_format"] == "npy":
                embeddings = np.load(main, allow_pickle=False)
                with np.load(tables[0], allow_pickle=False) as stored:
                    columns = dict(stored)
            elif self.plan["file_format"] == "h5":
                with import_h5py().File(main, "r") as file:
                    columns = {name: values[()] for name, values in file.items()}
                embeddings = columns.pop("embedding")
            else:
                embeddings, columns = read_parquet(main, tuple(self.plan["shape"]))
            key, subject = (np.char.decode(columns.pop(name), "utf-8") for name in TEXT)
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            raise ValueError(f"{main}: expected a whole part of embeddings, it is damaged ({error})") from error
        expected = (self.rows(number), *self.plan["shape"])
        if embeddings.shape != expected or len(key) != len(embeddings):
            raise ValueError(f"{main}: expected shape {list(expected)}, got {list(embeddings.shape)}")
        return StoredEmbeddings(embeddings, key, subject, columns, self.plan)

    def rows(self, number: int) -> int:
        """How many segments a part has."""
        return min(self.plan["part_rows"], self.plan["rows"] - number * self.plan["part_rows"])

    def _paths(self, number: int) -> list[Path]:
        """The files of a part, in the order in which they are written."""
        name, kind = f"part-{number:05d}", self.plan["file_format"]
        return [self.folder / f"{name}.{ending}" for ending in (("npz", "npy") if kind == "npy" else (kind,))]


def _added(there: dict[str, Any], plan: dict[str, Any]) -> list[str] | None:
    """The names of recordings that `plan` adds to the plan `there`, which could not read them.

    Returns:
        The names; none where only the words differ that say why recordings cannot be read. None if the plans are of
        different work.
    """
    changes = {"rows", "parts", "subjects", "rejected", "inputs", "errors"}
    failed = there.get("errors")
    if not failed or any(there.get(key) != plan.get(key) for key in {**there, **plan}.keys() - changes):
        return None
    known = len(there["inputs"])
    added = [one["name"] for one in plan["inputs"][known:]]
    same = plan["inputs"][:known] == there["inputs"] and sorted([*added, *plan.get("errors", {})]) == sorted(failed)
    return added if same else None
