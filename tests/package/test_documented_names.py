"""docs/api.md lists every public name, and no other."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

PAGE = (Path(__file__).parents[2] / "docs" / "api.md").read_text()
SECTIONS = dict(re.findall(r"^## (xmae_fast\S*)\n(.*?)(?=^## |\Z)", PAGE, re.DOTALL | re.MULTILINE))
PACKAGES = ("", ".ops", ".model", ".data", ".training", ".embedding", ".evaluation", ".export", ".testing")
OPTIONAL = {"xmae_fast.sklearn": "sklearn", "xmae_fast.transformers": "transformers"}  # module -> the package it needs
# `from xmae_fast.model import *` also brings what the published module imports.
IMPORTED = {"Dict", "F", "Optional", "Tuple", "dataclass", "nn", "torch"}


def listed(section: str) -> set[str]:
    """Names between backticks in the first column of the tables, or in the text where there is no table."""
    rows = [line.split("|")[1] for line in section.splitlines() if line.startswith("| ")]
    return set(re.findall(r"`(\w+)`", " ".join(rows) if rows else section))


def test_sections_are_those_of_the_packages():
    assert set(SECTIONS) == {f"xmae_fast{package}" for package in PACKAGES} | set(OPTIONAL)


@pytest.mark.parametrize("name", SECTIONS)
def test_public_names_are_listed(name):
    if name in OPTIONAL:
        pytest.importorskip(OPTIONAL[name])
    package, names = importlib.import_module(name), listed(SECTIONS[name])
    assert [one for one in names if not hasattr(package, one)] == []
    if hasattr(package, "__all__"):
        public = set(package.__all__) - (IMPORTED if name == "xmae_fast.model" else set())
        assert names | {"__version__"} == public | {"__version__"}
