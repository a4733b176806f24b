"""Draws examples of segments: some that are used, and some that are rejected."""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np

from xmae_fast._files import check_replaceable, is_picture, write_picture
from xmae_fast._optional import check_installed, new_figure
from xmae_fast.data import problems
from xmae_fast.data.augment import NormalizeDtype
from xmae_fast.data.formats.layout import Layout
from xmae_fast.data.formats.shards import open_shard
from xmae_fast.data.index.segment_index import Paths, SegmentIndex, Shard
from xmae_fast.data.index.segment_reader import SegmentReader
from xmae_fast.data.inspection.inspect import index_of, problem_rows, record_names, selection_of
from xmae_fast.data.options import Quality

_COLOURS = {"ECG": "#b3261e", "PPG": "#0f8a5f"}
_WARNING = "#b45309"
_REJECTED = 3  # how many rejected segments are drawn at most
_COLUMNS = 3
_NAME = 44  # how many characters of a record's name are shown
_NO_SAMPLES = problems.WRONG_SHAPE | problems.UNREADABLE | problems.OUTSIDE


@dataclass
class _Example:
    """A segment to draw. `names` are "ECG" and "PPG", or "PPG" alone; `signals` are their samples, [L] each, or None if
    the record has no such samples."""

    subject: str
    record: str
    quality: tuple[float, float]  # PPG, ECG
    reason: str
    sampling_freq: float | None
    names: tuple[str, ...]
    signals: tuple[np.ndarray, ...] | None


def draw_examples(
    paths: Paths,
    file: str | os.PathLike,
    *,
    count: int = 6,
    seed: int = 0,
    quality: Quality = 0.9,
    layout: Layout | None = None,
    cache_dir: str | os.PathLike | None = None,
    normalize_dtype: NormalizeDtype = "float16",
) -> None:
    """Draw segments as they are stored, ECG above PPG, to a PNG file, which appears whole or not at all.

    Up to 3 segments that cannot be used are drawn too, with as many different reasons as possible.

    Args:
        paths, quality, layout, cache_dir, normalize_dtype: see `SegmentDataset`.
        file: the picture.
        count: how many segments that a loader would use are drawn.
        seed: decides which ones.

    Raises:
        ImportError: matplotlib is not installed.
        FileExistsError: `file` is there and is not a picture of this package.
        FileNotFoundError: a shard is missing.
        ValueError: there is no segment to draw, no shard can be read, or an argument has a wrong value.
    """
    check_installed("matplotlib", "Pictures of segments need", "eval")
    check_replaceable(file, is_picture, "a picture of xmae-fast", "file")
    options = {"layout": layout, "cache_dir": cache_dir, "normalize_dtype": normalize_dtype}
    write_picture(examples_figure(paths, count=count, seed=seed, quality=quality, **options), file, "file")


