"""Windows of recordings, which `embed_files` embeds: what they are is found out first, and then they are read in order.

Recordings are opened when they are needed and kept within a budget of memory, as there may be thousands of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from xmae_fast.embedding import checks
from xmae_fast.embedding.judging import judge
from xmae_fast.embedding.opening import Signal, cut_signal, open_signal
from xmae_fast.embedding.preprocess import check_rate, prepare_ppg
from xmae_fast.embedding.read import Read, describe_file
from xmae_fast.embedding.windows import Windows, check_windowing, samples_of
from xmae_fast.model.recipe import Recipe
from xmae_fast.recordings.reading import POLARITIES, Reading, check_reading
from xmae_fast.recordings.recording import RecordingError
from xmae_fast.recordings.saying import printable
from xmae_fast.recordings.sources import Source, files_of
from xmae_fast.recordings.subjects import check_subject_rule, subject_from_path
from xmae_fast.workers.progress import Progress

COLUMNS = (
    "recording", "format", "channel", "fs", "start", "windows", "left_out", "polarity", "notes", "findings", "error",
)  # fmt: skip
_BUDGET, _OPEN = 1 << 28, 1 << 20  # bytes of recordings that are kept open; each counts for at least _OPEN


class Surveyed(NamedTuple):
    """What was found out about one recording.

    Attributes:
        source: the recording.
        name: begins the keys of its windows.
        windows: how many are embedded.
        left_out: windows and pieces that are not embedded, by reason.
        sign: -1.0 if the signal is turned round, else 1.0.
        about: the row of recordings.csv, by column.
        said: what looks wrong with it and how its file was understood, a sentence each.
    """

    source: Source
    name: str
    windows: int
    left_out: Counter[str]
    sign: float
    about: dict[str, Any]
    said: list[str]


class RecordingSource:
    """Windows of recordings. Pieces that are shorter than a window are left out and counted.

    Args:
        sources: the recordings.
        recipe: by which windows are prepared.
        reading: how the recordings are read.
        hop, tail, polarity, subject, progress: as for `embed_files`.
        order: names of recordings that come first, in this order.

    Attributes:
        errors: what is wrong with recordings that cannot be read, by name.
        surveyed: the others.

    Raises:
        ValueError: an argument is wrong.
        RecordingError: there is no window; the message says why.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        recipe: Recipe,
        *,
        reading: Reading,
        hop: float | None = None,
        tail: str = "drop",
        polarity: str = "keep",
        subject: str = "name",
        progress: Progress | None = None,
        order: Sequence[str] = (),
    ) -> None:
        check_windowing(hop, tail)
        check_reading(reading)
        check_subject_rule(subject)
        if polarity not in POLARITIES:
            raise ValueError(f"polarity: expected {', '.join(POLARITIES)}, got {polarity!r}")
        if reading.fs is not None:
            check_rate(reading.fs, recipe)
        self.recipe, self.reading, self.hop, self.tail = recipe, reading, hop, tail
        self.polarity, self.subject = polarity, subject
        self.errors: dict[str, str] = {}
        self.surveyed: list[Surveyed] = []
        self._kept: dict[int, tuple[Signal, Windows]] = {}
        self._bytes = 0
        place = {name: number for number, name in enumerate(order)}
        sources = sorted(sources, key=lambda source: place.get(printable(source.name), len(place)))
        self._same_stem = {stem for stem, count in Counter(source.stem for source in sources).items() if count > 1}
        for number, source in enumerate(sources):
            try:
                self._survey(source)
            except (ValueError, OSError, MemoryError) as error:
                text = " ".join(str(error).split()) or f"{source.path}: there is not enough memory to read it"
                self.errors[printable(source.name)] = printable(text)
            if progress is not None:
                progress("recordings", number + 1, len(sources))
        self._firsts = np.cumsum([0, *(one.windows for one in self.surveyed)])
        if not len(self):
            raise RecordingError(self._nothing())

    def __len__(self) -> int:
        return int(self._firsts[-1])

    @property
    def recordings(self) -> int:
        """How many recordings there are, those with errors too."""
        return len(self.surveyed) + len(self.errors)

    @property
    def rejected(self) -> dict[str, int]:
        """What is not embedded, by reason."""
        return dict(sum((one.left_out for one in self.surveyed), Counter()))

    def describe(self) -> dict[str, Any]:
        """The files and what is used of them, as plain values by which this source differs from others."""
        settings = {"fs": self.reading.fs, "hop": self.hop, "tail": self.tail}
        options = {"polarity": self.polarity, "subject": self.subject}
        usual = {"polarity": "keep", "subject": "name", **Reading(signals="ppg")._asdict()}
        options |= {name: value for name, value in self.reading._asdict().items() if name != "fs"}
        return {
            "inputs": [_inputs(one.source) for one in self.surveyed],
            "subjects": sum(one.windows > 0 for one in self.surveyed),
            "rejected": self.rejected,
            "windows": settings | {name: value for name, value in options.items() if value != usual[name]},
            "preprocessing": self.recipe.to_dict(),
            **({"errors": self.errors} if self.errors else {}),
        }

    def table(self) -> list[dict[str, Any]]:
        """A row of COLUMNS for each recording, those with errors last."""
        failed = [
            dict.fromkeys(COLUMNS, "") | {"recording": n, "windows": 0, "error": e} for n, e in self.errors.items()
        ]
        return [*(one.about for one in self.surveyed), *failed]

    def findings(self) -> dict[str, list[str]]:
        """What looks wrong with recordings, and how their files were understood, by name."""
        return {one.about["recording"]: one.said for one in self.surveyed if one.said}

    def read(self, items: np.ndarray) -> Read:
        """Read the windows of these numbers, [k], ascending. Recordings before the first one are closed."""
        parts = []
        files = np.searchsorted(self._firsts, items, "right") - 1
        for file in [number for number in self._kept if number < files[0]]:
            self._bytes -= _cost(self._kept.pop(file)[0])
        for file in np.unique(files).tolist():
            one = self.surveyed[file]
            signal, windows = self._opened(file)
            those = items[files == file] - self._firsts[file]
            cut = windows.cut(those)
            prepared = prepare_ppg(cut if one.sign > 0 else -cut, windows.fs, self.recipe)
            pieces = windows.record[those]
            times = windows.times[those] + signal.begins[pieces]
            names = [f"{one.name}/{piece}" if signal.numbered else one.name for piece in pieces.tolist()]
            whose = [self._subject(one.source, signal.subjects[piece]) for piece in pieces.tolist()]
            columns = {
                "key": np.array([f"{name}+++{t:.3f}" for name, t in zip(names, times.tolist(), strict=True)]),
                "subject": np.array(whose),
                "time": times,
                "ppg_quality": prepared.quality.astype(np.float32),
                "pulse_rate": prepared.pulse_rate.astype(np.float32),
            }
            parts.append(Read(prepared.ppg, prepared.usable, columns))
        columns = {name: np.concatenate([part.columns[name] for part in parts]) for name in parts[0].columns}
        ppg, good = (np.concatenate([part[i] for part in parts]) for i in (0, 1))
        return Read(ppg, good, columns)

    def _survey(self, source: Source) -> None:
        """Find out about a recording, and keep it open if the budget allows that."""
        signal, windows, left_out = self._open(source)
        findings, sign = judge(signal, windows, self.recipe, self.polarity) if len(windows) else ([], 1.0)
        for piece in np.unique(windows.record).tolist():
            self._subject(source, signal.subjects[piece])  # a rule that finds nothing fails here, not halfway
        name = printable(source.name if source.stem in self._same_stem else source.stem)
        notes = list(signal.notes)
        if source.stem in self._same_stem:
            notes.append("another file has the same name with another suffix: one recording twice?")
        about = {
            "recording": printable(source.name),
            "format": signal.form,
            "channel": signal.channel,
            "fs": f"{signal.fs:g}",
            "start": signal.start,
            "windows": len(windows),
            "left_out": "; ".join(f"{count:,} {reason}" for reason, count in left_out.items()),
            "polarity": "turned round" if sign < 0 else "kept",
            "notes": " | ".join(notes),
            "findings": " | ".join(findings),
            "error": "",
        }
        if self._bytes + _cost(signal) <= _BUDGET and len(windows):
            self._kept[len(self.surveyed)] = signal, windows
            self._bytes += _cost(signal)
        self.surveyed.append(Surveyed(source, name, len(windows), left_out, sign, about, [*findings, *notes]))

    def _open(self, source: Source) -> tuple[Signal, Windows, Counter[str]]:
        """A recording, its windows, and what is left out of it, by reason."""
        signal = open_signal(source, self.reading)
        try:
            check_rate(signal.fs, self.recipe)
        except ValueError as error:
            raise RecordingError(f"{source.path}: {error}") from None
        windows, left_out = cut_signal(signal, self.recipe, self.hop, self.tail)
        if not len(windows) and source.suffix == ".npy" and len(signal.rows) >= self.recipe.segment_s * signal.fs:
            shape = [len(signal.rows), samples_of(signal.rows[0])]
            what = f"expected a recording in each row, got {shape} numbers: --ppg NUMBER takes one of the columns"
            raise RecordingError(f"{source.path}: {what}")
        return signal, windows, left_out

    def _opened(self, file: int) -> tuple[Signal, Windows]:
        if file not in self._kept:
            one = self.surveyed[file]
            signal, windows, _ = self._open(one.source)
            if len(windows) != one.windows:
                raise RecordingError(f"{one.source.path}: expected a recording at rest, it changed while it was read")
            self._kept[file] = signal, windows
            self._bytes += _cost(signal)
        return self._kept[file]

    def _subject(self, source: Source, own: str) -> str:
        named = own.strip() if self.subject == "name" else ""
        return printable(named or subject_from_path(source, self.subject))

    def _nothing(self) -> str:
        """Why there is no window."""
        if not self.errors:
            return f"paths: no window of {self.recipe.segment_s:g} s in {self._listed()}"
        if len(self.errors) == 1 and not self.surveyed:
            return next(iter(self.errors.values()))
        failed = "; ".join(checks.grouped(self.errors.items()))
        short = f"; no window of {self.recipe.segment_s:g} s in {self._listed()}" if self.surveyed else ""
        return f"paths: none of {len(self.errors) + len(self.surveyed):,} recordings could be embedded: {failed}{short}"

    def _listed(self) -> str:
        from xmae_fast.reports import first_few  # pages are needed for nothing else here

        return first_few([printable(one.source.path) for one in self.surveyed])


def _cost(signal: Signal) -> int:
    return max(signal.nbytes, _OPEN)


def _inputs(source: Source) -> dict[str, Any]:
    """The marks of all files of a recording."""
    first, *others = files_of(source)
    mark = describe_file(first) | {"name": printable(source.name)}
    return mark | ({"others": [describe_file(path) for path in others]} if others else {})
