"""Configurations in YAML files, and values of the command line that replace theirs."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from xmae_fast._optional import need


def import_yaml():
    """The module yaml; ImportError, which names the pip extra, if it is missing."""
    return need("yaml", "Configurations in YAML need", "train")


def read_yaml(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read the mapping that a YAML file holds; ValueError if it holds anything else."""
    yaml = import_yaml()
    try:
        values = yaml.load(Path(path).read_text(encoding="utf-8"), Loader=_loader())
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: expected YAML, {' '.join(str(error).split())}") from None
    if not isinstance(values, Mapping):
        raise ValueError(f"{path}: expected a mapping of keys to values, got {type(values).__name__}")
    return dict(values)


def with_overrides(values: Mapping[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """Set values in a copy of a configuration.

    Args:
        values: the configuration.
        overrides: texts "key=value" or "key.key=value", with the value in YAML.

    Raises:
        ValueError: a text has no "=", or a key before the last one is no mapping.
    """
    values = dict(values)
    for text in overrides:
        path, equals, value = text.partition("=")
        *parents, key = path.strip().split(".")
        if not equals or not key or not all(parents):
            raise ValueError(f"--set: expected key=value or key.key=value, got {text!r}")
        place = values
        for parent in parents:
            inside = place.get(parent) or {}
            if not isinstance(inside, Mapping):
                raise ValueError(f"--set {path}: expected a mapping under {parent!r}, got {inside!r}")
            place[parent] = place = dict(inside)
        place[key] = _value(value)
    return values


def _value(text: str) -> Any:
    yaml = import_yaml()
    try:
        return yaml.load(text, Loader=_loader())
    except yaml.YAMLError:  # such as *.h5
        return text.strip()


def _loader():
    """PyYAML's safe loader, changed to read 3e-4 as a number, as in YAML 1.2, and not as text, as in YAML 1.1."""
    yaml = import_yaml()

    class Loader(yaml.SafeLoader):
        pass

    exponent = re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$")
    Loader.add_implicit_resolver("tag:yaml.org,2002:float", exponent, list("-+.0123456789"))
    return Loader
