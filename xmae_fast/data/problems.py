"""What can be wrong with a segment, as bits and in words."""

from collections import Counter
from collections.abc import Mapping

import numpy as np

# The reader in C++ (csrc/io/rows.h) finds the problems of the first line.
CONSTANT, NON_FINITE, CONSTANT_HALF, NON_FINITE_HALF, OUTSIDE, UNREADABLE = 1, 2, 4, 8, 64, 128
BAD_KEY, WRONG_SHAPE = 16, 32
STRUCTURE = BAD_KEY | WRONG_SHAPE | OUTSIDE | UNREADABLE
_VALUES = {"float16": ((NON_FINITE_HALF, "non-finite"), (CONSTANT_HALF, "constant"))}
_VALUES["float32"] = ((NON_FINITE, "non-finite"), (CONSTANT, "constant"))
_STRUCTURES = (
    (BAD_KEY, "malformed key"),
    (WRONG_SHAPE, "wrong shape or dtype"),
    (OUTSIDE, "beyond the end of the file"),
    (UNREADABLE, "unreadable"),
)


def relevant(normalize_dtype: str) -> int:
    """The bits that matter for arithmetic in "float16" or "float32"."""
    return sum(bit for bit, _ in (*_STRUCTURES, *_VALUES[normalize_dtype]))


def describe(problem: int, normalize_dtype: str) -> str:
    """The most important of the problems in words; "" for none."""
    return next((text for bit, text in (*_STRUCTURES, *_VALUES[normalize_dtype]) if problem & bit), "")


def grouped(reasons: Mapping[str, str]) -> list[str]:
    """What is wrong with files, in few lines: those that differ in the file's name alone are one.

    Args:
        reasons: what is wrong, by the path of the file, which the text may name.

    Returns:
        The text of each kind for its first file, and how many others there are of that kind.
    """
    kinds: dict[str, list[str]] = {}
    for path, reason in reasons.items():
        kinds.setdefault(reason.replace(path, ""), []).append(reason)
    return [first + (f" (and {len(rest):,} more such)" if rest else "") for first, *rest in kinds.values()]


def count(problems: np.ndarray, normalize_dtype: str) -> Counter[str]:
    """How many segments have which problem, in words; `problems` is [n] uint8."""
    values, counts = np.unique(problems, return_counts=True)
    found = Counter()
    for value, number in zip(values.tolist(), counts.tolist(), strict=True):
        if text := describe(value, normalize_dtype):
            found[text] += number
    return found
