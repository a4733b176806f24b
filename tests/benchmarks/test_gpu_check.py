"""gpu_check's own machinery; what it runs needs a GPU."""

from __future__ import annotations

import json
import sys

import pytest
import torch

import xmae_fast
from benchmarks import gpu_check
from benchmarks.gpu_check import Stage
from xmae_fast.backend import Availability


@pytest.fixture
def check(monkeypatch, tmp_path):
    """check(stages, *options) -> exit code, report; with a pretended GPU."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(gpu_check, "machine", lambda: "NVIDIA H200, pretended")

    def run(stages, *options):
        monkeypatch.setattr(gpu_check, "stages", lambda: stages)
        code = gpu_check.main(["--out", str(tmp_path / "out"), *options])
        return code, (tmp_path / "out" / "report.md").read_text()

    return run


def python(name: str, program: str, share: float = 1.0, missing: str = "") -> Stage:
    return Stage(name, "a program", lambda out: [sys.executable, "-c", program], share, missing)


def test_states_of_stages(check, tmp_path):
    stages = [
        python("good", "print('all well')"),
        python("bad", "raise SystemExit(3)"),
        python("absent", "", missing="compute-sanitizer was not found"),
    ]
    code, report = check(stages, "--budget", "60")
    assert code == 1
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert [stage["state"] for stage in summary["stages"]] == [
        "passed", "failed (exit code 3)", "not run: compute-sanitizer was not found",
    ]  # fmt: skip
    assert "all well" in report
    assert "NVIDIA H200, pretended" in report


def test_a_stage_that_takes_too_long_is_ended_and_its_output_kept(check):
    slow = "import time; print('half way', flush=True); time.sleep(60)"
    code, report = check([python("slow", slow, share=0.5), python("next", "print('still run')")], "--budget", "24")
    assert code == 1
    assert "timed out after 12 s" in report
    assert "half way" in report
    assert "still run" in report


def test_tables_of_the_benchmarks(check, tmp_path):
    row = {
        "name": "ours", "role": "xmae_fast", "status": "ok", "note": "", "seconds": [0.002, 0.004, 0.003], "part": "",
        "peak_bytes": 5_000_000, "errors": [{"name": "loss", "error": 1e-3, "bound": 1e-2}],
    }  # fmt: skip
    suites = {"suites": {"train": [{"title": "train: B=512", "rows": [row]}]}}
    program = f"open({str(tmp_path / 'out' / 'train.json')!r}, 'w').write({json.dumps(suites)!r})"
    code, report = check([python("train", program)])
    assert code == 0
    assert "| train: B=512 | ours | xmae_fast | 3 | 5 | 1.0e-03 |" in report


def test_refuses_without_a_gpu_and_unknown_stages(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu_check.main(["--out", str(tmp_path)]) == 2
    assert "no CUDA device" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        gpu_check.main(["--out", str(tmp_path), "--stages", "tests,nonsense"])


@pytest.mark.parametrize(
    ("cuda", "usable", "nvcc", "expected"),
    [
        ("13.0", False, True, True),
        ("13.0", True, True, False),
        ("13.0", False, False, False),
        (None, False, True, False),
    ],
)
def test_builds_the_cuda_operators_where_they_are_missing(monkeypatch, tmp_path, cuda, usable, nvcc, expected):
    compiler = tmp_path / "nvcc"
    if nvcc:
        compiler.touch(0o755)
    monkeypatch.setenv("NVCC", str(compiler))
    monkeypatch.setattr(gpu_check, "NVCC_ELSEWHERE", str(tmp_path / "elsewhere" / "nvcc"))
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(xmae_fast, "available", lambda: {"conv_stem": {"cuda": Availability(usable, "")}})
    first = gpu_check.stages()[0]
    assert (first.name == "build") == expected
    if expected:
        want = ["env", "XMAE_FAST_BUILD=cuda", f"NVCC={compiler}", sys.executable, "setup.py", "build_ext", "--inplace"]
        assert first.command(tmp_path) == want


def test_commands_name_what_exists(tmp_path):
    for stage in gpu_check.stages():
        tests = [word for word in stage.command(tmp_path) if word.startswith("tests/")]
        assert all((gpu_check.ROOT / name).exists() for name in tests)
        assert (stage.name == "tests") == ("tests/ops/cuda/test_stem_train_gpu.py" in tests)
        for word in stage.command(tmp_path):
            if word.endswith(".py"):
                assert (gpu_check.ROOT / word).exists(), (stage.name, word)
