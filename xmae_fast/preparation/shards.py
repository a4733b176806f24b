"""Makes shards and tables of the parts of many recordings. The same parts give the same bytes."""

from __future__ import annotations

import csv
import errno
import hashlib
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from xmae_fast._files import atomic_path
from xmae_fast.data.formats import packed
from xmae_fast.data.formats.packed import Table
from xmae_fast.data.formats.shards import SegmentKey, format_key, import_h5py, write_shard
from xmae_fast.preparation.parts import COLUMNS, Part
from xmae_fast.preparation.report import RECOMMENDED
from xmae_fast.preparation.settings import Settings
from xmae_fast.recordings.saying import printable
from xmae_fast.workers.progress import Progress

_REJECTED = ("source", *COLUMNS, "reason")
_TOLD = ("ppg", "ecg", "ppg_fs", "ecg_fs", "start", "windows")
_JUDGED = ("polarity", "median_ppg_quality", "median_ecg_quality", "usable", "notes")
_RECORDS = ("source", "format", "subjects", *_TOLD, "segments", *_JUDGED, "error")


class Assembly:
    """The n segments of all parts in their order, with their subjects, keys and origins.

    Args:
        parts: the parts of the recordings.
        settings: what `prepare` was asked for.
        attributes: are stored in each shard.
    """

    def __init__(self, parts: Sequence[Part], settings: Settings, attributes: dict) -> None:
        self.parts = [part for part in parts if len(part.table["subject"])]
        self.settings, self.attributes = settings, attributes
        self.stops = np.cumsum([len(part.table["subject"]) for part in self.parts], dtype=np.int64)
        self.count = int(self.stops[-1]) if self.parts else 0
        self.subjects, self._code, self._index, self._record = self._number()

    def write(self, folder: Path, layout: str, per_shard: int, progress: Progress) -> list[Path]:
        """Write the shards `<dataset>_0000.h5` and so on.

        Args:
            folder: where they are written.
            layout: "packed" or "published".
            per_shard: how many segments a shard has at most.
            progress: is called with ("shards", segments that are done, n).

        Returns:
            The paths of the shards.
        """
        paths = []
        for start in range(0, self.count, per_shard):
            path = folder / f"{self.settings.dataset}_{len(paths):04d}.h5"
            stop = min(start + per_shard, self.count)
            write = self._packed if layout == "packed" else self._published
            write(path, start, stop, progress)
            paths.append(path)
        return paths

    def _number(self) -> tuple[list[str], np.ndarray, np.ndarray, np.ndarray]:
        """The subjects in order of appearance, and for each segment, [n] each: the number of its subject, its number
        among that subject's segments, and the number of its recording among that subject's recordings, from 1."""
        subjects: dict[str, int] = {}
        seen, records = Counter(), Counter()
        codes, index, record = [], [], []
        for part in self.parts:
            names, inverse = np.unique(part.table["subject"], return_inverse=True)
            places = np.empty(len(inverse), np.int64)
            for k, name in enumerate(names.tolist()):
                subjects.setdefault(name, len(subjects))
                mine = np.flatnonzero(inverse == k)
                places[mine] = seen[name] + np.arange(len(mine))
                seen[name] += len(mine)
                records[name] += 1
            codes.append(np.array([subjects[name] for name in names.tolist()], np.int32)[inverse])
            record.append(np.array([records[name] for name in names.tolist()], np.int32)[inverse])
            index.append(places)
        code, place, number = (
            np.concatenate(values) if values else np.zeros(0, np.int32) for values in (codes, index, record)
        )
        return list(subjects), code, place, number

    def _within(self, start: int, stop: int) -> Iterator[tuple[int, Part, slice]]:
        """(number, part, its segments) for each part that has some of the segments [start, stop)."""
        for number in range(int(np.searchsorted(self.stops, start, "right")), len(self.parts)):
            part = self.parts[number]
            first = int(self.stops[number]) - len(part.table["subject"])
            if first >= stop:
                return
            yield number, part, slice(max(start - first, 0), min(stop, int(self.stops[number])) - first)

    def _column(self, name: str, start: int, stop: int) -> np.ndarray:
        return np.concatenate([part.table[name][rows] for _, part, rows in self._within(start, stop)])

    def _fields(self, start: int, stop: int) -> list[SegmentKey]:
        columns = [self._column(name, start, stop).tolist() for name in COLUMNS[2:]]
        keys = zip(self._index[start:stop].tolist(), *columns, strict=True)
        record = self._record[start:stop].tolist()
        return [SegmentKey(i, own or str(k), *rest) for k, (i, own, *rest) in zip(record, keys, strict=True)]

    def _tables(self, start: int, stop: int) -> dict[str, np.ndarray]:
        """The data sets beside the signals of a packed shard."""
        codes, subject = np.unique(self._code[start:stop], return_inverse=True)
        names = [self.subjects[code] for code in codes]
        fields = self._fields(start, stop)
        keys = [f"{names[s]}/{format_key(f)}" for s, f in zip(subject.tolist(), fields, strict=True)]
        used = list(self._within(start, stop))
        sources = [part.about["source"] for _, part, _ in used]
        lengths = [rows.stop - rows.start for _, _, rows in used]
        tables = {
            "subject": subject.astype(np.int32),
            "subjects": _texts(names),
            "ppg_quality": self._column("ppg_quality", start, stop),
            "ecg_quality": self._column("ecg_quality", start, stop),
            "start_s": self._column("start_s", start, stop),
            "source": np.repeat(np.arange(len(used), dtype=np.int32), lengths),
            "sources": _texts(sources),
            "sources_start": _texts([part.about["start"] for _, part, _ in used]),
            "sources_ppg_fs": np.array([part.about["ppg_fs"] for _, part, _ in used]),
            "sources_ecg_fs": np.array([part.about["ecg_fs"] or np.nan for _, part, _ in used]),
            "key": np.array([key.encode() for key in keys]),
        }
        if "ecg" not in self.settings.names:
            del tables["ecg_quality"], tables["sources_ecg_fs"]
        return tables

    def _packed(self, path: Path, start: int, stop: int, progress: Progress) -> None:
        shape, dtype = (stop - start, self.settings.seq_len), np.dtype(np.float16)
        names = self.settings.names
        tables = {name: Table(v.shape, v.dtype, [v]) for name, v in self._tables(start, stop).items()}
        about = {"sampling_freq": self.settings.sampling_freq, "format": packed.FORMAT}
        about |= packed.version_attributes(names) | self.attributes
        with atomic_path(path) as temporary:
            fd = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
            try:
                packed.create_packed(fd, shape, dtype, tables, about, names)
                places = packed.signal_offsets(fd, shape, dtype, names)
                if places is None:
                    raise OSError(errno.EIO, f"output: the file {path} is not as it was just laid out")
                digests = {name: hashlib.sha256() for name in names}
                done = start
                for _, part, rows in self._within(start, stop):
                    for name, signal in zip(names, part.signals(), strict=False):
                        piece = np.ascontiguousarray(signal[rows])
                        packed.write_at(fd, piece, places[name])
                        places[name] += piece.nbytes
                        digests[name].update(piece.data)
                    done += rows.stop - rows.start
                    progress("shards", done, self.count)
                packed.set_checksums(fd, {name: f"sha256:{digest.hexdigest()}" for name, digest in digests.items()})
            finally:
                os.close(fd)

    def _published(self, path: Path, start: int, stop: int, progress: Progress) -> None:
        used = list(self._within(start, stop))
        ppg, ecg = [np.concatenate(x) for x in zip(*([s[r] for s in p.signals()] for _, p, r in used), strict=True)]
        fields = self._fields(start, stop)
        names = write_shard(
            path, ppg, ecg, [self.subjects[code] for code in self._code[start:stop]],
            ppg_quality=[f.ppg_quality for f in fields], ecg_quality=[f.ecg_quality for f in fields],
            sampling_freq=self.settings.sampling_freq, index=[f.index for f in fields],
            segment_ids=[f.segment_id for f in fields], win_ids=[f.win_id for f in fields],
            win_seq_ids=[f.win_seq_id for f in fields],
        )  # fmt: skip
        tables = self._tables(start, stop)
        provenance: dict[str, Any] = {"key": np.array(names)}
        for name, values in tables.items():
            if name.startswith(("start_s", "source")):
                provenance[name] = np.char.decode(values, "utf-8") if values.dtype.kind == "S" else values
        beside = path.with_suffix(".provenance.npz")
        with atomic_path(beside) as temporary, open(temporary, "wb") as file:
            about: dict[str, Any] = {name: np.array(value) for name, value in self.attributes.items()}
            np.savez(file, **provenance, **about)
        progress("shards", stop, self.count)


