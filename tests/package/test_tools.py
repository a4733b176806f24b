"""The tools around the code agree: make's targets, the hooks of pre-commit, CI, and one list of pinned versions."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from xmae_fast.backend import OPS, registry

ROOT = Path(__file__).parents[2]
PINS = dict(re.findall(r"^([a-z-]+)(?:\[[a-z]+\])?==(\S+)$", (ROOT / ".ci" / "tools.txt").read_text(), re.MULTILINE))
OTHER_FILES = [ROOT / name for name in ("Makefile", "pyproject.toml", ".pre-commit-config.yaml", ".ci/run")]
# What a hook's command belongs to, where it is not the name of its package.
PACKAGE_OF = {
    "trailing-whitespace-fixer": "pre-commit-hooks",
    "end-of-file-fixer": "pre-commit-hooks",
    "check-added-large-files": "pre-commit-hooks",
    "check-merge-conflict": "pre-commit-hooks",
}
TARGETS = {
    "help", "build", "lint", "style", "format", "types", "test", "test-fast", "op", "interpret", "proofs", "docs",
    "site", "elsewhere", "elsewhere-quick", "bench", "quick-benchmarks", "sanitize",
    "wheels", "wheels-check", "wheel-cuda", "newest",
}  # fmt: skip


def make(*arguments: str) -> subprocess.CompletedProcess[str]:
    if shutil.which("make") is None:
        pytest.skip("no make here")
    return subprocess.run(["make", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)


def commands(target: str, *variables: str) -> str:
    """What make would run for a target."""
    done = make("--dry-run", target, *variables)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_versions_are_pinned_in_one_place():
    assert {"ruff", "clang-format", "pyright", "pre-commit-hooks"} == set(PINS)
    lines = [line for line in (ROOT / ".ci" / "tools.txt").read_text().splitlines() if not line.startswith("#")]
    assert len(lines) == len(PINS)  # every line pins one version
    for path in OTHER_FILES:
        for name in PINS:
            assert not re.search(rf"\b{name}(?:\[\w+\])?\s*[=<>~]=", path.read_text()), f"{path.name} states {name}'s"


def test_ci_runs_the_pinned_tools_before_the_tests():
    steps = re.findall(r"^step (.*?)(?: #.*)?$", (ROOT / ".ci" / "run").read_text(), re.MULTILINE)
    order = [
        "python -m pip install --quiet -r .ci/tools.txt", "make style", '"${command% && *}"',
        '''"XMAE_FAST_BUILD=none python -m pip install --quiet --no-build-isolation -e '.[docs]'"''',
        """'make types & types=$!; .ci/wheels quick; wait "$types"'""", '"${command##* && }"',
        "make elsewhere-quick", "make quick-benchmarks",
    ]  # fmt: skip
    assert steps == order
    style, types = commands("style"), commands("types")
    assert "ruff check ." in style
    assert "ruff format --check ." in style
    assert "pyright" in types
    assert commands("lint") == style + types


def test_hooks_run_the_pinned_tools_and_fetch_nothing():
    yaml = pytest.importorskip("yaml")
    repositories = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert {repository["repo"] for repository in repositories} == {"local"}
    hooks = [hook for repository in repositories for hook in repository["hooks"]]
    programs = [hook["entry"].split()[0] for hook in hooks]
    assert {PACKAGE_OF.get(program, program) for program in programs} == set(PINS) - {"pyright"}
    assert all(hook["language"] == "system" for hook in hooks)


def test_help_lists_every_target():
    listed = re.findall(r"^  ([a-z-]+) +\S", make().stdout, re.MULTILINE)
    assert len(listed) == len(set(listed))
    assert set(listed) == TARGETS
    for target in TARGETS - {"op"}:
        assert commands(target)


@pytest.mark.parametrize("op", OPS)
def test_an_operators_tests_are_its_own(op):
    """`make op` takes whole files and generic tests by name; all exist, and none starts the interpreter."""
    text = commands("op", f"OP={op}")
    found = re.search(r'-k "(.*?)" (.*)', text)
    chosen, files = found[1].split(" or "), found[2].split()
    assert all((ROOT / file).is_file() for file in files)
    assert "tests/ops/test_ops.py" in files
    assert not any("triton" in file or "interpreted" in file for file in files)
    assert set(chosen) == {op} | {Path(file).stem for file in files} - {"test_ops", "test_wrong", "test_choices"}
    assert "build_ext" in text


def test_cpu_files_belong_to_an_operator():
    texts = " ".join(commands("op", f"OP={op}") for op in OPS)
    of_all = {"test_cpu_fingerprint.py", "test_cpu_frozen.py", "test_cpu_vec.py"}
    files = {path.name for path in (ROOT / "tests" / "ops").glob("test_cpu_*.py")} - of_all
    assert files
    assert all(name in texts for name in files)


@pytest.mark.parametrize("target", ["op", "interpret"])
def test_an_unknown_operator_is_named(target):
    done = make(target, "OP=lag")
    assert done.returncode == 2
    assert f"OP: expected one of {' '.join(sorted(OPS))}, got 'lag'" in done.stderr


def test_an_operators_interpreted_tests_exist():
    for op in (op for op in OPS if registry.has(op, "triton")):
        (file,) = re.findall(r"tests/ops/interpreted/\S+", commands("interpret", f"OP={op}"))
        assert (ROOT / file).is_file()
