"""Measure this tree against another commit: `python benchmarks/run.py --base REF`.

The commit is checked out as a git worktree in a temporary folder and gets extensions of its own. Then the two trees
measure themselves in turns, base, this, base, this, ..., each time in a process of its own, with the benchmarks that
belong to the tree and the contestants that are ours. Every process checks numerics before it takes times. What is
compared are rows of the same suite, group and name, so the two trees need not be laid out alike.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from rich import box
from rich.console import Console
from rich.table import Table

ROUNDS = 3
BUSY = 0.05  # share of the processors that others may use before times are called unreliable
OURS = "xmae_fast"  # `Contestant.role` of what is compared, in the JSON file too
EXTENSIONS = "_C_*.so"
COLUMNS = ("group", "contestant", "base ms", "this ms", "x base", "of rounds", "errors")
LEGEND = """\
ms: median over rounds of each process's median. x base: time of base divided by this tree's, median over rounds; above
1 is faster. of rounds: the smallest and the largest of these ratios. errors: against float64; where they differ the
largest of base and of this tree."""
# Runs a tree's own benchmarks with that tree's package, even where another one is installed.
DRIVER = f"""
import dataclasses, pathlib, sys
tree = pathlib.Path(sys.argv.pop(1)).resolve()
sys.path.insert(0, str(tree))
import xmae_fast
found = pathlib.Path(xmae_fast.__file__).resolve().parents[1]
if found != tree:
    sys.exit(f"xmae_fast comes from {{found}} instead of {{tree}}")
from benchmarks import run
measure = getattr(run, "measure", None)
if measure is not None:
    def ours(group, *rest):
        chosen = [one for one in group.contestants if one.role == {OURS!r}]
        return measure(dataclasses.replace(group, contestants=chosen), *rest)
    run.measure = ours
sys.exit(run.main(sys.argv[1:]))
"""


class Key(NamedTuple):
    """What names a row in both trees."""

    suite: str
    group: str
    contestant: str


@dataclass
class Measured:
    """One row of one tree: seconds per call, the median of each process; errors by tensor; why it failed, or ''."""

    seconds: list[float] = field(default_factory=list)
    errors: dict[str, float] = field(default_factory=dict)
    failure: str = ""


class Report(NamedTuple):
    """What one process measured: rows, its machine line, and how many groups were timed beside other work."""

    rows: dict[Key, Measured]
    machine: str
    busy: int


def compare(root: Path, reference: str, arguments: list[str], rounds: int = ROUNDS) -> int:
    """Print a table of this tree against a commit.

    Args:
        root: a checkout of this repository; it is measured as it is, with the extensions that lie in it.
        reference: what git calls the commit.
        arguments: options for the benchmarks of both trees.
        rounds: processes of each tree.

    Returns:
        The exit code: 0, 1 when an implementation's numbers are wrong, 2 when there is nothing to compare. A run that
        is broken off (Ctrl-C) compares the rounds that are complete.
    """
    console = Console(width=None if sys.stdout.isatty() else 160, highlight=False)
    try:
        commit = commit_of(root, reference)
        if changed := _git(root, "status", "--porcelain", "--untracked-files=no").splitlines():
            console.print(f"This tree has changes that are not committed, in {len(changed)} files: they are measured.")
        with checkout(root, commit) as tree:
            console.print(f"Base: {reference} ({commit[:9]}), {give_extensions(tree, root, commit)}", soft_wrap=True)
            reports: dict[Path, list[Report]] = {tree: [], root: []}
            try:
                for number in range(rounds):
                    for name, where in (("base", tree), ("this", root)):
                        began = time.perf_counter()
                        reports[where].append(measured(where, arguments))
                        took = time.perf_counter() - began
                        console.print(f"round {number + 1} of {rounds}, {name}: {took:.0f} s", style="dim")
            except KeyboardInterrupt:
                if not reports[root]:
                    raise
                console.print("Broken off: the rounds that are complete are compared.", style="yellow")
        return _print(console, reports[tree], reports[root])
    except (ValueError, RuntimeError) as error:
        print(f"error: --base: {error}", file=sys.stderr)
        return 2


def commit_of(root: Path, reference: str) -> str:
    """The full name of a commit. ValueError: no git, no checkout, or no such commit."""
    if shutil.which("git") is None:
        raise ValueError("git is not installed")
    if not (root / ".git").exists():
        raise ValueError(f"expected a git checkout, but {root} is none")
    try:
        return _git(root, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{reference}^{{commit}}").strip()
    except RuntimeError:
        raise ValueError(f"expected a commit that git knows, got {reference!r}") from None


@contextmanager
def checkout(root: Path, commit: str) -> Iterator[Path]:
    """A worktree of the commit in a temporary folder, removed whatever happens (errors, Ctrl-C, SIGTERM)."""

    def end(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, end)
    try:
        with tempfile.TemporaryDirectory(prefix="xmae_fast_base_") as folder:
            tree = Path(folder).resolve() / "base"
            try:
                _git(root, "worktree", "add", "--quiet", "--detach", str(tree), commit)
                yield tree
            finally:
                shutil.rmtree(tree, ignore_errors=True)
                _git(root, "worktree", "prune")
    finally:
        signal.signal(signal.SIGTERM, before)


def give_extensions(tree: Path, root: Path, commit: str) -> str:
    """Copy this tree's extensions to the other one, or build them there if their sources differ; says which.

    The other tree gets the kinds that this one has: none, those for CPUs, or those for GPUs too.
    """
    built = sorted((root / "xmae_fast").glob(EXTENSIONS))
    if not built:
        return "without C++ operators, as this tree"
    for_gpus = any(path.name.startswith("_C_cuda") for path in built)
    sources = ["setup.py", "csrc", *([] if for_gpus else [":(exclude)csrc/cuda"])]
    tracked = subprocess.run(["git", "diff", "--quiet", commit, "--", *sources], cwd=root, check=False).returncode == 0
    if tracked and not _git(root, "ls-files", "--others", "--exclude-standard", "--", *sources):
        for path in built:
            shutil.copy2(path, tree / "xmae_fast" / path.name)
        return "with copies of this tree's extensions, as their sources are the same"
    command = [sys.executable, "setup.py", "-q", "build_ext", "--inplace"]
    kind = "cuda" if for_gpus else "cpu"
    environment = {**os.environ, "XMAE_FAST_BUILD": kind}
    done = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"building the extensions of {commit[:9]} failed: {_last_lines(done.stderr)}")
    return f"with extensions built from its own sources (XMAE_FAST_BUILD={kind})"


def measured(tree: Path, arguments: list[str]) -> Report:
    """Run a tree's own benchmarks in a new process. RuntimeError: they ended without results."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "out.json"
        command = [sys.executable, "-c", DRIVER, str(tree), *arguments, "--json", str(path)]
        done = subprocess.run(command, cwd=tree, capture_output=True, text=True, check=False)
        if done.returncode not in (0, 1) or not path.exists():
            said = _last_lines(done.stderr or done.stdout)
            raise RuntimeError(f"the benchmarks in {tree} ended with exit code {done.returncode}: {said}")
        return read(json.loads(path.read_text()))


