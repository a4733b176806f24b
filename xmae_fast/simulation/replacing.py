"""The shards of an earlier simulation in a folder: whether they are finished, and room for new ones."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from xmae_fast._files import check_replaceable
from xmae_fast.data.formats.shards import open_shard


def finished_shards(
    folder: Path, num_subjects: int, segments_per_subject: int, *, seed: int, cfg: Any,
    dataset: str = "sim",
) -> list[Path]:  # fmt: skip
    """The shards in a folder if they are the whole of such a simulation; [] if they are not, or if there are none.

    `cfg` is a SimulationCfg or a PopulationCfg."""
    shards = [path for path in _files(folder, dataset) if path.suffix == ".h5"]
    rows = 0
    for shard in shards:
        if not _is_simulated(shard):
            return []
        with np.load(shard.with_suffix(".truth.npz"), allow_pickle=False) as truth:
            subjects = int(truth["subjects"]) if "subjects" in truth else len(truth["subject_pat"])
            made = int(truth["seed"]), str(truth["cfg"]), subjects
            if made != (seed, repr(asdict(cfg)), num_subjects):
                return []
            rows += len(truth["key"])
    return shards if rows == num_subjects * segments_per_subject else []


def make_room(folder: Path, dataset: str, overwrite: bool) -> None:
    """Remove the shards of `dataset` from `folder`, so that those of an earlier simulation do not mix with the new
    ones.

    Raises:
        FileExistsError: there are such shards and `overwrite` is False, or they are not those of a simulation.
    """
    found = _files(folder, dataset)
    if found and not overwrite:
        raise FileExistsError(f"output: {found[0]} is there already (overwrite=True replaces an earlier simulation)")
    for path in found:
        if path.suffix == ".h5":
            check_replaceable(path, _is_simulated, "a simulated shard with its truth beside it")
        else:
            check_replaceable(path, is_truth, "the truth of a simulation")
    for path in found:
        path.unlink()


@contextmanager
def all_or_none() -> Iterator[list[Path]]:
    """Gives a list for the shards that are written; if the block fails, they and their truth are removed."""
    paths: list[Path] = []
    try:
        yield paths
    except BaseException:
        for path in paths:
            path.unlink(missing_ok=True)
            path.with_suffix(".truth.npz").unlink(missing_ok=True)
        raise


def is_truth(path: Path) -> bool:
    """Whether `save_truth` has written a file."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            return {"seed", "cfg", "pat"} <= set(stored.files)
    except (OSError, ValueError, AttributeError, EOFError, BadZipFile):
        return False


def _is_simulated(shard: Path) -> bool:
    """Whether the file of truth beside a shard has exactly its records."""
    truth = shard.with_suffix(".truth.npz")
    if not is_truth(truth):
        return False
    try:
        with open_shard(str(shard)) as file, np.load(truth, allow_pickle=False) as stored:
            return {f"{group}/{key}" for group in file for key in file[group]} == set(stored["key"].tolist())
    except (OSError, ValueError, RuntimeError, TypeError, KeyError):
        return False


def _files(folder: Path, dataset: str) -> list[Path]:
    """The shards of a data set in a folder, and the files of their truth."""
    name = re.compile(re.escape(dataset) + r"_\d{4,}(\.h5|\.truth\.npz)")
    return sorted(path for path in folder.iterdir() if name.fullmatch(path.name)) if folder.is_dir() else []
