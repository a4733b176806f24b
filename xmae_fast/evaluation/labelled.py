"""Segments of PPG with a label and a subject each, read from one file: .npz, .mat or .csv."""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from xmae_fast._optional import need
from xmae_fast.embedding.preprocess import prepare_ppg
from xmae_fast.model.recipe import Recipe
from xmae_fast.signals.beats import median_rate, ppg_beats, template_quality
from xmae_fast.signals.clean import clean_ppg
from xmae_fast.simulation.population import RHYTHMS

COLUMNS = ("ppg", "rhythm", "subject")


@dataclass(frozen=True, eq=False)
class LabelledPPG:
    """Segments as the model takes them, with their labels.

    Attributes:
        ppg: [n, L] float32, each scaled to [-1, 1].
        label: [n] texts.
        subject: [n] texts.
        fs: Hz.
        quality: [n] by template matching; NaN with fewer than four pulses.
        pulse_rate: [n] 1/min, from the median interval between pulses; NaN where quality is.
        prepared: whether the file's segments were taken as they are; else they were cleaned, resampled and scaled.
        left_out: how many segments of the file were constant or had no finite sample.
    """

    ppg: np.ndarray
    label: np.ndarray
    subject: np.ndarray
    fs: float
    quality: np.ndarray
    pulse_rate: np.ndarray
    prepared: bool
    left_out: int


def read_labelled(path: str | os.PathLike[str], fs: float = 100.0, recipe: Recipe | None = None) -> LabelledPPG:
    """Read labelled segments.

    Args:
        path: .npz or .mat with the arrays `ppg` [n, samples], `rhythm` [n] and `subject` [n], or .csv with a header: a
            row per segment, the columns `rhythm` and `subject`, and every other column a sample, in order. Whole
            numbers 0 to 5 as labels are the rhythms of `RHYTHMS` in their order.
        fs: Hz of the file.
        recipe: how segments are prepared; the published one by default. Segments that are as long as the recipe's, at
            its rate and within [-1, 1] are taken as prepared already.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it has another form, or something is missing; the message says what.
        ImportError: SciPy is missing.
    """
    path, recipe = Path(path), recipe or Recipe()
    if not path.is_file():
        raise FileNotFoundError(f"rhythm: expected a file .npz, .mat or .csv, {str(path)!r} is none")
    values = _read(path)
    ppg = np.asarray(values["ppg"], np.float64)
    columns = {name: np.asarray(values[name]).reshape(-1) for name in ("rhythm", "subject")}
    if ppg.ndim != 2 or not len(ppg) or any(len(column) != len(ppg) for column in columns.values()):
        shapes = {name: list(np.shape(values[name])) for name in COLUMNS}
        raise ValueError(f"{path}: expected ppg [n, samples], rhythm [n] and subject [n], got {shapes}")
    label, subject = _labels(columns["rhythm"]), np.array([_text(value) for value in columns["subject"].tolist()])
    ready = fs == recipe.sampling_freq and ppg.shape[1] == recipe.samples and bool(np.nanmax(np.abs(ppg)) <= 1)
    if ready and np.isfinite(ppg).all():
        usable, clean = np.ptp(ppg, axis=1) > 0, clean_ppg(ppg, fs)
        quality, rate = np.full((2, len(ppg)), np.nan)
        if usable.any():
            beats = ppg_beats(clean[usable], fs)
            quality[usable] = template_quality(clean[usable], beats, fs, recipe.quality_percentile)[0]
            rate[usable] = np.where(np.isnan(quality[usable]), np.nan, median_rate(beats, fs))
    else:
        ready = False
        made = prepare_ppg(ppg, fs, recipe)
        ppg, usable, quality, rate = made.ppg, made.usable, made.quality, made.pulse_rate
    if not usable.any():
        raise ValueError(f"{path}: expected segments that vary, all {len(ppg)} are constant or have no finite sample")
    return LabelledPPG(
        ppg[usable].astype(np.float32), label[usable], subject[usable], recipe.sampling_freq, quality[usable],
        rate[usable], ready, int((~usable).sum()),
    )  # fmt: skip


def _read(path: Path) -> Mapping[str, Any]:
    """The arrays of the file by name, all of COLUMNS."""
    kind = path.suffix.lower()
    try:
        if kind == ".npz":
            values = _read_npz(path)
        elif kind == ".mat":
            found = need("scipy.io", "MATLAB files need", "eval").loadmat(path, variable_names=COLUMNS)
            values = {name: found[name] for name in COLUMNS if name in found}
        elif kind == ".csv":
            values = _read_csv(path)
        else:
            raise ValueError(f"rhythm: expected a file .npz, .mat or .csv, got {path.name!r}")
    except (OSError, KeyError, EOFError, NotImplementedError) as error:
        raise ValueError(f"{path}: cannot be read: {error}") from error
    if missing := [name for name in COLUMNS if name not in values]:
        raise ValueError(f"{path}: expected {', '.join(COLUMNS)}, {', '.join(missing)} is missing")
    return values


def _read_npz(path: Path) -> dict[str, Any]:
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in COLUMNS if name in file}
    except (ValueError, AttributeError, BadZipFile) as error:  # no .npz, objects in it, or damage
        raise ValueError(f"{path}: expected an .npz file of plain arrays: {error}") from error


def _read_csv(path: Path) -> dict[str, Any]:
    with open(path, newline="", encoding="utf-8-sig") as file:
        rows = csv.reader(file)
        header = [name.strip() for name in next(rows, [])]
        place = {name: header.index(name) for name in ("rhythm", "subject") if name in header}
        samples = [i for i in range(len(header)) if i not in place.values()]
        if len(place) < 2 or not samples:
            return {name: () for name in place}
        table = [row for row in rows if row]
    if wrong := [number for number, row in enumerate(table, 2) if len(row) != len(header)]:
        raise ValueError(f"{path}: line {wrong[0]}: expected {len(header)} cells as in the header, got another number")
    try:
        ppg = np.array([[float(row[i] or "nan") for i in samples] for row in table])
    except ValueError as error:
        raise ValueError(f"{path}: expected numbers in all columns but rhythm and subject: {error}") from error
    return {"ppg": ppg} | {name: np.array([row[at].strip() for row in table]) for name, at in place.items()}


def _labels(values: np.ndarray) -> np.ndarray:
    texts = [_text(value) for value in values.tolist()]
    numbers = {str(number): name for number, name in enumerate(RHYTHMS)}
    named = all(text in numbers for text in texts)
    return np.array([numbers[text] if named else text for text in texts])


def _text(value: object) -> str:
    """A label or a subject as a text; whole numbers without a point, MATLAB's cells as what they hold."""
    while isinstance(value, np.ndarray) and value.size == 1:
        value = value.reshape(-1)[0].item() if value.dtype != object else value.reshape(-1)[0]
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace").strip()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value).strip()
