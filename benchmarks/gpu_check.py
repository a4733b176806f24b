"""Everything that is to be found out on a machine with a GPU, in one command, in under nine minutes, without network.

    python benchmarks/gpu_check.py --out DIR [--budget 530] [--stages tests,train,...]

Runs from a checkout; nothing needs to be installed but torch, triton, pytest, rich, h5py, matplotlib and safetensors.
Each stage is a process of its own with its share of the time; what a stage has found is in DIR as soon as it ends: a
log, JSON of the benchmarks, and `report.md` with all of it. The exit code is 1 if a stage failed, 2
without a GPU.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

LAST_LINES = 25  # of a log that the report shows
NVCC_ELSEWHERE = "/usr/local/cuda/bin/nvcc"  # where it is not on PATH
# Skipped, and named in the log, where the CUDA C++ operators are not built.
CUDA_TESTS = ("tests/ops/cuda/test_stem_gpu.py", "tests/ops/cuda/test_stem_train_gpu.py")
TESTS = ("tests/gpu", "tests/ops/test_ops.py", *CUDA_TESTS)


class Stage(NamedTuple):
    """A process: its command, the share of the time that it may take, and why it cannot run here, or ''."""

    name: str
    what: str
    command: Callable[[Path], list[str]]
    share: float
    missing: str = ""


class Outcome(NamedTuple):
    """What came of a stage: "passed", "failed", "timed out" or why it was not run."""

    name: str
    what: str
    state: str
    seconds: float
    tail: str


def stages() -> list[Stage]:
    """In the order of their worth, should the time run out."""
    python = sys.executable
    workers = ["-n", "6"] if importlib.util.find_spec("xdist") else []
    tests = [python, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", "--require-backend=triton"]
    sanitizer = shutil.which("compute-sanitizer") or "/usr/local/cuda/bin/compute-sanitizer"
    no_sanitizer = "" if Path(sanitizer).exists() else "compute-sanitizer was not found"

    def run(suite: str) -> Callable[[Path], list[str]]:
        script = str(ROOT / "benchmarks" / "run.py")
        return lambda out: [python, script, "--device", "cuda", "--suite", suite, "--json", str(out / f"{suite}.json")]

    def sanitized(tool: str) -> Callable[[Path], list[str]]:
        options = ["--tool", tool, "--error-exitcode", "9", "--print-limit", "20"]
        return lambda out: [sanitizer, *options, python, "-m", "benchmarks.gpu_small_cases"]

    return [
        *_build(),
        Stage("tests", "GPU tests", lambda out: [*tests, *workers, *TESTS], 0.22),
        Stage("train", "training step: ours against baselines a to e", run("train"), 0.30),
        Stage("profile", "a step and an embedding, kernel by kernel", _profile, 0.08),
        Stage("stems", "both stems in training: CUDA C++, Triton, stock", run("stems"), 0.20),
        Stage("ops", "operators against plain PyTorch", run("ops"), 0.14),
        Stage("model", "embedding and forward against baselines", run("model"), 0.30),
        Stage("memcheck", "compute-sanitizer, small cases", sanitized("memcheck"), 0.10, no_sanitizer),
        Stage("racecheck", "compute-sanitizer, small cases", sanitized("racecheck"), 0.10, no_sanitizer),
        Stage("stages", "parts of the model, plain and ours", run("stages"), 0.10),
    ]


def _build() -> list[Stage]:
    """A stage that builds the CUDA C++ operators, where they are missing or old and nvcc is there."""
    from xmae_fast import available

    if torch.version.cuda is None or available()["conv_stem"]["cuda"].usable:
        return []
    nvcc = shutil.which(os.environ.get("NVCC", "nvcc")) or NVCC_ELSEWHERE
    if not Path(nvcc).exists():
        return []
    command = ["env", "XMAE_FAST_BUILD=cuda", f"NVCC={nvcc}", sys.executable, "setup.py", "build_ext", "--inplace"]
    return [Stage("build", "CUDA C++ operators", lambda out: command, 0.4)]


def _profile(out: Path) -> list[str]:
    return [sys.executable, "-m", "benchmarks.gpu_profile", "--out", str(out / "profile.json")]


def run_stage(stage: Stage, out: Path, seconds: float) -> Outcome:
    """Run one stage for at most `seconds`; its output is in `out`/<name>.log."""
    if stage.missing:
        return Outcome(stage.name, stage.what, f"not run: {stage.missing}", 0.0, "")
    if seconds < 10:
        return Outcome(stage.name, stage.what, "not run: no time was left", 0.0, "")
    log, start = out / f"{stage.name}.log", time.monotonic()
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", "PYTHONFAULTHANDLER": "1"}
    with open(log, "w") as file:
        process = subprocess.Popen(
            stage.command(out), stdout=file, stderr=subprocess.STDOUT, cwd=ROOT, env=environment, start_new_session=True
        )
        try:
            state = "passed" if process.wait(timeout=seconds) == 0 else f"failed (exit code {process.returncode})"
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)
            process.wait()
            state = f"timed out after {seconds:.0f} s; what it had found by then is kept"
    lines = log.read_text(errors="replace").splitlines()
    return Outcome(stage.name, stage.what, state, time.monotonic() - start, "\n".join(lines[-LAST_LINES:]))


def machine() -> str:
    """GPU, driver, versions, and what impl="auto" takes."""
    import xmae_fast

    fields = "name,driver_version,memory.total,clocks.sm,power.limit"
    query = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader"]
    gpu = subprocess.run(query, capture_output=True, text=True).stdout.strip() if shutil.which(query[0]) else "no GPU"
    versions = {name: _version(name) for name in ("torch", "triton", "numpy")}
    return "\n".join([gpu, f"python {sys.version.split()[0]}, {versions}", xmae_fast.explain(device="cuda")])


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def report(about: str, outcomes: list[Outcome], out: Path) -> str:
    """All outcomes as markdown, with the tables that the benchmarks wrote."""
    lines = ["# gpu_check", "", "```", about, "```", "", "| stage | what | state | seconds |", "|---|---|---|---|"]
    lines += [f"| {o.name} | {o.what} | {o.state} | {o.seconds:.0f} |" for o in outcomes]
    for name in ("train", "model", "stems", "ops", "stages"):
        lines += _suite_table(out / f"{name}.json")
    for o in outcomes:
        if o.tail:
            lines += ["", f"## {o.name}: last lines", "", "```", o.tail, "```"]
    return "\n".join(lines) + "\n"


def _suite_table(path: Path) -> list[str]:
    if not path.exists():
        return []
    suites = json.loads(path.read_text())["suites"]
    lines = []
    for name, groups in suites.items():
        lines += ["", f"## {name}", "", "| group | row | role | ms | peak MB | worst error | note |", "|---" * 7 + "|"]
        lines += [_row(group["title"], row) for group in groups for row in group["rows"]]
    return lines


def _row(title: str, row: dict) -> str:
    milliseconds = f"{1e3 * statistics.median(row['seconds']):.4g}" if row["seconds"] else row["status"]
    worst = f"{max((e['error'] for e in row['errors']), default=0.0):.1e}"
    name = f"{row['part']}: {row['name']}" if row["part"] else row["name"]
    peak = f"{row['peak_bytes'] / 1e6:.0f}" if row["peak_bytes"] else ""
    return f"| {title} | {name} | {row['role']} | {milliseconds} | {peak} | {worst} | {row['note'][:200]} |"


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    names = [stage.name for stage in stages()]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where everything is written")
    parser.add_argument("--budget", type=float, default=530, help="seconds for all of it (default: %(default)s)")
    parser.add_argument("--stages", type=lambda text: text.split(","), default=names, help=f"of {','.join(names)}")
    options = parser.parse_args(arguments)
    if unknown := set(options.stages) - set(names):
        parser.error(f"--stages: expected some of {', '.join(names)}, got {', '.join(sorted(unknown))}")
    if not torch.cuda.is_available():
        print("error: gpu_check needs a GPU, but torch finds no CUDA device", file=sys.stderr)
        return 2
    options.out.mkdir(parents=True, exist_ok=True)
    about, end, outcomes = machine(), time.monotonic() + options.budget, []
    print(about, flush=True)
    for stage in stages():
        if stage.name not in options.stages:
            continue
        alone = len(options.stages) == 1
        seconds = min(options.budget * (1.0 if alone else stage.share), end - time.monotonic())
        outcomes.append(run_stage(stage, options.out, seconds))
        print(f"{stage.name}: {outcomes[-1].state} ({outcomes[-1].seconds:.0f} s)", flush=True)
        (options.out / "report.md").write_text(report(about, outcomes, options.out))
        summary = {"machine": about, "stages": [o._asdict() for o in outcomes]}
        (options.out / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")
    print((options.out / "report.md").read_text()[-9000:])
    return 0 if all(o.state == "passed" for o in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
