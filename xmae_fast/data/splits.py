"""Training, validation and test subjects."""

import math
from collections.abc import Iterable

import numpy as np

EXCLUDED_PREFIXES = ("vital_",)


def split_subjects(
    subjects: Iterable[str], seed: int = 77, *, exclude_prefixes: tuple[str, ...] = EXCLUDED_PREFIXES
) -> dict[str, list[str]]:
    """{"train", "val", "test"} -> subject names; never a subject in two.

    The published split: `train_test_split(sorted(subjects), test_size=0.05, random_state=seed)` of scikit-learn, then
    5 % of the rest, in its shuffled order, with the same seed; same members, same order, without needing scikit-learn.
    Names are made unique and those that begin with one of `exclude_prefixes` are left out. Held-out sizes are rounded
    up: 3 subjects give 1 + 1 + 1, 10 give 8 + 1 + 1 (train, val, test). Fewer than 3 raise ValueError, as
    scikit-learn does: nothing would be left to train on."""
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
    """scikit-learn's ShuffleSplit(test_size=0.05): the head of the permutation is held out, rounded up."""
    order = np.random.RandomState(seed).permutation(len(names))
    held = math.ceil(0.05 * len(names))
    return [names[i] for i in order[held:]], [names[i] for i in order[:held]]