def write_tables(
    folder: Path, sources: Sequence[str], parts: dict[str, Part], errors: dict[str, str], notes: dict[str, list[str]]
) -> Counter[str]:
    """Write `records.csv`, with a row for each recording, and `rejected.csv`, with a row for each rejected window.

    Args:
        folder: where they are written.
        sources: the names of all R recordings.
        parts: what was made of those that can be used, by name.
        errors: what is wrong with the others, by name.
        notes: what a user should know of each, by name.

    Returns:
        How many windows were rejected, by reason.
    """
    reasons: Counter[str] = Counter()
    with _table(folder / "records.csv", _RECORDS) as records, _table(folder / "rejected.csv", _REJECTED) as rejected:
        for name in sources:
            if name in errors:
                records.writerow([printable(name), *[""] * (len(_RECORDS) - 2), printable(errors[name])])
                continue
            part = parts[name]
            about, subject = part.about, part.table["subject"]
            subjects = " ".join(np.unique(np.concatenate([subject, part.rejected["subject"]])).tolist())
            told = [about[field] for field in _TOLD]
            judged = [about.get("polarity", "kept"), *_quality(part), "; ".join(notes[name])]
            records.writerow([printable(name), about["format"], subjects, *told, len(subject), *judged, ""])
            columns = [part.rejected[field].tolist() for field in (*COLUMNS, "reason")]
            rejected.writerows([printable(name), *row] for row in zip(*columns, strict=True))
            reasons.update(columns[-1])
    return reasons


def _quality(part: Part) -> list[str]:
    """The medians of the qualities of PPG and ECG over all windows that have one, and how many segments are usable."""
    medians, usable = [], np.ones(len(part.table["subject"]), bool)
    for name in ("ppg_quality", "ecg_quality"):
        values = np.concatenate([part.table[name], part.rejected[name]])
        known = values[~np.isnan(values)]
        medians.append(f"{np.median(known):.3f}" if len(known) else "")
        if name == "ppg_quality" or part.about["ecg_fs"] is not None:
            usable &= part.table[name] >= RECOMMENDED
    return [*medians, str(int(usable.sum()))]


@contextmanager
def _table(path: Path, names: Sequence[str]) -> Iterator:
    """The writer of a CSV file with a first line of `names`; the file appears whole or not at all."""
    with atomic_path(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(names)
        yield writer


def _texts(names: Sequence[str]) -> np.ndarray:
    """Texts as an array of UTF-8 strings of one width."""
    encoded = [printable(name).encode() for name in names]
    width = max([1, *map(len, encoded)])
    return np.array(encoded, import_h5py().string_dtype("utf-8", width))
