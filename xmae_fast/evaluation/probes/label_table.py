"""Labels from a table: which row belongs to which embedding, and whether they make a regression or a classification."""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

_MISSING = {"", "na", "n/a", "nan", "none", "null"}


class Labels(NamedTuple):
    """Labels of n embeddings.

    Attributes:
        labels: [n] float64, NaN where there is none.
        task: "regression" or "classification".
        joined_on: "key" or "subject".
        positive: the value of the table that 1 stands for; None for a regression.
        rows: how many the table has.
    """

    labels: np.ndarray
    task: str
    joined_on: str
    positive: str | None
    rows: int


def read_labels(
    table: str | os.PathLike[str],
    column: str,
    key: Sequence[str],
    subject: Sequence[str],
    *,
    task: str | None = None,
    positive: str | None = None,
    on: str | None = None,
) -> Labels:
    """Read the labels of n embeddings from a table.

    Args:
        table: a CSV file with a header, which has `column` and a column "key" or "subject". Empty cells, NA and NaN are
            no labels.
        column: the column of the labels.
        key, subject: [n], of the embeddings.
        task: "regression" or "classification"; None for a classification if the labels are 0 and 1 or two texts, and
            for a regression if they are other numbers.
        positive: the value that counts as 1 while all others count as 0, which makes a classification.
        on: the column to join on, "key" or "subject"; None for "key" if the table has it, else for "subject".

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: an argument or the table is wrong; the message names the argument.
    """
    if not Path(table).is_file():
        raise FileNotFoundError(f"labels: expected a CSV file, {os.fspath(table)!r} does not exist")
    with open(table, newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        header = reader.fieldnames or []
        where, names = os.fspath(table), ", ".join(header)
        if column not in header:
            raise ValueError(f"label: expected a column of {where}, one of {names}; got {column!r}")
        on = on or next((name for name in ("key", "subject") if name in header), None)
        if on not in ("key", "subject") or on not in header:
            raise ValueError(f"labels: expected a column {on or 'key or subject'!r} in {where}, got {names}")
        values: dict[str, str] = {}
        rows = 0
        for rows, row in enumerate(reader, 1):  # noqa: B007 - counted
            name, value = row[on], (row[column] or "").strip()
            if values.setdefault(name, value) != value:
                raise ValueError(f"labels: expected one label for {on} {name!r}, got {values[name]!r} and {value!r}")
    found = [values.get(name, "") for name in (key if on == "key" else subject)]
    known = np.array([text.lower() not in _MISSING for text in found])
    if not known.any():
        example = (key if on == "key" else subject)[0]
        raise ValueError(f"labels: expected labels for {on}s of the embeddings, such as {example!r}; none has one")
    numbers, task, positive = _as_numbers([t for t, k in zip(found, known, strict=True) if k], column, task, positive)
    labels = np.full(len(found), np.nan)
    labels[known] = numbers
    return Labels(labels, task, on, positive, rows)


def _as_numbers(
    texts: list[str], column: str, task: str | None, positive: str | None
) -> tuple[np.ndarray, str, str | None]:
    """The labels as numbers, the task, and the value that 1 stands for."""
    if positive is not None:
        if positive not in texts:
            raise ValueError(f"positive: expected a value of {column!r}, got {positive!r}")
        return np.array([float(text == positive) for text in texts]), task or "classification", positive
    try:
        numbers = np.array([float(text) for text in texts])
    except ValueError:
        distinct = sorted(set(texts))
        if len(distinct) != 2:
            shown = ", ".join(map(repr, distinct[:5]))
            expected = "numbers or two different values (or positive=, one against the rest)"
            raise ValueError(f"label: expected {expected} in {column!r}, got {len(distinct)}: {shown}") from None
        return np.array([float(text == distinct[1]) for text in texts]), task or "classification", distinct[1]
    if not all(map(math.isfinite, numbers)):
        raise ValueError(f"label: expected finite numbers in {column!r}, got infinity")
    binary = bool(np.isin(numbers, (0, 1)).all())
    return numbers, task or ("classification" if binary else "regression"), "1" if binary else None
