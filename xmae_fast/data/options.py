"""Checks of the options that all data sets and loaders of segments have."""

from typing import Literal

Quality = float | tuple[float, float]
Split = Literal["train", "val", "test"] | None
Augment = bool | Literal["published"]


def check_option(name: str, value: object, allowed: tuple) -> None:
    """Raise ValueError, which names the option, unless `value` is one of `allowed`."""
    if value not in allowed:
        raise ValueError(f"{name}: expected one of {', '.join(map(repr, allowed))}, got {value!r}")


def check_reading(split: Split, augment: Augment, on_bad: str, normalize_dtype: str) -> bool:
    """Check the options of a reader; see `SegmentDataset` for their meanings.

    Returns:
        Whether segments of this split are augmented.

    Raises:
        ValueError: an option has an unknown value; the message names it.
    """
    check_option("split", split, ("train", "val", "test", None))
    check_option("augment", augment, (False, True, "published"))
    check_option("on_bad", on_bad, ("skip", "raise"))
    check_option("normalize_dtype", normalize_dtype, ("float16", "float32"))
    if augment == "published" and split is None:
        raise ValueError('augment: "published" depends on the split, expected split "train", "val" or "test"')
    return split != "train" if augment == "published" else augment and split in ("train", None)


def quality_pair(quality: Quality | list[float]) -> tuple[float, float]:
    """The thresholds (PPG, ECG) for the quality.

    Raises:
        ValueError: `quality` is neither a number nor a pair of numbers.
    """
    pair = tuple(quality) if isinstance(quality, (tuple, list)) else (quality, quality)
    if len(pair) != 2 or not all(isinstance(value, (int, float)) for value in pair):
        raise ValueError(f"quality: expected a number or a pair (ppg, ecg) of numbers, got {quality!r}")
    return pair