def examples_figure(
    paths: Paths,
    *,
    count: int = 6,
    seed: int = 0,
    quality: Quality = 0.9,
    layout: Layout | None = None,
    cache_dir: str | os.PathLike | None = None,
    normalize_dtype: NormalizeDtype = "float16",
):
    """The matplotlib figure that `draw_examples` writes.

    Raises:
        ImportError: matplotlib is not installed.
        FileNotFoundError: a shard is missing.
        ValueError: there is no segment to draw, no shard can be read, or an argument has a wrong value.
    """
    if count < 1:
        raise ValueError(f"count: expected at least 1, got {count}")
    index = index_of(paths, layout, cache_dir)
    rng = np.random.default_rng(seed)
    used = selection_of(index, quality, normalize_dtype).rows
    used = np.sort(rng.choice(used, min(count, len(used)), replace=False))
    rejected = _one_of_each(index, rng.permutation(problem_rows(index, normalize_dtype)), normalize_dtype)
    examples = _read(index, np.concatenate([used, rejected]).astype(np.int64), layout or Layout(), normalize_dtype)
    if not examples:
        raise ValueError(f"paths: no segment to draw with quality {quality} in {len(index.shards)} shard(s)")
    columns = min(_COLUMNS, max(len(used), len(rejected)))
    lines = -(-len(used) // columns) + -(-len(rejected) // columns)
    figure = new_figure(5.4 * columns, 3.1 * lines, "Pictures of segments need", "eval")
    figure.get_layout_engine().set(w_pad=0.12, h_pad=0.055)
    panels = figure.subfigures(lines, columns, squeeze=False).ravel()
    start = -(-len(used) // columns) * columns
    for panel, example in zip([*panels[: len(used)], *panels[start:]], examples, strict=False):
        _draw(panel, example)
    return figure


def _one_of_each(index: SegmentIndex, rows: np.ndarray, normalize_dtype: NormalizeDtype) -> np.ndarray:
    """Up to 3 of `rows`; rows with reasons that others do not have come first."""
    bits = index.problem[rows] & problems.relevant(normalize_dtype)
    new = np.zeros(len(rows), bool)
    new[np.unique(bits, return_index=True)[1]] = True
    return np.sort(rows[np.argsort(~new, kind="stable")][:_REJECTED])


def _read(index: SegmentIndex, rows: np.ndarray, layout: Layout, normalize_dtype: NormalizeDtype) -> list[_Example]:
    examples = []
    for row, (shard, name) in zip(rows.tolist(), record_names(index, rows), strict=True):
        problem, subject = int(index.problem[row]), index.subjects[index.subject[row]]
        signals = None if problem & _NO_SAMPLES else _signals(shard, row - shard.start, layout)
        reason = problems.describe(problem, normalize_dtype)
        rate = shard.header.sampling_freq
        names = ("ECG", "PPG") if shard.header.signals == "both" else ("PPG",)
        examples.append(_Example(subject, name, tuple(index.quality[row]), reason, rate, names, signals))
    return examples


def _signals(shard: Shard, row: int, layout: Layout) -> tuple[np.ndarray, ...] | None:
    with open_shard(shard.path) as file:
        ppg, ecg, found = SegmentReader(file, layout, shard.header, shard.sidecar.keys())(np.array([row]))
    if found.any():
        return None
    stored = (ecg[0], ppg[0]) if shard.header.signals == "both" else (ppg[0],)
    return tuple(signal.astype(float) for signal in stored)


def _draw(panel, example: _Example) -> None:
    """Draw the signals above each other, ECG first, with a common axis of time."""
    axes = panel.subplots(len(example.names), 1, sharex=True, squeeze=False)[:, 0]
    qualities = ["unknown" if np.isnan(quality) else f"{quality:.3f}" for quality in example.quality]
    judged = zip(reversed(example.names), qualities, strict=False)
    about = f"{_shortened(example.subject)}    quality: {', '.join(f'{name} {q}' for name, q in judged)}"
    headline = f"rejected: {example.reason}\n{about}" if example.reason else about
    colour = _WARNING if example.reason else "#111111"
    panel.suptitle(headline, fontsize=10, fontweight="bold", color=colour, parse_math=False)
    remarks = [f"record {_shortened(example.record.removeprefix(f'{example.subject}/'))}"]
    signals = example.signals or [None] * len(example.names)
    for axis, name, signal in zip(axes, example.names, signals, strict=True):
        colour = _COLOURS[name]
        axis.set_ylabel(name, fontsize=9, color=colour)
        if signal is None:
            axis.spines[:].set_visible(False)
            axis.set(xticks=[], yticks=[])
            axis.text(0.5, 0.5, "no samples", transform=axis.transAxes, ha="center", va="center", color="#777777")
            continue
        lost = _plot(axis, signal, example.sampling_freq or 1, colour)
        remarks += [f"{lost:,} {name} samples not finite"] if lost else []
    axes[0].set_title(", ".join(remarks), fontsize=8, color="#555555", parse_math=False)
    panel.align_ylabels(axes)
    if example.signals is not None:
        axes[-1].set_xlabel("time [s]" if example.sampling_freq else "sample", fontsize=9)


def _plot(axis, signal: np.ndarray, sampling_freq: float, colour: str) -> int:
    """Draw a signal with shaded gaps where samples are not finite; returns how many these are."""
    finite = np.isfinite(signal)
    axis.plot(np.arange(len(signal)) / sampling_freq, np.where(finite, signal, np.nan), color=colour, linewidth=0.9)
    edges = np.flatnonzero(np.diff(~finite, prepend=False, append=False)) / sampling_freq
    for begin, end in edges.reshape(-1, 2):
        axis.axvspan(begin, end, color=_WARNING, alpha=0.25, linewidth=0)
    axis.set_xlim(0, len(signal) / sampling_freq)
    axis.spines[["top", "right"]].set_visible(False)
    axis.tick_params(labelsize=8)
    axis.locator_params(axis="y", nbins=4)
    return int((~finite).sum())


def _shortened(text: str) -> str:
    """At most 44 characters of a text; the middle is left out."""
    half = _NAME // 2 - 1
    return text if len(text) <= _NAME else f"{text[:half]}…{text[-half:]}"
