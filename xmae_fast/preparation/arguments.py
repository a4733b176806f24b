"""Checks of what `prepare` is called with, before anything is done."""

from __future__ import annotations

import re
from importlib import metadata

from xmae_fast._optional import check_installed
from xmae_fast._version import __version__
from xmae_fast.data.options import Quality, check_option, quality_pair
from xmae_fast.preparation.settings import EQUIVALENT, Recipe, Settings
from xmae_fast.recordings.reading import POLARITIES, Reading, check_reading
from xmae_fast.recordings.sources import Source
from xmae_fast.recordings.subjects import check_subject_rule


def check_settings(
    dataset: str,
    recipe: Recipe,
    reading: Reading,
    polarity: str | tuple[str, str],
    subject: str,
    window_s: float,
    hop_s: float | None,
    sampling_freq: float,
    quality: Quality | None,
    max_missing: float,
) -> Settings:
    """Check the options of `prepare`, whose names and meanings these have.

    Raises:
        ValueError: an option has a wrong value; the message names it.
    """
    check_option("recipe", recipe, ("batched", "neurokit2"))
    if not re.fullmatch(r"[^/_+\s]+", dataset):
        raise ValueError(f"dataset: expected a name without '/', '_', '+' and spaces, got {dataset!r}")
    check_subject_rule(subject)
    check_reading(reading)
    check_option("signals", reading.signals, ("both", "ppg"))
    both = (polarity, polarity) if isinstance(polarity, str) else tuple(polarity)
    if len(both) != 2 or not set(both) <= set(POLARITIES):
        raise ValueError(f"polarity: expected {', '.join(POLARITIES)}, or a pair of these, got {polarity!r}")
    hop_s = window_s if hop_s is None else hop_s
    limits = {
        "window_s": (window_s, 4.0, 3600.0),
        "hop_s": (hop_s, 0.01, 1e6),
        "sampling_freq": (sampling_freq, 1.0, 1e5),
        "max_missing": (max_missing, 0.0, 0.99),
    }
    for name, (value, low, high) in limits.items():
        if value is not None and not low <= value <= high:
            raise ValueError(f"{name}: expected a number from {low:g} to {high:g}, got {value!r}")
    ppg_quality, ecg_quality = quality_pair(-1.0 if quality is None else quality)  # -1 is the least
    reading = reading._replace(fs=None if reading.fs is None else float(reading.fs))
    return Settings(
        dataset=dataset, recipe=recipe, subject=subject, window_s=float(window_s), hop_s=float(hop_s),
        sampling_freq=float(sampling_freq), quality=(float(ppg_quality), float(ecg_quality)),
        max_missing=float(max_missing), reading=reading, polarity=both,
    )  # fmt: skip


def package_versions(sources: list[Source], recipe: str) -> dict[str, str]:
    """The versions of everything that the values of the shards depend on, by package.

    Raises:
        ImportError: a package is missing that the recordings need.
    """
    needed = {"scipy": "Preparation"}
    needed |= {package: form.name for s in sources for form in s.forms for package in form.packages}
    if recipe == "neurokit2":
        needed["neurokit2"] = 'recipe="neurokit2"'
    for package, purpose in needed.items():
        check_installed(package, f"{purpose} needs", "neurokit2" if package == "neurokit2" else "prepare")
    packages = sorted({"numpy", *needed})
    versions = {"xmae_fast": __version__} | {name: metadata.version(name) for name in packages}
    return versions | ({} if recipe == "neurokit2" else {"equivalent": EQUIVALENT})