def read(payload: dict) -> Report:
    """Our rows of a JSON file of the benchmarks."""
    rows: dict[Key, Measured] = {}
    busy = 0
    for suite, groups in payload["suites"].items():
        for group in groups:
            busy += group["other_work"] > BUSY
            for row in group["rows"]:
                if row["role"] == OURS and (row["seconds"] or row["status"] == "FAILED"):
                    rows[Key(suite, group["title"], row["name"])] = Measured(
                        [statistics.median(row["seconds"])] if row["seconds"] else [],
                        {error["name"]: error["error"] for error in row["errors"]},
                        row["note"] or "failed" if row["status"] == "FAILED" else "",
                    )
    return Report(rows, payload["machine"]["line"], busy)


def joined(reports: list[Report]) -> dict[Key, Measured]:
    """Rows of all processes of one tree; one that failed in any of them has failed."""
    rows: dict[Key, Measured] = {}
    for report in reports:
        for key, row in report.rows.items():
            known = rows.setdefault(key, Measured(errors=row.errors))
            known.seconds += row.seconds
            known.failure = known.failure or row.failure
    return rows


def ratios(base: Measured, this: Measured) -> list[float]:
    """Time of base divided by this tree's, round by round."""
    return [a / b for a, b in zip(base.seconds, this.seconds, strict=False)]


def errors_of(base: Measured, this: Measured) -> str:
    """`same` where all errors are equal bit for bit."""
    if base.errors == this.errors:
        return "same"
    return " -> ".join(f"{max(one.errors.values(), default=0.0):.1e}" for one in (base, this))


def _print(console: Console, base_reports: list[Report], this_reports: list[Report]) -> int:
    base, this = joined(base_reports[: len(this_reports)]), joined(this_reports)
    console.print(this_reports[0].machine, style="bold", soft_wrap=True)
    console.print(LEGEND, style="dim")
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    for name in COLUMNS:
        table.add_column(name, justify="left" if name in ("group", "contestant", "errors") else "right")
    for key in (key for key in this if key in base):
        one, other = base[key], this[key]
        if found := ratios(one, other):
            ms = [f"{statistics.median(row.seconds) * 1e3:.4g}" for row in (one, other)]
            spread = f"{min(found):.2f} .. {max(found):.2f}"
            cells = *ms, f"{statistics.median(found):.2f}", spread, errors_of(one, other)
        else:
            cells = ("", "", "", "", "FAILED")
        table.add_row(key.group, key.contestant, *cells)
    console.print(table)
    for name, rows, others in (("base", base, this), ("this tree", this, base)):
        for key in rows:
            if key not in others:
                console.print(f"only in {name}: {' / '.join(key)}", soft_wrap=True, markup=False)
        for key, row in rows.items():
            if row.failure:
                console.print(
                    f"FAILED in {name}: {' / '.join(key)}: {row.failure}",
                    style="bold red",
                    soft_wrap=True,
                    markup=False,
                )
    if busy := max(report.busy for report in (*base_reports, *this_reports)):
        console.print(f"WARNING: up to {busy} groups a process were timed while others were at work", style="yellow")
    if not base.keys() & this.keys():
        raise RuntimeError("no row has the same suite, group and name in both trees")
    return int(any(row.failure for row in (*base.values(), *this.values())))


def _git(root: Path, *arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"git {' '.join(arguments)}: {_last_lines(done.stderr)}")
    return done.stdout


def _last_lines(text: str) -> str:
    return " | ".join(text.strip().splitlines()[-3:])
