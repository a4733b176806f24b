"""`benchmarks/run.py --base`: two trees in turns, with their own benchmarks. The trees here are small and fake."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

pytest.importorskip("rich", reason="the benchmarks need rich (pip install xmae-fast[bench])")

from benchmarks import run
from benchmarks.harness import base
from benchmarks.harness.contest import BASELINE, OURS
from benchmarks.harness.report import BUSY

# Writes what a tree's benchmarks would: rows with the times, errors and failures of TREE.
FAKE = """
import dataclasses, json, sys
@dataclasses.dataclass
class One:
    name: str
    role: str
@dataclasses.dataclass
class Group:
    contestants: list
def measure(group, *rest):
    return [one.name for one in group.contestants]
def main(arguments):
    chosen = measure(Group([One("a", "xmae_fast"), One("b", "baseline")]))
    open(LOG, "a").write(f"{TREE['name']} {' '.join(arguments[:-2])} {chosen}\\n")
    if TREE.get("refuses"):
        print("error: --suite: unknown", file=sys.stderr)
        return 2
    rows = [{"name": name, "role": "xmae_fast", "status": "FAILED" if note else "ok", "note": note, "seconds": seconds,
             "errors": [{"name": "output", "error": error, "bound": 1.0}]}
            for name, (seconds, error, note) in TREE["rows"].items()]
    rows.append({"name": "plain", "role": "plain path", "status": "ok", "note": "", "seconds": [9.0], "errors": []})
    group = {"title": "add: B=1", "other_work": 0.5, "rows": rows}
    json.dump({"machine": {"line": "a machine"}, "suites": {"ops": [group]}}, open(arguments[-1], "w"))
    return int(any(note for _, _, note in TREE["rows"].values()))
