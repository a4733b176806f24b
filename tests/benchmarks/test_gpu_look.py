"""The first look at a GPU, rehearsed without one: kernels that do not compile, die, hang or are wrong; its clock."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from argparse import Namespace
from pathlib import Path
from typing import ClassVar

import pytest
import torch

pytest.importorskip("rich", reason="the benchmarks need rich (pip install xmae-fast[bench])")
pytest.importorskip("triton", reason="triton is not installed")

from benchmarks.gpu import whole
from benchmarks.gpu.look import CUDA, Look
from benchmarks.gpu.look import main as look
from benchmarks.harness.contest import BASELINE, OURS, Contestant
from benchmarks.harness.context import Context
from benchmarks.suites import model, train
from xmae_fast.testing import Error

FAULTS = Path(__file__).parent / "gpu_faults.py"
LIMIT = 30 if os.getloadavg()[0] < 2 * (os.cpu_count() or 1) else 120  # seconds; imports take long on a busy machine


@pytest.fixture(scope="module")
def rehearsed(tmp_path_factory):
    """A look at four operators, three of which misbehave: exit code, lines, look.json."""
    out = tmp_path_factory.mktemp("look")
    with pytest.MonkeyPatch.context() as patch, open(out / "stdout", "w") as file:
        patch.setattr(sys, "stdout", file)
        operators = "token_gather,random_masking,waveform_loss,patch_embed"
        limits = ["--limit", str(LIMIT), "--seconds", "600"]
        code = look(["--out", str(out), "--operators", operators, "--rehearse", str(FAULTS), *limits])
    return code, (out / "stdout").read_text(), json.loads((out / "look.json").read_text())


def test_what_fails_costs_its_own_line_and_is_named(rehearsed):
    code, said, found = rehearsed
    assert code == 1
    states = {job["name"]: job["state"] for job in found["jobs"]}
    launch = "_kernel(BLOCK=64, num_warps=8, num_stages=2)"
    assert (
        states["machine"]
        == states["random_masking triton float32"]
        == states["patch_embed triton bfloat16"]
        == "passed"
    )
    error = "RuntimeError: PTXAS error: Internal Triton PTX codegen error"
    assert f"token_gather triton float32: FAILED: in _token_gather{launch}: {error}" in said
    assert f"waveform_loss triton float32: failed (signal 6 (SIGABRT)); its last launch: _waveform_loss{launch}" in said
    assert f"waveform_loss triton bfloat16: timed out after {LIMIT} s; its last launch: _waveform_loss{launch}" in said
    assert "patch_embed triton float32: WRONG: AssertionError: patch_embed" in said
    assert "relative error" in said


def test_the_output_is_short_and_ends_with_a_summary(rehearsed):
    _, said, found = rehearsed
    assert len(said) < 12_000
    summary = said[said.index("--- look:") :].splitlines()
    assert len(summary) <= 10
    assert summary[0].startswith("--- look: 2 of 6 operators right, 4 processes failed")
    assert {job["name"] for job in found["jobs"]} >= {line.split(" ", 1)[1].split(":")[0] for line in summary[1:]}


RIGHT = 'print(\'@ right: 1e-3 of 2e-3 allowed\'); print(\'@@ {"ms": 2.0, "plain_ms": 9.0, "launches": 217}\')'


class Stubbed(Look):
    """A look whose processes are short programs, by the first words of what they stand for."""

    programs: ClassVar[dict[str, str]] = {}

    def probe_command(self, words, trace):
        return self._python(" ".join(words))

    def build_command(self):
        return self._python("build")

    def _python(self, name: str) -> list[str]:
        program = next((text for words, text in self.programs.items() if name.startswith(words)), RIGHT)
        return [sys.executable, "-S", "-c", program]


def run(tmp_path, monkeypatch, seconds: float, **programs: str) -> tuple[int, dict[str, dict]]:
    monkeypatch.setattr(Stubbed, "programs", {name.replace("_", " "): text for name, text in programs.items()})
    code = Stubbed(tmp_path, seconds, [], []).run()
    return code, {job["name"]: job for job in json.loads((tmp_path / "look.json").read_text())["jobs"]}


def test_everything_is_looked_at_and_the_step_comes_last(tmp_path, monkeypatch, capsys):
    code, jobs = run(tmp_path, monkeypatch, 60)
    assert code == 0
    names = list(jobs)
    assert names[0] == "machine"
    assert names[-2:] == ["step", "embedding"]
    assert {f"{op} CUDA C++ bfloat16" for op in CUDA} < set(names)
    assert sum(name.startswith("compile ") for name in names) == 6
    summary = capsys.readouterr().out.split("--- look: ")[1].splitlines()
    assert summary[0].startswith("15 of 15 operators right, 0 processes failed")
    assert summary[1] == "step: 2.000 ms, 4.50 x plain, 217 launches, not checked"
    assert not list(tmp_path.glob("*.tmp"))


def test_operators_that_cannot_be_built_lose_their_own_rows(tmp_path, monkeypatch, capsys):
    code, jobs = run(tmp_path, monkeypatch, 60, build="print('nvcc failed'); raise SystemExit(1)")
    assert code == 1
    assert [name for name, job in jobs.items() if job["state"] != "passed"] == ["build"]
    assert "step" in jobs
    assert not any("CUDA" in name for name in jobs)
    assert "FAILED build: " in capsys.readouterr().out


def test_the_output_is_short_even_if_everything_fails(tmp_path, monkeypatch, capsys):
    fails = "print('@ FAILED: ' + 'x' * 400); print('y' * 400); raise SystemExit(1)"
    code, jobs = run(tmp_path, monkeypatch, 60, operator=fails, warm=fails, step=fails, embedding=fails, build=fails)
    assert code == 1
    assert len(capsys.readouterr().out) < 7_500
    assert max(len(line) for job in jobs.values() for line in job["lines"]) > 400


def test_the_clock_ends_everything_and_the_step_begins_before(tmp_path, monkeypatch):
    """96 seconds in 6: an operator hangs, so the step begins at 55 % of the time; it hangs too and is cut off."""
    hangs = "import time; print('@ begun'); print('@@ {', end='', flush=True); time.sleep(60)"
    code, jobs = run(tmp_path, monkeypatch, 6, operator_conv="import time; time.sleep(60)", step=hangs)
    assert code == 1
    assert jobs["step"]["lines"][0] == "begun"
    assert jobs["step"]["state"].startswith(("timed out", "cut off"))
    assert jobs["feed_forward triton float32"]["state"] == "passed"
    assert all(job["state"] for job in jobs.values())


def test_without_a_gpu_it_stops_at_once(tmp_path, monkeypatch):
    slow = "import time; time.sleep(60)"
    code, jobs = run(
        tmp_path, monkeypatch, 60, machine="print('@ no GPU'); raise SystemExit(2)", operator=slow, warm=slow
    )
    assert code == 2
    assert jobs["machine"]["seconds"] < 30


@pytest.mark.parametrize(
    ("device", "step"), [("cuda", "xmae_fast GraphedStep"), ("cpu", "xmae_fast impl=auto, fused AdamW")]
)
def test_ours_and_the_plain_model_are_looked_at(device, step):
    context = Context(torch.device(device))
    names = [[one.name for one in whole.pair(group)] for group in (
        train.group(context, 512), model.group(context, "embed", 512)
    )]  # fmt: skip
    assert names[0] == [step, "published style, vectorised masks"]
    assert names[1] == ["xmae_fast impl=auto" + (", frozen" if device == "cpu" else ""), "published-style model"]


class Step:
    """A captured step whose capture failed: its first call says so, later ones run."""

    def __init__(self, reason: str) -> None:
        self.step, self.reason, self.calls = None, reason, 0

    def __call__(self, i: int) -> torch.Tensor:
        self.calls += 1
        if self.step is None:
            self.step = Namespace(reason=self.reason)
            if self.reason:
                raise RuntimeError(f"GraphedStep made no graph: {self.reason}")
        return torch.zeros(())


@pytest.mark.parametrize("reason", ["", "the capture failed: operation not permitted"])
def test_a_step_without_a_graph_is_timed_and_says_why(reason):
    ours = Contestant("xmae_fast GraphedStep", lambda: Step(reason), lambda run: [Error("loss", 1e-3, 2e-3)], OURS)
    plain = Contestant("plain", lambda: lambda i: torch.zeros(()), lambda run: [], BASELINE)
    said, told = [], []
    options = Namespace(batch=4, device="cpu")
    whole._look(
        options, Context(torch.device("cpu")), ours, plain, said.append, lambda **found: told.append(dict(found))
    )
    assert f"step.reason: {reason or 'none, it is a CUDA graph'}" in said[0]
    assert said[-1] == "right: loss 1.0e-03 of 2.0e-03 allowed"
    assert told[-1]["ms"] > 0
    assert told[-1]["reason"] == reason
    assert "ms" not in told[0]  # what is known is told at once


WARMED = """
import torch
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from pathlib import Path
from benchmarks.gpu.warm import warm_up
from xmae_fast.testing.resources import distinct, record
from xmae_fast.ops.cases import Maker, all_cases

