"""The content of files with nested variables, MATLAB's and HDF5's, in one form."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass
class Numbers:
    """An array of real numbers that stays in the file until it is read.

    Args:
        shape: of the array, without the axes of one element that it has beyond two.
        read: takes the open file and an index of the array, and returns those numbers.
    """

    shape: tuple[int, ...]
    read: Callable[[Any, tuple], np.ndarray]

    @property
    def size(self) -> int:
        """How many numbers there are."""
        return int(np.prod(self.shape))

    @property
    def is_vector(self) -> bool:
        """Whether all numbers lie along one axis."""
        return sum(n != 1 for n in self.shape) <= 1

    def describe(self) -> str:
        """What it is, for messages: its shape."""
        return f"{'x'.join(map(str, self.shape)) or 1} numbers"


@dataclass
class Text:
    """Rows of text: one for a word, several for a list of words."""

    rows: list[str]

    def describe(self) -> str:
        """What it is, for messages."""
        return "text"


@dataclass
class Struct:
    """Fields by name."""

    fields: dict[str, Node]

    def describe(self) -> str:
        """What it holds, for messages."""
        return f"struct of {', '.join(self.fields) or 'nothing'}"


@dataclass
class Many:
    """The elements of a cell or struct array, in the order of MATLAB: down the columns."""

    elements: list[Node]

    def describe(self) -> str:
        """What it holds, for messages."""
        first = f", first {self.elements[0].describe()}" if self.elements else ""
        return f"{len(self.elements)} elements{first}"


@dataclass
class Other:
    """Something that holds no numbers, such as a table or a function."""

    what: str

    def describe(self) -> str:
        """What it is, for messages."""
        return self.what


Node = Numbers | Text | Struct | Many | Other


def key_of(name: str) -> str:
    """A name in lower case, without blanks, "_", "-" and ".", for comparing names."""
    return "".join(c for c in name.lower() if c not in " _-.")


def number_of(node: Node | None, file: Any) -> float | None:
    """The value of a node with one number, or of a text that begins with one; None for anything else."""
    if isinstance(node, Numbers) and node.size == 1:
        return float(np.ravel(node.read(file, (Ellipsis,)))[0])
    if isinstance(node, Text) and len(node.rows) == 1:
        try:
            return float(node.rows[0].lower().removesuffix("hz"))
        except ValueError:
            return None
    return None


def text_of(node: Node | None, file: Any) -> str:
    """The text of a node with one row of text or one number; "" for anything else."""
    if isinstance(node, Text) and len(node.rows) == 1:
        return node.rows[0].strip()
    number = number_of(node, file)
    if number is None or not np.isfinite(number):
        return ""
    return str(int(number)) if number.is_integer() else str(number)


def values_of(node: Node | None, file: Any) -> np.ndarray:
    """All numbers of a node, [size] float64; empty for anything else."""
    if not isinstance(node, Numbers):
        return np.zeros(0)
    return np.asarray(node.read(file, (Ellipsis,)), np.float64).ravel()
