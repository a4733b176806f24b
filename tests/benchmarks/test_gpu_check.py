"""gpu_check's own machinery, rehearsed without a GPU: stages, clocks, resumed runs, the summary."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("rich", reason="the benchmarks need rich (pip install xmae-fast[bench])")

from benchmarks import gpu_check
from benchmarks.gpu import expected, stages, summary
from benchmarks.gpu.running import Logs, Process, end_in_words
from benchmarks.gpu.stages import Choices, Stage

ROOT = Path(__file__).parents[2]
GPU = {"gpu": "NVIDIA H200", "versions": {"torch": "2.11.0+cu130"}, "explained": "conv_stem: triton"}
MACHINE = f"print('@ NVIDIA H200, pretended'); print('@@ ' + {json.dumps(GPU)!r})"
ROW = {
    "name": "xmae_fast GraphedStep", "role": "xmae_fast", "status": "ok", "note": "", "seconds": [0.002, 0.004, 0.003],
    "part": "", "peak_bytes": 5_000_000, "errors": [{"name": "loss", "error": 1e-3, "bound": 1e-2}],
}  # fmt: skip


def python(name: str, program: str, limit: float = 530.0, missing: str = "", shown: bool = False) -> Stage:
    return Stage(name, "a program", lambda out: [sys.executable, "-S", "-c", program], 1, limit, missing, shown)


@pytest.fixture
def check(monkeypatch, tmp_path):
    """check(stages, *options, machine) -> exit code; results are in tmp_path / "out"; with a pretended GPU."""

    def run(pretended, *options, machine=MACHINE):
        monkeypatch.setattr(gpu_check, "stages", lambda choices: pretended)
        monkeypatch.setattr(gpu_check, "machine_command", lambda choices: [sys.executable, "-S", "-c", machine])
        return gpu_check.main(["--out", str(tmp_path / "out"), *options])

    return run


def states(folder: Path) -> dict[str, str]:
    return {one["name"]: one["state"] for one in json.loads((folder / "stages.json").read_text())["stages"]}


def test_states_of_stages(check, tmp_path, capsys):
    pretended = [
        python("good", "print('all well')"),
        python("bad", "print('no room'); raise SystemExit(3)"),
        python("dead", "import os; os.abort()"),
        python("absent", "", missing="compute-sanitizer was not found"),
    ]
    assert check(pretended, "--budget", "60") == 1
    assert states(tmp_path / "out") == {
        "good": "passed", "bad": "failed (exit code 3)", "dead": "failed (signal 6 (SIGABRT))",
        "absent": "not run: compute-sanitizer was not found",
    }  # fmt: skip
    report, logs = ((tmp_path / "out" / name).read_text() for name in ("report.md", "logs.txt"))
    assert "all well" in report
    assert "all well" in logs
    said = capsys.readouterr().out
    assert "NVIDIA H200, pretended" in said
    assert "bad: failed (exit code 3): no room" in said[said.index("## What was wrong") :]


def test_a_stage_that_takes_too_long_is_ended_and_its_output_kept(check, tmp_path):
    slow = "import time; print('half way', flush=True); time.sleep(60)"
    assert check([python("slow", slow, limit=100), python("next", "print('still run')")], "--budget", "12") == 1
    assert states(tmp_path / "out")["slow"] == "timed out after 2 s"
    assert states(tmp_path / "out")["next"] == "passed"
    assert "half way" in (tmp_path / "out" / "logs.txt").read_text()


def test_the_whole_run_with_the_clock_sped_up(check, tmp_path, capsys):
    """All stages by their real names and limits, 530 seconds in 8: each takes what is estimated, or hangs (train)."""
    fast, pretended = 8 / stages.BUDGET_S, []
    for stage in stages.stages(Choices()):
        seconds = 60.0 if stage.name == "train" else max(stage.estimate * fast - 0.1, 0.0)
        program = f"import time; print('begun', flush=True); time.sleep({seconds})"
        pretended.append(python(stage.name, program, stage.limit, shown=stage.shown))
    began = time.monotonic()
    assert check(pretended, "--budget", "8") == 1
    assert time.monotonic() - began < 40
    found = states(tmp_path / "out")
    assert list(found) == [stage.name for stage in pretended]
    assert found["look"] == found["tests"] == "passed"
    assert found["train"].startswith("timed out")
    assert found["stages"] == "not run: no time was left"
    said = capsys.readouterr().out
    assert "begun\n" in said  # of look, as it comes
    assert len(said) < 12_000
    assert len(list((tmp_path / "out").iterdir())) <= 8


def test_a_resumed_run_leaves_out_what_has_passed(check, tmp_path, capsys):
    counter = tmp_path / "runs"
    counts = f"open({str(counter)!r}, 'a').write('x')"
    assert check([python("tests", counts), python("ops", "raise SystemExit(1)")], "--budget", "60") == 1
    first = tmp_path / "first"
    (tmp_path / "out").rename(first)
    (first / "results.json").write_text(json.dumps({"suites": {}}))
    assert check([python("tests", counts), python("ops", "")], "--resume", str(first), "--budget", "60") == 0
    assert counter.read_text() == "x"
    assert states(tmp_path / "out") == {"tests": "passed", "ops": "passed"}
    assert (tmp_path / "out" / "results.json").exists()
    assert "tests: passed in the earlier run" in capsys.readouterr().out
    other = MACHINE.replace("NVIDIA H200", "NVIDIA H100")
    assert check([python("ops", "")], "--resume", str(first), machine=other) == 2
    assert "that run was made with gpu 'NVIDIA H200'" in capsys.readouterr().err


def test_refuses_without_a_gpu_and_wrong_arguments(check, tmp_path, capsys):
    no_gpu = "print('@ no GPU'); raise SystemExit(2)"
    slow = python("look", "import time; time.sleep(60)", shown=True)
    began = time.monotonic()
    assert check([slow], machine=no_gpu) == 2
    assert time.monotonic() - began < 30  # look was begun at the same time, and ended
    assert "no CUDA device" in capsys.readouterr().err
    wrong = (
        ["--stages", "look,nonsense"],
        ["--without", "stem"],
        ["--config", "x"],
        ["--resume", str(tmp_path / "none")],
    )
    for options in wrong:
        with pytest.raises(SystemExit):
            check([slow], *options)


def test_a_machine_that_cannot_be_looked_at_is_said(check, capsys):
    assert check([python("ops", "")], machine="raise ImportError('no module named torch')") == 2
    assert "no module named torch" in capsys.readouterr().err


def test_the_summary_says_what_was_wrong_and_what_was_met(tmp_path):
    baseline = ROW | {"name": "stock: fused AdamW + torch.compile", "seconds": [0.005] * 3}
    broken = ROW | {"name": "stock", "status": "could not run", "note": "out of memory", "seconds": []}
    train = [{"title": "train: B=512", "rows": [ROW, baseline, broken]}]
    results = {"machine": {"gpu": "NVIDIA H100 80GB HBM3"}, "suites": {"train": train}}
    look = {
        "jobs": [{"name": "conv_stem triton float32", "state": "failed (exit code 1)", "lines": ["WRONG: by 3e-1"]}]
    }
    kernels = [{"kernel": f"kernel_{i}", "us": 100.0 - i, "launches": 2.0, "predicted_us": 10.0} for i in range(50)]
    profile = {"training step": {"ms": 2.9, "planned_launches": 217, "kernels": kernels}}
    for name, found in (("results.json", results), ("look.json", look), ("profile.json", profile)):
        (tmp_path / name).write_text(json.dumps(found))
    tail = "\n".join([*(f"FAILED tests/gpu/test_{i}.py::test - error" for i in range(40)), "40 failed"])
    outcomes = [summary.Outcome("tests", "GPU tests", "failed (exit code 1)", 60.0, tail)]
    text = summary.summary("NVIDIA H100\nauto takes triton\nmore", outcomes, tmp_path)
    lines = text.splitlines()
    assert len(lines) <= 60
    assert len(text) < 4_500
    for expected_line in (
        "look, conv_stem triton float32: WRONG: by 3e-1",
        "tests: FAILED tests/gpu/test_0.py::test - error",
        "and 30 more, see report.md",
        "training step: 2.900 ms, 100 launches (217 planned)",
        "  100 us (10 us), 2 launches: kernel_0",
        "met: training step, ms 3, wanted <= 3.6",
        "MISSED: training step, times as fast as Conv1d + compile 1.67, wanted >= 2",
        "not measured: embedding, ms <= 0.55",
    ):
        assert expected_line in lines, text
    report = summary.report("NVIDIA H100", outcomes, tmp_path)
    assert "| train: B=512 | xmae_fast GraphedStep | xmae_fast | 3 | 5 | 1.0e-03 |" in report
    assert "out of memory" in report


def test_half_written_files_do_not_cost_the_summary(tmp_path):
    (tmp_path / "results.json").write_text('{"suites": {"tr')
    assert "not profiled" in summary.summary("", [], tmp_path)


def test_predictions_count_every_tensor_once():
    torch = pytest.importorskip("torch")
    pytest.importorskip("triton")
    from xmae_fast.ops._launch import Launch
    from xmae_fast.testing.launches import AtenLaunch

    kernel = SimpleNamespace(__name__="copy_kernel")
    args = {"x_ptr": torch.empty(1000, 1000), "y_ptr": torch.empty(1000, 1000, dtype=torch.bfloat16), "n": 3, "z": None}
    launches = [Launch(kernel, (1,), args, {}, 4, 3), Launch(kernel, (1,), {"x_ptr": torch.empty(4)}, {}, 4, 3)]
    predicted = expected.predicted_us([*launches, AtenLaunch("aten.cat")], 4e12)
    assert predicted == {"copy_kernel": pytest.approx(1.5 + 1.5)}
    rows = [{"kernel": "copy_kernel"}, {"kernel": "cutlass"}]
    expected.add_predictions(rows, predicted)
    assert rows == [{"kernel": "copy_kernel", "predicted_us": pytest.approx(3.0)}, {"kernel": "cutlass"}]


def test_commands_name_what_exists(tmp_path):
    found = stages.stages(Choices(("feed_forward=triton",), ("2",), tmp_path))
    assert [stage.name for stage in found][:4] == ["look", "build", "tests", "train"]
    assert sum(stage.limit for stage in found[:3]) + 100 < stages.BUDGET_S
    for stage in found:
        command = stage.command(tmp_path)
        for word in command:
            file = word.partition("::")[0]
            if file.startswith("tests/") or word.endswith(".py"):
                assert (ROOT / file).exists(), (stage.name, word)
        module = command[command.index("-m") + 1]
        assert module == "pytest" or (ROOT / (module.replace(".", "/") + ".py")).exists()
        if stage.name != "build":
            assert "feed_forward" in " ".join(command)


def test_tests_go_round_what_is_left_out():
    every, stem, cuda = (stages.tests_command(Choices(one)) for one in ((), ("conv_stem=triton",), ("conv_stem=cuda",)))
    assert set(stages.CUDA_TESTS) < set(every)
    assert not set(stages.CUDA_TESTS) & set(cuda)
    assert "-k" not in every
    assert stem[stem.index("-k") + 1] == "not conv_stem"
    left_out = [stem[i + 1] for i, word in enumerate(stem) if word == "--deselect"]
    for test in left_out:  # a misspelt one would be run all the same
        file, _, name = test.partition("::")
        assert not name or re.search(rf"def {name}\(", (ROOT / file).read_text()), test


def test_a_fault_in_a_test_costs_no_other_test(tmp_path):
    """The process ends, pytest-xdist names the test and starts another process; the error names the launch."""
    pytest.importorskip("xdist")
    pytest.importorskip("triton")
    (tmp_path / "test_faults.py").write_text(
        "from benchmarks.gpu import pytest_gpu\n"
        "from xmae_fast.ops import _launch\n"
        "pytest_gpu.context_is_lost = lambda: True\n"
        "def test_fault():\n"
        "    assert _launch._forced == {'': 1}\n"
        "    error = RuntimeError('an illegal memory access was encountered')\n"
        "    error.launch = '_stem_kernel(BLOCK=64)'\n"
        "    raise error\n"
        "def test_next(): pass\n"
    )
    command = [sys.executable, "-m", "pytest", "-n", "1", "-p", "benchmarks.gpu.pytest_gpu", "--launch-config", "1"]
    command += ["-p", "no:cacheprovider", "--rootdir", str(tmp_path), "-c", "/dev/null", str(tmp_path)]
    # A caller's PYTEST_ADDOPTS may name options of tests/conftest.py, which this run does not read.
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert "1 failed, 1 passed" in done.stdout, done.stdout + done.stderr
    assert "crashed while running 'test_faults.py::test_fault'" in done.stdout
    assert "RuntimeError: an illegal memory access was encountered; _stem_kernel(BLOCK=64)" in done.stderr


def test_a_process_and_what_it_starts_are_ended(tmp_path):
    marker = tmp_path / "alive"
    child = f"import time; time.sleep(6); open({str(marker)!r}, 'w')"
    program = f"import subprocess, sys, time; subprocess.Popen([sys.executable, '-S', '-c', {child!r}]); time.sleep(60)"
    process = Process([sys.executable, "-S", "-c", program], 1.0)
    process.wait()
    assert process.state == "timed out after 1 s"
    time.sleep(6)
    assert not marker.exists()


def test_lines_are_passed_on_once_and_whole(tmp_path):
    heard = []
    program = (
        "import sys, time\nfor c in '@ one\\n@ two':\n    sys.stdout.write(c); sys.stdout.flush(); time.sleep(0.02)"
    )
    log = tmp_path / "log"
    log.write_text("@ before\n")
    process = Process([sys.executable, "-S", "-c", program], 30, heard.append, "@ ", append_to=log)
    process.wait()
    assert heard == ["one", "two"]
    assert process.output == "@ one\n@ two"
    assert Process(["/no/such/program"], 1).state == "failed (exit code 127)"
    assert end_in_words(-9) == "signal 9 (SIGKILL)"


def test_logs_keep_beginning_and_end(tmp_path, monkeypatch):
    monkeypatch.setattr("benchmarks.gpu.running.MOST_LOG_BYTES", 3000)
    logs = Logs(tmp_path / "logs.txt")
    for name in "abcde":
        logs.add(name, f"begin {name} " + "x" * 5000 + f" end {name}")
    text = logs.path.read_text()
    assert "begin a" in text
    assert "end a" in text
    assert len(text) < 3500