class Hopper:
    def get_current_device(self): return 0
    def get_current_stream(self, device): return 0
    def get_current_target(self): return GPUTarget("cuda", 90, 32)

def kept():
    return len(list(Path({cache!r}).glob("*")))

cases = all_cases()["token_gather"]
launches = distinct(record(lambda: cases.call(cases.make_inputs(cases.tests[0].sizes, Maker(0)), "triton")))
driver.set_active(Hopper())
for launch in launches[:2]:
    before = kept()
    warm_up(launch)
    compiled = kept()
    launch.kernel.device_caches.clear()  # as in a new process
    fresh = (lambda x: torch.empty_strided(x.shape, x.stride(), dtype=x.dtype))
    args = {{name: fresh(x) if isinstance(x, torch.Tensor) else x for name, x in launch.args.items()}}
    options = {{}} if launch.num_warps == 4 else {{"num_warps": launch.num_warps}}
    launch.kernel.run(**args, **launch.constants, **options, enable_fp_fusion=True, grid=launch.grid, warmup=True)
    print(launch.kernel.__name__, compiled - before, kept() - compiled)
"""


def test_kernels_compiled_ahead_are_those_that_a_launch_looks_for(tmp_path):
    """With a GPU pretended to Triton: a launch on real tensors finds what was compiled from the recorded one."""
    program, environment = WARMED.format(cache=str(tmp_path)), os.environ | {"TRITON_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-c", program]
    done = subprocess.run(
        command, cwd=FAULTS.parents[2], env=environment, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 2
    assert all(line.endswith(" 1 0") for line in lines), lines
