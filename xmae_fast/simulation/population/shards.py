"""Shards of the simulated population, in the published layout, with the truth of each beside it."""

from __future__ import annotations

import os
import warnings
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from xmae_fast._config_checks import expect, is_whole
from xmae_fast._files import Lock, atomic_path
from xmae_fast.data.formats.shards import write_shard
from xmae_fast.simulation.population.config import RHYTHMS, PopulationCfg
from xmae_fast.simulation.population.random import BLOCK
from xmae_fast.simulation.population.stream import Batch, PopulationStream
from xmae_fast.simulation.replacing import all_or_none, make_room
from xmae_fast.workers.progress import Progress

DATASET = "patients"


def write_population(
    folder: str | os.PathLike[str],
    num_subjects: int,
    *,
    seed: int = 77,
    cfg: PopulationCfg | None = None,
    dataset: str = DATASET,
    overwrite: bool = False,
    progress: Progress | None = None,
    segments_per_shard: int = 80 * BLOCK,
) -> list[Path]:
    """Write shards `<dataset>_0000.h5` and so on of simulated patients, `cfg.segments_per_subject` segments of each.

    They hold the first segments that `simulate_population` gives, rounded to float16. Qualities are 1 less the share of
    the segment under motion or without contact. Beside each shard is its truth, `<dataset>_0000.truth.npz`, with a row
    for each record: the arrays of `simulate_population` but for the signals, `pat` [n, max_beats] and `pat_mean` [n] in
    s (from the R peak to the foot), `has_pvc` [n], and `key`, the name `<group>/<key>` of the record.

    Args:
        folder: is made if it is missing.
        num_subjects: at least 1.
        seed: in [0, 2^64).
        cfg: the settings; by default `PopulationCfg()`.
        dataset: the first part of the names of files and groups.
        overwrite: replace the shards of an earlier simulation of that name, and no other file.
        progress: is called with ("simulate", segments that are done, segments in all).
        segments_per_shard: how many a shard has at most.

    Returns:
        The paths of the shards.

    Raises:
        FileExistsError: the folder holds shards of that data set, and they are not to be replaced.
        ValueError: an argument is out of range; the message names it.
        ImportError: SciPy is missing.
    """
    cfg = cfg or PopulationCfg()
    expect(is_whole(num_subjects) and num_subjects > 0, "num_subjects", "a whole number, at least 1", num_subjects)
    whole = is_whole(segments_per_shard) and segments_per_shard > 0
    expect(whole, "segments_per_shard", "a whole number, at least 1", segments_per_shard)
    folder, total = Path(folder), num_subjects * cfg.segments_per_subject
    folder.mkdir(parents=True, exist_ok=True)
    with Lock(folder):
        make_room(folder, dataset, overwrite)
        with all_or_none() as paths:
            for number, start in enumerate(range(0, total, segments_per_shard)):
                paths.append(folder / f"{dataset}_{number:04d}.h5")
                count = min(segments_per_shard, total - start)
                made = _simulated(start, count, total, seed, cfg, progress)
                _write(paths[-1], made, dataset, seed, num_subjects, cfg)
    return paths


def _simulated(start: int, count: int, total: int, seed: int, cfg: PopulationCfg, progress: Progress | None) -> Batch:
    """The `count` segments from `start` on."""
    parts = []
    for part in islice(PopulationStream(seed, BLOCK, start=start, cfg=cfg), -(-count // BLOCK)):
        parts.append(part)
        if progress is not None:
            progress("simulate", min(start + len(parts) * BLOCK, start + count), total)
    return {name: np.concatenate([part[name] for part in parts])[:count] for name in parts[0]}


def _write(path: Path, made: Batch, dataset: str, seed: int, num_subjects: int, cfg: PopulationCfg) -> None:
    names = [f"{dataset}_{subject:06d}" for subject in made["subject"]]
    keys = write_shard(
        path, made["ppg"], made["ecg"], names, ppg_quality=1 - made["ppg_faults"], ecg_quality=1 - made["ecg_faults"],
        sampling_freq=cfg.sampling_freq, index=made["index"] % cfg.segments_per_subject,
    )  # fmt: skip
    truth: dict[str, Any] = {name: values for name, values in made.items() if name not in ("ppg", "ecg")}
    pat = made["foot_times"] - made["r_times"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a segment may have no pulse at all
        mean = np.nanmean(pat, axis=1)
    pvc = (made["beat_kind"] == RHYTHMS.index("pvc")).any(1)
    truth |= {"pat": pat, "pat_mean": mean, "has_pvc": pvc, "key": np.array(keys)}
    with atomic_path(path.with_suffix(".truth.npz")) as temporary, open(temporary, "wb") as file:
        np.savez(file, seed=seed, cfg=repr(asdict(cfg)), subjects=num_subjects, **truth)
