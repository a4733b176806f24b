"""MkDocs hook: a reference page for each section of docs/api.md, which lists the public names.

Signatures and contracts come from the docstrings, through mkdocstrings. A name without a docstring ends the build. An
object that two packages offer is described where docs/api.md lists it first. In docs/api.md itself each name becomes
a link to its description.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import griffe
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[2]
SECTION = re.compile(r"^## (xmae_fast\S*)\n(.*?)(?=^## |\Z)", re.DOTALL | re.MULTILINE)
NAV = "API reference"  # the section of the navigation that the pages are added to
NAME = re.compile(r"`([A-Za-z_][\w.]*)`")


@cache
def public_names() -> dict[str, list[str]]:
    """Names by package, in the order of docs/api.md: between backticks in the first column of its tables."""
    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    return {
        package: [
            name for row in text.splitlines() if row.startswith("| `") for name in NAME.findall(row.split(" | ")[0])
        ]
        for package, text in SECTION.findall(page)
    }


def page_of(package: str) -> str:
    return f"reference/{package}.md"


@cache
def package_tree() -> griffe.Module:
    """The source of xmae_fast, not imported."""
    return griffe.load("xmae_fast", search_paths=[str(ROOT)], submodules=True)


def find(path: str) -> griffe.Object | griffe.Alias:
    """What a public path leads to; a function goes before the module of its name from which it is imported."""
    found = package_tree()[path.removeprefix("xmae_fast.")]
    found = found.final_target if found.is_alias else found
    return found.members.get(found.name, found) if found.is_module else found


def path_is_of_module(path: str) -> bool:
    """Whether mkdocstrings would describe the module of that name, from which the function is imported."""
    found = package_tree()[path.removeprefix("xmae_fast.")]
    return found.is_module and not find(path).is_module


def missing_docstrings() -> list[str]:
    """Public names, and public methods of public classes, that say nothing about themselves."""
    missing = []
    for package, names in public_names().items():
        for name in names:
            found = find(f"{package}.{name}")
            if not found.has_docstring:
                missing.append(f"{package}.{name}")
            if found.is_class:
                missing += [
                    f"{package}.{name}.{member.name}"
                    for member in found.all_members.values()
                    if member.is_function and not member.name.startswith("_") and not member.has_docstring
                ]
    return sorted(set(missing))


def reference_page(package: str, names: list[str], described: dict[str, str]) -> str:
    """The Markdown of a page; `described` remembers which path each object is described under."""
    parts = [f"# {package}\n\n```python\nimport {package}\n```\n"]
    module = find(package) if "." in package else package_tree()
    if module.has_docstring:
        parts.append(module.docstring.value + "\n")
    for name in names:
        path = f"{package}.{name}"
        found = find(path)
        first = described.setdefault(found.path, path)
        if found.is_module:
            parts.append(f"## `{path}` {{#{path}}}\n\nA package: [{path}]({path}.md).\n")
        elif first == path and not path_is_of_module(path):
            parts.append(f"::: {path}\n")
        elif first == path:
            parts.append(f"[](){{ #{path} }}\n\n::: {found.path}\n    options:\n      heading: {path}\n")
        elif not path.startswith(f"{first}."):
            parts.append(f"## `{path}` {{#{path}}}\n\nThe same as [`{first}`][{first}].\n")
    return "\n".join(parts)


def on_files(files: Files, config) -> Files:
    if missing := missing_docstrings():
        raise PluginError(f"public names without a docstring: {', '.join(missing)}")
    described: dict[str, str] = {}
    for package, names in public_names().items():
        content = reference_page(package, [name for name in names if "." not in name], described)
        files.append(File.generated(config, page_of(package), content=content))
    (section,) = (entry[NAV] for entry in config.nav if NAV in entry)
    section.extend({package: page_of(package)} for package in public_names())
    return files


def on_page_markdown(markdown: str, page, config, files) -> str:
    """Make the names and headings of docs/api.md links."""
    if page.file.src_uri != "api.md":
        return markdown

    def link(package: str, name: str) -> str:
        path = f"{package}.{name}"
        return f"[`{name}`]({page_of(path)})" if find(path).is_module else f"[`{name}`][{path}]"

    def linked(section: re.Match) -> str:
        package, text = section.groups()
        rows = []
        for row in text.splitlines():
            if row.startswith("| `"):
                first, rest = row.split(" | ", 1)
                row = f"{NAME.sub(lambda name: link(package, name[1]), first)} | {rest}"
            rows.append(row)
        return f"## [{package}]({page_of(package)}) {{#{package}}}\n" + "\n".join(rows) + "\n"

    return SECTION.sub(linked, markdown)
