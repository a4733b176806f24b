"""Checks of configurations: of the model, of a pretraining run, of the simulator.

A `Check` is a pair: a function that tells whether a value fits, and what is expected, in words. Errors name the key,
what was expected and what came. Conversions turn numbers of NumPy and (in dictionaries) texts into plain Python values,
as the published code does; what the published code silently takes for something else gives a warning or an error here.
"""

from __future__ import annotations

import difflib
import math
import numbers
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeGuard

import numpy as np

Check = tuple[Callable[[Any], bool], str]
_TRUE = ("true", "yes", "on", "1")


def expect(ok: bool, key: str, expected: str, got: object) -> None:
    """Raise ValueError unless `ok`; its message names the key, what was expected and what came."""
    if not ok:
        raise ValueError(f"{key}: expected {expected}, got {got!r}")


def check_all(checks: Mapping[str, Check], values: object, prefix: str = "") -> None:
    """Raise ValueError for the first attribute of `values` that does not fit; `prefix` stands before its name."""
    for name, (fits, expected) in checks.items():
        value = getattr(values, name)
        expect(fits(value), prefix + name, expected, value)


def whole(low: int, none: bool = False) -> Check:
    """A whole number of at least `low`; none: or None."""
    return (
        lambda x: (x is None and none) or (is_whole(x) and x >= low),
        f"a whole number >= {low}" + (" or null" if none else ""),
    )


def between(low: float, high: float) -> Check:
    """A finite number from `low` to `high`, both included."""
    return lambda x: is_number(x) and low <= x <= high, f"a number in [{low:g}, {high:g}]"


def positive(none: bool = False) -> Check:
    """A finite number above 0; none: or None."""
    return (
        lambda x: (x is None and none) or (is_number(x) and x > 0),
        "a positive number" + (" or null" if none else ""),
    )


def one_of(*allowed: object) -> Check:
    """One of the texts and constants `allowed`; 1 is not True."""
    fits = lambda x: any(x is a or (isinstance(a, str) and x == a) for a in allowed)  # noqa: E731
    return fits, f"one of {', '.join('null' if a is None else repr(a) for a in allowed)}"


def nearest(key: object, known: Iterable[str], cutoff: float = 0.6) -> str | None:
    """The name of `known` that `key` looks most like, or None where it looks like none of them."""
    return next(iter(difflib.get_close_matches(str(key), known, n=1, cutoff=cutoff)), None)


def did_you_mean(key: object, known: Iterable[str], cutoff: float = 0.6) -> str:
    """ " (did you mean 'x'?)" with the nearest name of `known`, or '' where there is none."""
    near = nearest(key, known, cutoff)
    return "" if near is None else f" (did you mean {near!r}?)"


def refuse_unknown(got: Iterable[object], known: Sequence[str], where: str, hints: Sequence[str] | None = None) -> None:
    """Raise ValueError for the first key of `got` that is not among `known`, with the nearest known one.

    hints: the names to look for the nearest in; `known` unless given.
    """
    for key in got:
        if key not in known:
            hint = did_you_mean(key, known if hints is None else hints) or f"; known keys are {', '.join(known)}"
            raise ValueError(f"{where}: unknown key {key!r}{hint}")


def plain(value: Any) -> Any:
    """The bool, int, float or str of Python that equals a number or text of another class; else `value` itself."""
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real):
        return float(value)
    return str(value) if isinstance(value, str) else value


def is_whole(value: object) -> TypeGuard[int]:
    """Whether a plain value is a whole number (True and False are not)."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: object) -> TypeGuard[int | float]:
    """Whether a plain value is a finite number (True and False are not)."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def to_whole(key: str, value: Any) -> int:
    """`int(value)` of a number or a text, as published; a warning says so where that drops a fraction.

    Raises:
        ValueError: `value` is no number, is not finite, or is True or False.
    """
    number = _converted(int, key, "a whole number", value)
    if not isinstance(value, str) and number != value:
        warnings.warn(f"{key}: {value!r} counts as {number}, as in the published code", stacklevel=3)
    return number


def to_real(key: str, value: Any) -> int | float:
    """`float(value)` of a number or a text, as published; ints stay ints.

    Raises:
        ValueError: as for `to_whole`.
    """
    value = plain(value)
    return value if is_whole(value) else _converted(float, key, "a number", value)


def to_truth(key: str, value: Any) -> bool:
    """`bool(value)` as published, except for texts that the published code takes for True although they say otherwise.

    Raises:
        ValueError: a text other than true, yes, on, 1 (bool("False") is True in the published code), or no truth value.
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