"""


def git(root: Path, *arguments: str) -> str:
    command = ["git", "-c", "user.name=t", "-c", "user.email=t@t", *arguments]
    return subprocess.run(command, cwd=root, check=True, capture_output=True, text=True).stdout


class Repository:
    """A checkout with one commit whose benchmarks write `before`; `now` changes them without a commit."""

    def __init__(self, root: Path, before: dict) -> None:
        self.root, self.log = root, root.parent / "log"
        for folder in ("benchmarks", "xmae_fast", "csrc/cpu", "csrc/cuda"):
            (root / folder).mkdir(parents=True)
        for file in ("benchmarks/__init__.py", "xmae_fast/__init__.py", "csrc/cpu/a.cpp", "csrc/cuda/a.cu"):
            (root / file).write_text("")
        (root / ".gitignore").write_text("*.so\n__pycache__/\n")
        # Copies nothing: it notes for what it was asked to build.
        (root / "setup.py").write_text("import os; open('xmae_fast/built', 'w').write(os.environ['XMAE_FAST_BUILD'])")
        self.now({"name": "base", **before})
        git(root, "init", "-q")
        git(root, "add", "-A")
        git(root, "commit", "-q", "-m", "before")

    def now(self, tree: dict) -> None:
        (self.root / "benchmarks" / "run.py").write_text(f"TREE, LOG = {tree!r}, {str(self.log)!r}\n{FAKE}")

    def worktrees(self) -> int:
        return len(git(self.root, "worktree", "list").splitlines())


@pytest.fixture
def repository(tmp_path):
    if shutil.which("git") is None:
        pytest.skip("no git here")
    rows = {"ours": ([2.0, 2.0, 50.0], 1e-7, ""), "gone": ([1.0], 0.0, ""), "moved": ([1.0], 1e-7, "")}
    made = Repository(tmp_path / "tree", {"rows": rows})
    made.now({"name": "this", "rows": {"ours": ([1.0], 1e-7, ""), "new": ([1.0], 0.0, ""), "moved": ([4.0], 3e-7, "")}})
    return made


def test_ratios_errors_and_missing_rows(repository, capsys):
    assert base.compare(repository.root, "HEAD", ["--quick"], rounds=2) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "This tree has changes that are not committed, in 1 files" in said
    assert "add: B=1 ours 2000 1000 2.00 2.00 .. 2.00 same" in said
    assert "add: B=1 moved 1000 4000 0.25 0.25 .. 0.25 1.0e-07 -> 3.0e-07" in said
    assert "only in base: ops / add: B=1 / gone" in said
    assert "only in this tree: ops / add: B=1 / new" in said
    assert "plain" not in said
    assert "a machine" in said
    assert "WARNING: up to 1 groups" in said
    assert repository.log.read_text().splitlines() == ["base --quick ['a']", "this --quick ['a']"] * 2
    assert repository.worktrees() == 1


def test_wrong_numbers_fail_the_comparison(repository, capsys):
    repository.now({"name": "this", "rows": {"ours": ([], 0.1, "output is off by 1.0e-01")}})
    assert base.compare(repository.root, "HEAD", [], rounds=1) == 1
    said = " ".join(capsys.readouterr().out.split())
    assert "FAILED in this tree: ops / add: B=1 / ours: output is off by 1.0e-01" in said
    assert re.search(r"add: B=1 ours FAILED", said)


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"name": "this", "refuses": True}, "ended with exit code 2: error: --suite: unknown"),
        ({"name": "this", "rows": {"else": ([1.0], 0.0, "")}}, "no row has the same suite, group and name"),
    ],
)
def test_nothing_to_compare(repository, tree, message, capsys):
    repository.now(tree)
    assert base.compare(repository.root, "HEAD", [], rounds=1) == 2
    assert message in capsys.readouterr().err
    assert repository.worktrees() == 1


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_the_worktree_goes_when_a_run_is_broken_off(repository, monkeypatch, error):
    seen = []

    def broken(tree: Path, arguments: list[str]) -> base.Report:
        seen.append(tree)
        assert (tree / "benchmarks" / "run.py").is_file()
        raise error

    monkeypatch.setattr(base, "measured", broken)
    with pytest.raises(error):
        base.compare(repository.root, "HEAD", [], rounds=1)
    assert not seen[0].parent.exists()
    assert repository.worktrees() == 1


def test_complete_rounds_are_compared_when_a_run_is_broken_off(repository, monkeypatch, capsys):
    """Three processes are done: the third, of base, has no partner and no part in the ratio."""
    rows = {base.Key("ops", "add: B=1", "ours"): [1.0, 2.0, 64.0]}
    calls = []

    def measured(tree: Path, arguments: list[str]) -> base.Report:
        if len(calls) == 3:
            raise KeyboardInterrupt
        calls.append(tree)
        return base.Report({key: base.Measured([times[len(calls) - 1]]) for key, times in rows.items()}, "a machine", 0)

    monkeypatch.setattr(base, "measured", measured)
    assert base.compare(repository.root, "HEAD", [], rounds=5) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "Broken off" in said
    assert "add: B=1 ours 1000 2000 0.50 0.50 .. 0.50 same" in said
    assert calls == [calls[0], repository.root, calls[0]]
    assert repository.worktrees() == 1


def test_the_worktree_goes_when_the_process_is_asked_to_end(repository):
    handler = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as end, base.checkout(repository.root, "HEAD") as tree:
        os.kill(os.getpid(), signal.SIGTERM)
    assert end.value.code == 128 + signal.SIGTERM
    assert not tree.exists()
    assert repository.worktrees() == 1
    assert signal.getsignal(signal.SIGTERM) is handler


def test_an_unknown_commit_and_no_checkout(repository, tmp_path, monkeypatch, capsys):
    for reference in ("nothing", "--help", "HEAD:setup.py"):
        assert base.compare(repository.root, reference, []) == 2
        assert capsys.readouterr().err == f"error: --base: expected a commit that git knows, got {reference!r}\n"
    assert base.compare(tmp_path, "HEAD", []) == 2
    assert "expected a git checkout" in capsys.readouterr().err
    monkeypatch.setenv("PATH", "")
    assert base.compare(repository.root, "HEAD", []) == 2
    assert "git is not installed" in capsys.readouterr().err
    assert not repository.log.exists()


@pytest.mark.parametrize(
    ("there", "changed", "want"),
    [
        (["_C_cpu.so"], "csrc/cuda/a.cu", ""),  # without it here, what is for GPUs does not matter
        (["_C_cpu.so", "_C_io.so"], None, ""),
        (["_C_cpu.so"], "csrc/cpu/a.cpp", "cpu"),
        (["_C_cpu.so"], "csrc/cpu/new.cpp", "cpu"),
        (["_C_cpu.so"], "setup.py", "cpu"),
        (["_C_cpu.so", "_C_cuda.so"], "csrc/cuda/a.cu", "cuda"),
        ([], "csrc/cpu/a.cpp", ""),
    ],
)
def test_extensions_are_copied_where_their_sources_are_the_same(repository, there, changed, want):
    for name in there:
        (repository.root / "xmae_fast" / name).write_text("a library")
    if changed:
        (repository.root / changed).write_text("something else")
    with base.checkout(repository.root, "HEAD") as tree:
        base.give_extensions(tree, repository.root, base.commit_of(repository.root, "HEAD"))
        copied = sorted(path.name for path in (tree / "xmae_fast").glob("*.so"))
        built = tree / "xmae_fast" / "built"
        assert (built.read_text() if built.exists() else "") == want
    assert copied == ([] if want else sorted(there))


def test_a_failed_build_is_told(repository, capsys):
    (repository.root / "setup.py").write_text("import sys; sys.exit('xmae_fast: no C++ compiler was found')")
    git(repository.root, "commit", "-q", "-a", "-m", "broken")
    (repository.root / "csrc" / "cpu" / "a.cpp").write_text("something else")
    (repository.root / "xmae_fast" / "_C_cpu.so").write_text("a library")
    assert base.compare(repository.root, "HEAD", []) == 2
    assert "failed: xmae_fast: no C++ compiler was found" in capsys.readouterr().err
    assert repository.worktrees() == 1


def test_another_installed_package_is_not_measured(repository, tmp_path, monkeypatch):
    """A tree without the package would be measured with an installed one: that is refused."""
    shutil.rmtree(repository.root / "xmae_fast")
    (tmp_path / "installed" / "xmae_fast").mkdir(parents=True)
    (tmp_path / "installed" / "xmae_fast" / "__init__.py").write_text("")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "installed"))
    with pytest.raises(RuntimeError, match=r"xmae_fast comes from .*installed instead of"):
        base.measured(repository.root, [])


def test_the_command_passes_its_options_on(monkeypatch, tmp_path, capsys):
    calls = []
    monkeypatch.setattr(base, "compare", lambda *arguments: calls.append(arguments) or 0)
    monkeypatch.chdir(tmp_path)
    command = ["--base", "main", "--suite", "ops,model", "--quick", "--threads", "2", "--data", "a.h5", "--rounds", "5"]
    command += ["--without", "conv_stem=cpu"]
    assert run.main(command) == 0
    passed = ["--suite", "ops,model", "--device", "auto", "--threads", "2"]
    passed += ["--without", "conv_stem=cpu", "--quick", "--data", str(tmp_path / "a.h5")]
    assert calls == [(Path(run.__file__).parents[1], "main", passed, 5)]
    for wrong, message in (
        (["--rounds", "0"], "--rounds: expected at least 1, got 0"),
        (["--json", "out.json"], "--json: expected to be left out with --base"),
        (["--resume", "out.json"], "--resume: expected to be left out with --base"),
    ):
        assert run.main(["--base", "main", *wrong]) == 2
        assert message in capsys.readouterr().err
    assert len(calls) == 1


def test_what_is_compared_is_what_the_benchmarks_call_ours():
    assert base.OURS == OURS != BASELINE
    assert base.BUSY == BUSY
    assert OURS in base.DRIVER
