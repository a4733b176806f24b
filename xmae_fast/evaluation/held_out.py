"""The segments that a checkpoint is evaluated on, and their true labels where there are any."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from xmae_fast.data.index.segment_index import Paths
from xmae_fast.data.options import Quality
from xmae_fast.data.segments import Segments

LABELS = {"heart_rate": "heart_rate", "pat": "pat_mean", "pvc": "has_pvc"}  # our name -> the name in a truth file
SPLITS = ("test", "val", "train", "all")


@dataclass(frozen=True, eq=False)
class HeldOut:
    """S segments of L samples.

    Attributes:
        ppg, ecg: [S, L] float32 in [-1, 1].
        subject: [S], the number of the subject in `subjects`.
        subjects: names.
        fs: Hz.
        truth: [S] arrays by name, as far as the truth files hold them: "heart_rate" [1/min], "pat" [s], "pvc" bool.
        about: how the segments were chosen, as plain values.
    """

    ppg: np.ndarray
    ecg: np.ndarray
    subject: np.ndarray
    subjects: list[str]
    fs: float
    truth: dict[str, np.ndarray]
    about: dict

    def __len__(self) -> int:
        return len(self.ppg)


def load_held_out(
    data: Paths,
    *,
    split: str = "test",
    truth: str | os.PathLike | Sequence[str | os.PathLike] | None = None,
    max_segments: int | None = 1000,
    quality: Quality = 0.9,
    seed: int = 77,
    sampling_freq: float | None = None,
) -> HeldOut:
    """Read segments of shards for an evaluation.

    Args:
        data: as for `SegmentLoader`.
        split: "test", "val" or "train" of `split_subjects` with `seed`, or "all" subjects.
        truth: .npz files as the simulator writes them beside its shards: `key` [n] of records, and any of `heart_rate`
            [1/min], `pat_mean` [s], `has_pvc`. None for those beside the shards (`<shard>.truth.npz`), if all have one.
        max_segments: at most so many are drawn, as evenly over subjects as possible; None for all.
        quality: that both signals of a segment reach.
        seed: of the split and of the draw.
        sampling_freq: Hz, if the shards do not say it.

    Raises:
        ValueError: an argument is wrong (the message names it), or there are fewer than two subjects.
        FileNotFoundError: a file does not exist.
    """
    if split not in SPLITS:
        raise ValueError(f"split: expected one of {', '.join(map(repr, SPLITS))}, got {split!r}")
    if max_segments is not None and max_segments < 2:
        raise ValueError(f"max_segments: expected at least 2 or None, got {max_segments}")
    segments = Segments(data, quality=quality, split=None if split == "all" else split, seed=seed)
    fs = segments.sampling_freq or sampling_freq
    if fs is None:
        raise ValueError("sampling_freq: expected Hz, because the shards do not say, got None")
    everyone = segments.subject_of(np.arange(len(segments)))
    items = even_draw(everyone, max_segments, seed)
    ppg, ecg = np.empty((2, len(items), segments.seq_len), np.float32)
    good = segments.read(items, 0, ppg, ecg)
    beyond = {"beyond max_segments": len(segments) - len(items)} if len(items) < len(segments) else {}
    ppg, ecg, items = ppg[good], ecg[good], items[good]
    names, subject = np.unique(everyone[items], return_inverse=True)
    if len(names) < 2:
        raise ValueError(
            f"split: expected at least 2 subjects, got {len(names)} of {len(segments.subjects)} in {split!r}"
            " ('all' takes every subject)"
        )
    if truth is None:
        files = _truth_files(segments, items)
    else:
        files = [truth] if isinstance(truth, str | os.PathLike) else list(truth)
    about = {
        "shards": [Path(shard.path).name for shard in segments.index.shards],
        "split": split, "seed": seed, "quality": quality, "segments": len(items), "subjects": len(names),
        "segments_available": len(segments), "left_out": dict(sorted(segments.rejected.items())) | beyond,
        "truth": [Path(file).name for file in files],
        "sampling_freq": float(fs), "seq_len": segments.seq_len,
    }  # fmt: skip
    known = _read_truth(files, _keys(segments, items)) if files else {}
    subjects = [segments.subjects[i] for i in names]
    return HeldOut(ppg, ecg, subject, subjects, float(fs), known, about)


def even_draw(subject: np.ndarray, at_most: int | None, seed: int) -> np.ndarray:
    """Draw items evenly over subjects: one of each subject, then a second one, and so on, at random within a subject.

    Args:
        subject: [n], the number of the subject of each item.
        at_most: how many items to draw; None for all.
        seed: of the draw.

    Returns:
        Numbers of the items, ascending.
    """
    if at_most is None or len(subject) <= at_most:
        return np.arange(len(subject))
    shuffled = np.random.default_rng(seed).permutation(len(subject))
    by_subject = shuffled[np.argsort(subject[shuffled], kind="stable")]
    sizes = np.bincount(subject)
    turn = np.arange(len(subject)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    order = np.lexsort((np.random.default_rng(seed + 1).random(len(subject)), turn))
    return np.sort(by_subject[order[:at_most]])


def _keys(segments: Segments, items: np.ndarray) -> list[str]:
    """The names of the records in their shards."""
    rows = segments.rows[items]
    files = segments.index.shard_of(rows)
    keys = {int(file): segments.index.shards[file].sidecar.keys() for file in np.unique(files)}
    starts = {file: segments.index.shards[file].start for file in keys}
    return [keys[int(f)][row - starts[int(f)]].decode("utf-8", "replace") for f, row in zip(files, rows, strict=True)]


def _truth_files(segments: Segments, items: np.ndarray) -> list[Path]:
    """The truth files beside the shards that are used; an empty list if a shard has none."""
    used = np.unique(segments.index.shard_of(segments.rows[items]))
    files = [Path(segments.index.shards[i].path).with_suffix(".truth.npz") for i in used]
    return files if all(file.is_file() for file in files) else []


def _read_truth(files: Sequence[str | os.PathLike], keys: list[str]) -> dict[str, np.ndarray]:
    rows: dict[str, np.ndarray] = {}
    names: list[str] = []
    for file in files:
        with np.load(file, allow_pickle=False) as stored:
            if "key" not in stored.files:
                raise ValueError(f"truth: expected an array 'key' in {file}, it has {', '.join(stored.files)}")
            names += stored["key"].tolist()
            found = {name: stored[theirs] for name, theirs in LABELS.items() if theirs in stored.files}
        if rows and rows.keys() != found.keys():
            raise ValueError(f"truth: expected the arrays {', '.join(rows)} in {file} as in the others")
        rows = {name: np.concatenate([rows[name], x]) if name in rows else x for name, x in found.items()}
    if not rows:
        listed = ", ".join(map(str, files))
        raise ValueError(f"truth: expected any of {', '.join(LABELS.values())} in {listed}, got none")
    row_of = {name: i for i, name in enumerate(names)}
    missing = [key for key in keys if key not in row_of]
    if missing:
        lacking = f"{len(missing)} of {len(keys)} lack one, {missing[0]!r} for one"
        raise ValueError(f"truth: expected a row for every segment, {lacking}")
    order = np.array([row_of[key] for key in keys])
    return {name: values[order] for name, values in rows.items()}
