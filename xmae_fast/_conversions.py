"""Values of a configuration as plain Python ones: numbers of NumPy and, in dictionaries, texts as the published code
takes them. What the published code takes silently for something else is said here, or refused."""

from __future__ import annotations

import math
import numbers
import warnings
from typing import Any

import numpy as np

_TRUE = ("true", "yes", "on", "1")


def expect(ok: bool, key: str, expected: str, got: object) -> None:
    """Raise ValueError, which names the key, what was expected and what came, unless `ok`."""
    if not ok:
        raise ValueError(f"{key}: expected {expected}, got {got!r}")


def plain(value: Any) -> Any:
    """A Python bool, int, float or str for one of NumPy (or of another class of numbers); anything else as it is."""
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real):
        return float(value)
    return str(value) if isinstance(value, str) else value


def is_whole(value: object) -> bool:
    """Whether a plain value is a whole number (True and False are none)."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: object) -> bool:
    """Whether a plain value is a finite number (True and False are none)."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def to_whole(key: str, value: Any) -> int:
    """`int(value)` as published, of a number or a text; a warning says so where that drops a fraction.

    Raises:
        ValueError: `value` is no number, not finite, or True or False.
    """
    number = _converted(int, key, "a whole number", value)
    if not isinstance(value, str) and number != value:
        warnings.warn(f"{key}: {value!r} counts as {number}, as in the published code", stacklevel=3)
    return number


def to_real(key: str, value: Any) -> int | float:
    """`float(value)` as published, of a number or a text; ints stay ints. ValueError: as for `to_whole`."""
    value = plain(value)
    return value if is_whole(value) else _converted(float, key, "a number", value)


def to_truth(key: str, value: Any) -> bool:
    """`bool(value)` as published, but no text that the published code takes for True although it says otherwise.

    Raises:
        ValueError: a text other than true, yes, on, 1: bool("False") is True in the published code.
    """
    if isinstance(value, str):
        expected = "True or False, not a text (the published code takes every text but '' for True; write no quotes)"
        expect(value.strip().lower() in _TRUE, key, expected, value)
        return True
    if value is None:
        warnings.warn(f"{key}: None counts as False, as in the published code", stacklevel=3)
    expect(value is None or isinstance(plain(value), (bool, int, float)), key, "True or False", value)
    return bool(value)


def _converted(kind: type, key: str, expected: str, value: Any) -> Any:
    expect(not isinstance(value, (bool, np.bool_)), key, expected, value)
    try:
        return kind(value)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"{key}: expected {expected}, got {value!r}") from None
