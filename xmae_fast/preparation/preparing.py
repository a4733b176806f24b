"""Makes shards of recordings of any known format: `xmae_fast.data.prepare`."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from time import perf_counter
from typing import Literal

import numpy as np

from xmae_fast._environment import usable_processors
from xmae_fast._files import atomic_path, check_apart
from xmae_fast.data.options import Quality, check_option
from xmae_fast.data.repacking.journal import sync_folder
from xmae_fast.preparation import replacing
from xmae_fast.preparation.again import to_try_again
from xmae_fast.preparation.arguments import check_settings, package_versions
from xmae_fast.preparation.earlier import finished, same_work, work_identity
from xmae_fast.preparation.parts import Part, load_part
from xmae_fast.preparation.pool import Job, run_all
from xmae_fast.preparation.replacing import REPORT
from xmae_fast.preparation.report import RECOMMENDED, PrepareReport
from xmae_fast.preparation.settings import Recipe, Settings
from xmae_fast.preparation.shards import Assembly, write_tables
from xmae_fast.preparation.telling import of_doubles
from xmae_fast.recordings.names import ADDED
from xmae_fast.recordings.pairs import pair_sources
from xmae_fast.recordings.reading import Reading
from xmae_fast.recordings.saying import printable
from xmae_fast.recordings.sources import Source, find_sources
from xmae_fast.workers.progress import Progress

_log = logging.getLogger("xmae_fast.preparation")


def prepare(
    inputs: str | os.PathLike | Iterable[str | os.PathLike],
    output: str | os.PathLike,
    *,
    dataset: str = "data",
    layout: Literal["packed", "published"] = "packed",
    recipe: Recipe = "batched",
    ppg: str | None = None,
    ecg: str | None = None,
    fs: float | None = None,
    signals: Literal["both", "ppg"] = "both",
    polarity: str | tuple[str, str] = "keep",
    time: str | None = None,
    day_first: bool | None = None,
    skip_rows: int | None = None,
    encoding: str | None = None,
    decimal: str | None = None,
    pair: bool = False,
    subject: str = "name",
    window_s: float = 10.0,
    hop_s: float | None = None,
    sampling_freq: float = 100.0,
    quality: Quality | None = None,
    max_missing: float = 0.05,
    segments_per_shard: int = 50_000,
    processes: int | None = None,
    progress: Progress | None = None,
    overwrite: bool = False,
) -> PrepareReport:
    """Make a folder of shards of recordings of ECG and PPG.

    Each recording is cut into windows of `window_s` seconds, which are cleaned, judged, resampled and scaled to [-1, 1]
    one by one, as `apply_recipe` says.

    The folder appears whole or not at all. Until then finished recordings are kept in `.<name>.partial` beside it; the
    same call goes on from there, and the result has the same bytes. A call whose output is finished returns its report.
    A recording that cannot be used does not stop the call: it is in `errors`, and in a row of `records.csv`. If the
    reason may pass (too little memory, a lock, no permission), the error says so, the work stays in `.<name>.partial`,
    and the same call tries that recording again; the others are not done twice. What looks wrong with a recording, and
    how its file was understood, is in `notes` and in the same row.

    Args:
        inputs: files, folders (with all folders in them) and patterns; PulseDB .mat, WFDB .hea, .csv, .tsv (.gz),
            .parquet, .edf, .bdf, .npz and .npy.
        output: a folder that is empty or does not exist. It must not be an input, lie in one or hold one. It gets the
            shards `<dataset>_0000.h5` and so on, and `records.csv`, `rejected.csv` and `prepare.json`.
        dataset: the groups in the shards are named `<dataset>_<subject>`.
        layout: of the shards.
        recipe: "batched", or "neurokit2", which calls neurokit2 window by window and is what "batched" is compared
            with.
        ppg: the name, the number from 0 or a pattern of the channel with the PPG, if its name is not a usual one.
        ecg: the name, the number from 0 or a pattern of the channel with the ECG, if its name is not a usual one.
        fs: the sampling frequency in Hz, which goes before that of the file. A file with two rates is refused, unless
            `fs` is one of them: then its rates are kept.
        signals: "ppg" makes shards of PPG without ECG, of recordings that may have none; the layout is "packed".
            Loaders read these shards with signals="ppg".
        polarity: what is done with a signal that is upside down, one word for both or a pair (PPG, ECG): "keep" leaves
            it as it is, with a note; "auto" turns it round; "flip" turns every signal round.
        time, day_first, skip_rows, encoding, decimal: how tables are read, as for `Reading`.
        pair: take two files of one folder for one recording if their names are equal without the words of PPG (ppg,
            pleth, bvp) and ECG (ecg, ekg). They are aligned by their dates and times if both have them, and are taken
            to start together otherwise.
        subject: how recordings get their subjects. "name" takes what the file says (PulseDB, .npz), or else its path
            without suffix, so that every recording is a subject of its own. "folder" takes the folder that the
            recording lies in. Anything else is a regular expression on the path, whose first group is taken. Splits are
            made by subject, so recordings of one person must get one name.
        window_s: the length of a window in seconds.
        hop_s: seconds from the start of one window to the start of the next; by default `window_s`.
        sampling_freq: of the segments, in Hz.
        quality: that both signals must reach, or a pair (PPG, ECG); None keeps all segments, so that loaders choose.
        max_missing: the greatest share of samples that may be missing in each signal of a window.
        segments_per_shard: how many segments a shard has at most.
        processes: how many processes work at the same time; by default one for each processor.
        progress: is called with (stage, units that are done, units in all).
        overwrite: replace what prepare has made in `output` before. Other files stay; if they are in the way, the call
            fails.

    Raises:
        ValueError: an argument has a wrong value, or unfinished work has other settings.
        FileNotFoundError: an input, or the folder around `output`, does not exist.
        FileExistsError: `output` holds something else.
        ImportError: a package is missing.
        OSError: another process writes the same output, or the disk refuses.
    """
    began, target = perf_counter(), Path(os.path.abspath(output))
    target = Path(os.path.realpath(target)) if target.is_symlink() else target
    reading = Reading(ppg, ecg, fs, signals, time, day_first, skip_rows, encoding, decimal)
    settings = check_settings(
        dataset, recipe, reading, polarity, subject, window_s, hop_s, sampling_freq, quality, max_missing
    )
    check_option("layout", layout, ("packed", "published"))
    if signals == "ppg" and layout != "packed":
        raise ValueError(f"layout: expected 'packed' for PPG alone, as the published layout has both, got {layout!r}")
    if segments_per_shard < 1:
        raise ValueError(f"segments_per_shard: expected at least 1, got {segments_per_shard}")
    if processes is not None and processes < 1:
        raise ValueError(f"processes: expected at least 1, got {processes}")
    inputs = [inputs] if isinstance(inputs, (str, os.PathLike)) else list(inputs)
    sources, ignored = find_sources(inputs)
    sources = pair_sources(sources) if pair else sources
    files = [path for source in sources for path in (source.path, source.ecg) if path]
    check_apart(target, filter(os.path.isdir, inputs), files)
    replacing.check_output(target, overwrite)
    versions = package_versions(sources, recipe)
    each = settings.to_json() | ({"names": ADDED} if any(ADDED.values()) else {})  # decides what is made of a recording
    how = each | {"layout": layout, "segments_per_shard": segments_per_shard}
    how |= {"pair": True} if pair else {}
    tell = progress or (lambda *_: None)
    partial = target.with_name(f".{target.name}.partial")
    if not target.parent.is_dir():
        raise FileNotFoundError(f"output: expected a folder in an existing one, got {target}")
    before = finished(target, how, versions, sources, overwrite)
    if before is not None and not to_try_again(before.errors):
        if partial.exists():  # an earlier call was killed between its last two steps, or another is at work
            with suppress(BlockingIOError), replacing.working_folder(partial, target):
                replacing.clear(partial)
        return before
    overwrite = overwrite or target.exists()  # `finished` has found that it may be replaced
    with replacing.working_folder(partial, target):
        same_work(partial, {"settings": how, "versions": versions}, overwrite)
        parts, errors, resumed = _parts(
            partial, settings, each, versions, sources, processes or usable_processors(), tell
        )
        if before is not None and before.errors == {
            printable(name): printable(error) for name, error in errors.items()
        }:
            return before
        folder = partial / "output"
        replacing.clear_output(folder)
        report = _assemble(folder, settings, how, versions, sources, parts, errors, ignored, tell)
        sync_folder(str(folder / REPORT))
        replacing.put(folder, target, partial, overwrite)
        if not to_try_again(errors):  # else the parts stay, so that the others are not done twice
            replacing.clear(partial)
    took = perf_counter() - began
    return PrepareReport(**{**report, "output": str(target), "resumed": resumed, "seconds": took})


def _parts(
    partial: Path, settings: Settings, each: dict, versions: dict, sources: list[Source], processes: int, tell: Progress
) -> tuple[dict[str, Part], dict[str, str], int]:
    """The parts of the recordings by name, what is wrong with the others, and how many parts were there before. Beside
    its files and the versions, `each` decides what is made of a recording."""
    folder = partial / "parts"
    folder.mkdir(exist_ok=True)
    jobs, parts = [], {}
    for source in sources:
        name = hashlib.sha256(source.name.encode("utf-8", "surrogateescape")).hexdigest()[:32]
        identity = work_identity(each, versions, [source])
        job = Job(source, identity, folder / f"{name}.npz")
        part = load_part(job.part, identity)
        if part is None:
            jobs.append(job)
        else:
            parts[source.name] = part
    resumed = len(parts)
    _log.debug(
        "%d of %d recordings were prepared before, for the others there are %d processes",
        resumed,
        len(sources),
        processes,
    )
    errors = run_all(jobs, settings, processes, resumed, len(sources), tell)
    for job in jobs:
        if job.source.name not in errors:
            part = load_part(job.part, job.identity)
            if part is None:
                raise OSError(f"output: the disk does not hold what was written to {job.part}")
            parts[job.source.name] = part
    return parts, errors, resumed


def _assemble(
    folder: Path, settings: Settings, how: dict, versions: dict, sources: list[Source], parts: dict[str, Part],
    errors: dict[str, str], ignored: Counter[str], tell: Progress,
) -> dict:  # fmt: skip
    """Write everything that the output folder holds; returns the content of the report."""
    names = [source.name for source in sources]
    about = {"recipe": json.dumps(how, sort_keys=True), "versions": json.dumps(versions, sort_keys=True)}
    about["xmae_fast_version"] = versions["xmae_fast"]
    assembly = Assembly([parts[name] for name in names if name in parts], settings, about)
    shards = assembly.write(folder, how["layout"], how["segments_per_shard"], tell)
    doubles = of_doubles([source for source in sources if source.name in parts])
    notes = {
        name: [*parts[name].about.get("notes", []), *doubles.get(name, [])] if name in parts else [] for name in names
    }
    reasons = write_tables(folder, names, parts, errors, notes)
    tables = [part.table for part in parts.values()]
    qualities = [f"{name}_quality" for name in settings.names]
    both = [np.all([t[name] >= RECOMMENDED for name in qualities], axis=0) for t in tables]
    report = {
        "output": folder.parent.name,
        "shards": [path.name for path in shards],
        "segments": assembly.count,
        "usable": int(sum(good.sum() for good in both)),
        "subjects": len(assembly.subjects),
        "recordings": len(sources),
        "rejected": dict(sorted(reasons.items())),
        "errors": {printable(name): printable(errors[name]) for name in names if name in errors},
        "notes": {printable(name): told for name, told in notes.items() if told},
        "ignored": dict(sorted(ignored.items())),
        "settings": how,
        "versions": versions,
    }
    again = to_try_again(report["errors"])
    stored = report | {
        "identity": work_identity(how, versions, sources, again),
        "files": replacing.describe_files(folder),
    }
    del stored["output"]
    with atomic_path(folder / REPORT) as temporary:
        temporary.write_text(json.dumps(stored, indent=2) + "\n", encoding="utf-8")
    return report
