"""Imports run one way: no module imports one that stands above it, and none comes back to itself.

Read from the source, so that imports inside of functions and those for type checkers count too.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# Floors of the house, the ground first; what stands on one floor may import its own floor and those below.
FLOORS = (
    [
        "_config_checks",
        "_configs",
        "_environment",
        "_files",
        "_full_disk",
        "_graphs",
        "_messages",
        "_optional",
        "_processes",
        "_progress",
        "_shipped",
        "_starting",
        "_version",
        "_yaml",
    ],
    ("backend", "config", "reports", "tuning", "workers"),
    ("ops", "signals"),
    ("data", "model"),
    ("recordings",),
    ("embedding", "evaluation", "export", "preparation", "simulation", "training", "transformers"),
    ("sklearn",),
    ("__main__", "cli", "testing"),
)
APART = (("data", "model"), ("ops", "signals"), ("__main__", "testing"))  # neither imports the other


def modules(folder: str = "xmae_fast") -> dict[str, Path]:
    """Every module of a top-level package by its full name."""
    found = {}
    for path in sorted((ROOT / folder).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(source: str, known: Mapping[str, object], types_too: bool = True) -> Iterator[str]:
    """Modules of the package that a source imports anywhere; `types_too`: also those for type checkers alone."""
    tree = ast.parse(source)
    for_types = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if not types_too and node in for_types:
            continue
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            full = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name in known else node.module for name in full]
        else:
            continue
        names = [name for name in names if name.split(".")[0] in ("xmae_fast", "benchmarks", "tests")]
        yield from (name for name in names if not ast.unparse(node).startswith("from xmae_fast import _C_"))


def floor_of(module: str) -> int:
    """The number of a module's floor; the package's own __init__ is the roof."""
    parts = module.split(".")
    if len(parts) == 1:
        return len(FLOORS)
    return next(i for i, floor in enumerate(FLOORS) if parts[1] in floor)


def arrows_upwards(sources: Mapping[str, str]) -> list[str]:
    """What no module may import: a floor above its own, a neighbour that it stands apart from, benchmarks or tests."""
    found = []
    for name, source in sources.items():
        for other in imports(source, sources):
            ends = tuple(sorted((name.split(".")[1:2] or [""]) + (other.split(".")[1:2] or [""])))
            outside = not other.startswith("xmae_fast")
            if outside or ends in APART or (floor_of(other) > floor_of(name)):
                found.append(f"{name} imports {other}")
    return found


def circle(graph: Mapping[str, set[str]]) -> list[str]:
    """Modules of a circle, in order; none where there is no circle."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return error.args[1]
    return []


@pytest.fixture(scope="module")
def sources() -> dict[str, str]:
    return {name: path.read_text(encoding="utf-8") for name, path in modules().items()}


def test_every_module_has_a_floor(sources):
    tops = {name.split(".")[1] for name in sources if "." in name}
    assert tops == {name for floor in FLOORS for name in floor}


def test_nothing_imports_what_stands_above_it(sources):
    allowed = {name for name in sources if floor_of(name) >= len(FLOORS) - 1}  # these may import the package itself
    below = {name: "" if name in allowed else source for name, source in sources.items()}
    assert arrows_upwards(below) == []


@pytest.mark.parametrize("folder", ["xmae_fast", "benchmarks"])
def test_no_circles_of_modules(folder):
    sources = {name: path.read_text(encoding="utf-8") for name, path in modules(folder).items()}
    graph = {name: set(imports(source, sources, types_too=False)) - {name} for name, source in sources.items()}
    assert circle(graph) == []


def test_no_circles_of_packages(sources):
    tops: dict[str, set[str]] = {}
    for name, source in sources.items():
        if "." not in name:
            continue
        own = name.split(".")[1]
        others = {other.split(".")[1] for other in imports(source, sources) if "." in other}
        tops.setdefault(own, set()).update(others - {own})
    assert circle(tops) == []


@pytest.mark.parametrize(
    "line", ["from xmae_fast.training import step", "import benchmarks.run", "from xmae_fast import explain"]
)
def test_an_arrow_upwards_is_found(line):
    sources = dict.fromkeys(("xmae_fast", "xmae_fast.training", "xmae_fast.training.step"), "")
    sources["xmae_fast.ops.new"] = f"def f():\n    {line}\n"
    assert len(arrows_upwards(sources)) == 1


def test_a_circle_is_found():
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"a"}})
