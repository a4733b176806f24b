"""The stages of gpu_check, in the order of their worth, each with its command and the seconds that it may take."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

BUDGET_S = 530.0  # of everything; a command on a lent machine may take ten minutes
# Skipped, and named in the log, where the CUDA C++ operators are not built.
CUDA_TESTS = ("tests/ops/cuda/test_stem_gpu.py", "tests/ops/cuda/test_stem_train_gpu.py")
TESTS = ("tests/ops/test_triton_gpu.py", "tests/training/test_steps_gpu.py", "tests/ops/test_ops.py", *CUDA_TESTS)
WHOLE_MODEL_TESTS = ("tests/training/test_steps_gpu.py", "tests/ops/test_triton_gpu.py::test_golden_outputs",
                     "tests/ops/test_triton_gpu.py::test_golden_training")  # fmt: skip
STEM_TESTS = ("tests/ops/test_triton_gpu.py::test_offsets_beyond_32_bits",
              "tests/ops/cuda/test_stem_train_gpu.py::test_agrees_with_triton")  # fmt: skip
TEST_WORKERS = 8  # each has a GPU context of its own
TEST_LIMIT_S = 90
RESULTS = "results.json"  # of all benchmark suites


class Stage(NamedTuple):
    """A process.

    Attributes:
        command: the folder for results -> its words.
        estimate: seconds that it should take on an H100 or H200; none of them has been measured.
        limit: seconds after which it is ended, of BUDGET_S.
        missing: why it cannot run here, or ''.
        shown: whether its output is passed on line by line.
    """

    name: str
    what: str
    command: Callable[[Path], list[str]]
    estimate: float
    limit: float
    missing: str = ""
    shown: bool = False


class Choices(NamedTuple):
    """What the command line asks for."""

    without: tuple[str, ...] = ()
    config: tuple[str, ...] = ()
    prebuilt: Path | None = None
    rehearse: Path | None = None

    @property
    def words(self) -> list[str]:
        """--without and --config for another command."""
        pairs = [("--without", one) for one in self.without] + [("--config", one) for one in self.config]
        return [word for pair in pairs for word in pair]


def stages(choices: Choices) -> list[Stage]:
    """All of them."""
    python, words = sys.executable, choices.words
    prebuilt = ["--prebuilt", str(choices.prebuilt.resolve())] if choices.prebuilt else []
    rehearse = ["--rehearse", str(choices.rehearse.resolve())] if choices.rehearse else []
    sanitizer = shutil.which("compute-sanitizer") or "/usr/local/cuda/bin/compute-sanitizer"
    no_sanitizer = "" if Path(sanitizer).exists() else "compute-sanitizer was not found"

    def look(out: Path) -> list[str]:
        return [python, "-m", "benchmarks.gpu.look", "--out", str(out), *prebuilt, *rehearse, *words]

    def suite(name: str) -> Callable[[Path], list[str]]:
        ours = ["--device", "cuda", "--suite", name, *words]
        module = [python, "-m", "benchmarks.gpu.supervised"]
        return lambda out: [*module, "--json", str(out / RESULTS), "--", *ours]

    def profile(out: Path) -> list[str]:
        return [python, "-m", "benchmarks.gpu.profile", "--out", str(out / "profile.json"), *words]

    def sanitized(tool: str) -> Callable[[Path], list[str]]:
        options = ["--tool", tool, "--error-exitcode", "9", "--print-limit", "20"]
        return lambda out: [sanitizer, *options, python, "-m", "benchmarks.gpu.small_cases", *words]

    def build(out: Path) -> list[str]:
        return [python, "-m", "benchmarks.gpu.build", *prebuilt]

    return [
        Stage("look", "does it run, is it right, how fast is it", look, 85, 100, shown=True),
        Stage("build", "compiled parts, as far as they are missing", build, 60, 120),
        Stage("tests", "GPU tests", lambda out: tests_command(choices), 80, 150),
        Stage("train", "training step: ours, then every baseline", suite("train"), 180, 280),
        Stage("profile", "a step and an embedding, kernel by kernel", profile, 25, 60),
        Stage("stems", "both stems in training: CUDA C++, Triton, stock", suite("stems"), 70, 110),
        Stage("model", "embedding and forward against baselines", suite("model"), 150, 200),
        Stage("memcheck", "compute-sanitizer, small cases", sanitized("memcheck"), 60, 90, no_sanitizer),
        Stage("racecheck", "compute-sanitizer, small cases", sanitized("racecheck"), 60, 90, no_sanitizer),
        Stage("ops", "operators against plain PyTorch", suite("ops"), 90, 120),
        Stage("stages", "parts of the model, plain and ours", suite("stages"), 30, 60),
    ]


def tests_command(choices: Choices) -> list[str]:
    """pytest in several processes, one of which a fault or a hanging test may end; without what --without names."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-m",
        "gpu",
        "-p",
        "no:cacheprovider",
        "-p",
        "benchmarks.gpu.pytest_gpu",
    ]
    if importlib.util.find_spec("xdist"):
        command += ["-n", str(TEST_WORKERS), "--max-worker-restart", "12"]
    if importlib.util.find_spec("pytest_timeout"):
        command += ["--timeout", str(TEST_LIMIT_S), "--timeout-method", "thread"]
    command += [word for one in choices.config for word in ("--launch-config", one)]
    files, unwanted = list(TESTS), []
    for op, _, impl in (one.partition("=") for one in choices.without):
        if impl == "cuda":
            files = [name for name in files if name not in CUDA_TESTS]
        else:
            unwanted.append(op)
            stems = STEM_TESTS if op == "conv_stem" else ()
            command += [word for test in (*WHOLE_MODEL_TESTS, *stems) for word in ("--deselect", test)]
    if unwanted:
        command += ["-k", " and ".join(f"not {op}" for op in dict.fromkeys(unwanted))]
    return [*command, "--require-backend=triton", *files]


def left_of(budget_s: float, stage: Stage, left_s: float, alone: bool) -> float:
    """Seconds that a stage may take; one that is run alone may take all that is left, and a look what it needs."""
    limit = stage.limit if stage.shown else stage.limit * budget_s / BUDGET_S
    return min(budget_s if alone else limit, left_s)
