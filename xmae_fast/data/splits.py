"""Splits subjects into those for training, validation and test."""

import math
from collections.abc import Iterable

import numpy as np

EXCLUDED_PREFIXES = ("vital_",)


def split_subjects(
    subjects: Iterable[str], seed: int = 77, *, exclude_prefixes: tuple[str, ...] = EXCLUDED_PREFIXES
) -> dict[str, list[str]]:
    """The published split; no subject is in two parts.

    It is `train_test_split(sorted(subjects), test_size=0.05, random_state=seed)` of scikit-learn, and then the same for
    the rest in its shuffled order. The members and their order are the same as there, but scikit-learn is not needed.
    The sizes of the held-out parts are rounded up: 3 subjects give 1 + 1 + 1, and 10 give 8 + 1 + 1 (train, val, test).

    Args:
        subjects: names; a name that comes twice counts once.
        seed: of NumPy's RandomState.
        exclude_prefixes: names that begin with one of these are left out.

    Returns:
        The names for "train", "val" and "test".

    Raises:
        ValueError: there are fewer than 3 names, so that nothing would be left to train on; scikit-learn raises it too.
    """
    names = sorted({name for name in subjects if not name.startswith(exclude_prefixes)})
    if len(names) < 3:
        raise ValueError(
            f"subjects: expected at least 3 for training, validation and test, got {len(names)}"
            f" (names beginning with {', '.join(exclude_prefixes) or 'nothing'} are left out)"
        )
    rest, test = _hold_out(names, seed)
    train, val = _hold_out(rest, seed)
    return {"train": train, "val": val, "test": test}


def _hold_out(names: list[str], seed: int) -> tuple[list[str], list[str]]:
    """(rest, held out) of scikit-learn's ShuffleSplit(test_size=0.05): the first 5 % of a permutation, rounded up, are
    held out."""
    order = np.random.RandomState(seed).permutation(len(names))
    held = math.ceil(0.05 * len(names))
    return [names[i] for i in order[held:]], [names[i] for i in order[:held]]
