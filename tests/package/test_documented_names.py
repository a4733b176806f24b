"""docs/api.md lists every public name and no other, docs/install.md every extra; the picture names every operator."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.package.test_public_names import NAMES
from xmae_fast import backend

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "api.md").read_text()
SECTIONS = dict(re.findall(r"^## (xmae_fast\S*)\n(.*?)(?=^## |\Z)", PAGE, re.DOTALL | re.MULTILINE))
PACKAGES = ("", ".ops", ".model", ".data", ".training", ".embedding", ".evaluation", ".export", ".testing")
OPTIONAL = {"xmae_fast.sklearn": "sklearn", "xmae_fast.transformers": "transformers"}  # module -> the package it needs
# Modules of which users import some names; their other names are not public.
PARTS = (
    ".backend", ".config", ".model.lag", ".signals.clean", ".signals.beats", ".data.index", ".embedding.ppg_bench",
    ".tuning", ".cli",
)  # fmt: skip
# `from xmae_fast.model import *` also brings what the published module imports.
IMPORTED = {"Dict", "F", "Optional", "Tuple", "dataclass", "nn", "torch"}


def listed(section: str) -> set[str]:
    """Names between backticks in the first column of the tables, or in the text where there is no table."""
    rows = [line.split("|")[1] for line in section.splitlines() if line.startswith("| ")]
    return set(re.findall(r"`(\w+)`", " ".join(rows) if rows else section))


def test_sections_are_those_of_the_packages():
    assert set(SECTIONS) == {f"xmae_fast{package}" for package in (*PACKAGES, *PARTS)} | set(OPTIONAL)


@pytest.mark.parametrize("name", SECTIONS)
def test_public_names_are_listed(name):
    if name in OPTIONAL:
        pytest.importorskip(OPTIONAL[name])
    package, names = importlib.import_module(name), listed(SECTIONS[name])
    assert [one for one in names if not hasattr(package, one)] == []
    if hasattr(package, "__all__") and name.removeprefix("xmae_fast") in PACKAGES:
        public = set(package.__all__) - (IMPORTED if name == "xmae_fast.model" else set())
        assert names | {"__version__"} == public | {"__version__"}


def test_names_that_users_import_are_listed():
    packages = {"data", "embedding", "evaluation", "export", "training", "tuning"}
    for module, names in NAMES.items():
        assert set(names.split()) - (packages if module == "xmae_fast" else set()) <= listed(SECTIONS[module]), module


def test_extras_are_listed():
    _, _, text = (ROOT / "pyproject.toml").read_text().partition("\n[project.optional-dependencies]\n")
    extras = re.findall(r"^(\w+) = \[", text.partition("\n[")[0], re.MULTILINE)
    assert "test" in extras
    page = (ROOT / "docs" / "install.md").read_text()
    rows = " ".join(row.split("|")[1] for row in page.splitlines() if row.startswith("| `"))
    assert set(re.findall(r"`(\w+)`", rows)) == set(extras)


def test_the_picture_of_a_call_names_every_operator_and_files_that_exist():
    root = ElementTree.parse(ROOT / "docs" / "how_a_call_travels.svg").getroot()
    shown = ["".join(text.itertext()) for text in root.iter("{http://www.w3.org/2000/svg}text")]
    words = set(re.findall(r"\w+", " ".join(shown)))
    assert set(backend.OPS) | set(backend.IMPLS) <= words
    files = [text for text in shown if re.fullmatch(r"[\w/<>.]+/[\w/<>.]+", text)]
    assert len(files) == 6
    for file in files:
        pattern = file.replace("<op>", "*")
        assert any(ROOT.glob(pattern if pattern.startswith("csrc") else f"xmae_fast/{pattern}")), file
