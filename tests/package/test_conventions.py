"""The files that people and tools expect beside the code: version, citation, changelog, templates. They agree."""

from __future__ import annotations

import ast
import datetime
import re
from pathlib import Path

import pytest

import xmae_fast
from xmae_fast._version import __version__
from xmae_fast.cli import parser

ROOT = Path(__file__).parents[2]
TEMPLATES = ROOT / ".github" / "ISSUE_TEMPLATE"
CHANGELOG = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
RELEASES = re.findall(r"^## \[([^\]]+)\](?: - (\S+))?$", CHANGELOG, re.MULTILINE)
# https://keepachangelog.com/en/1.1.0/ has these kinds; a change of numerics has its own.
KINDS = ["Upgrading", "Added", "Changed", "Deprecated", "Removed", "Fixed", "Security", "Numerics"]


def read(path: Path):
    return pytest.importorskip("yaml").safe_load(path.read_text(encoding="utf-8"))


def test_the_version_is_stated_once():
    assert xmae_fast.__version__ == __version__
    assert re.fullmatch(r"\d+\.\d+\.\d+", __version__)
    for path in (ROOT / "xmae_fast").rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        stated = [node for node in ast.walk(tree) if isinstance(node, ast.Constant) and node.value == __version__]
        assert len(stated) == (path.name == "_version.py"), path
    pyproject = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert 'version = { attr = "xmae_fast._version.__version__" }' in pyproject
    assert 'dynamic = ["version"]' in pyproject
    assert __version__ not in (ROOT / "setup.py").read_text(encoding="utf-8")


def test_the_citation_is_of_this_version():
    cited = read(ROOT / "CITATION.cff")
    assert (cited["cff-version"], cited["type"], cited["license"]) == ("1.2.0", "software", "Apache-2.0")
    assert cited["version"] == __version__
    assert cited["title"] == "xmae-fast"
    assert cited["authors"]
    [paper] = cited["references"]
    assert paper["identifiers"] == [{"type": "other", "value": "arXiv:2605.00973"}]
    assert paper["title"]
    assert all(set(author) == {"given-names", "family-names"} for author in paper["authors"])
    dates = dict(RELEASES)
    assert dates[__version__] == str(cited["date-released"])


def test_the_citation_is_valid():
    cffconvert = pytest.importorskip("cffconvert")
    cffconvert.Citation((ROOT / "CITATION.cff").read_text(encoding="utf-8")).validate()


def test_the_changelog_has_a_section_for_each_version_the_newest_first():
    names = [name for name, _ in RELEASES]
    assert names[0] == "Unreleased"
    assert names[1] == __version__
    versions = [tuple(map(int, name.split("."))) for name in names[1:]]
    assert versions == sorted(set(versions), reverse=True)
    days = [datetime.date.fromisoformat(day) for _, day in RELEASES[1:]]
    assert days == sorted(days, reverse=True)


def test_the_changes_of_a_version_are_in_known_order():
    for section in re.split(r"^## ", CHANGELOG, flags=re.MULTILINE)[1:]:
        found = re.findall(r"^### (.*)$", section, re.MULTILINE)
        assert found == [kind for kind in KINDS if kind in found], section.partition("\n")[0]


@pytest.mark.parametrize("path", sorted(TEMPLATES.glob("*.yml")), ids=lambda path: path.name)
def test_forms_of_issues_are_valid(path):
    form = read(path)
    if path.name == "config.yml":
        assert form == {"blank_issues_enabled": False}
        return
    assert form["name"]
    assert form["description"]
    assert set(form) <= {"name", "description", "labels", "body", "title", "assignees"}
    for field in form["body"]:
        assert field["type"] in ("markdown", "textarea", "input", "dropdown", "checkboxes")
        assert set(field) <= {"type", "id", "attributes", "validations"}
        if field["type"] == "markdown":
            assert field["attributes"]["value"]
        else:
            assert field["attributes"]["label"]
            assert re.fullmatch(r"[\w-]+", field["id"])
            assert field.get("validations", {}).keys() <= {"required"}
    names = [field["id"] for field in form["body"] if "id" in field]
    assert len(names) == len(set(names))
    labels = [field["attributes"].get("label") for field in form["body"]]
    assert len(labels) == len(set(labels))


def test_there_are_forms_and_they_name_commands_that_exist():
    assert {path.name for path in TEMPLATES.glob("*.yml")} == {"bug.yml", "feature.yml", "question.yml", "config.yml"}
    required = [field["id"] for field in read(TEMPLATES / "bug.yml")["body"] if field.get("validations")]
    assert required == ["what", "how", "env"]
    told = parser().format_help()
    texts = [path.read_text(encoding="utf-8") for path in (ROOT / ".github").rglob("*.*") if path.is_file()]
    commands = set(re.findall(r"xmae-fast ([a-z]+)", " ".join(texts)))
    assert "env" in commands
    assert all(re.search(rf"^ +{name} ", told, re.MULTILINE) for name in commands)
    request = (ROOT / ".github" / "PULL_REQUEST_TEMPLATE.md").read_text(encoding="utf-8")
    for name in re.findall(r"(?:\w+/)*\w+\.(?:md|py)", request):
        assert (ROOT / name).is_file(), name
    assert "## Public names and their end" in (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
