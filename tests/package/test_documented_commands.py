"""Every command that the documentation names exists, takes the options it is shown with, and is run by a test."""

from __future__ import annotations

import platform
import re
import runpy
import shlex
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch

import xmae_fast
from tests.ops.cuda import predict_train
from tests.ops.cuda.stem_host import COMPILER
from xmae_fast import available, backend, cli
from xmae_fast.backend import extensions
from xmae_fast.cli import version
from xmae_fast.ops.lag_attention import picture

ROOT = Path(__file__).parents[2]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md")),
    *sorted(ROOT.glob("docs/*.md")),
    *sorted(ROOT.glob("xmae_fast/**/*.md")),
]
PROGRAM = re.compile(r"^(?:[A-Z_]+=\S+ )*(xmae-fast|torchrun|python3?|make|pytest)(?: |$)")
# Which test runs each command of `xmae-fast`, from its arguments to its results.
RUN_BY = {
    "explain": "tests/package/test_documented_commands.py::test_explain_runs",
    "env": "tests/package/test_documented_commands.py::test_env_runs",
    "simulate": "tests/simulation/test_simulator_coupling.py",
    "inspect": "tests/data/test_cli_data.py",
    "repack": "tests/data/test_cli_data.py",
    "prepare": "tests/preparation/test_prepare.py",
    "pretrain": "tests/training/test_pretrain.py",
    "evaluate": "tests/evaluation/test_report.py",
    "embed": "tests/embedding/test_cli_embedding.py",
    "probe": "tests/embedding/test_cli_embedding.py",
    "reconstruct": "tests/embedding/test_cli_embedding.py",
    "export": "tests/export/test_export.py",
}
# Modules and scripts that are run as a command: the test that runs their work, or "--help" where a run takes long or
# needs a GPU and this file asks for their help alone.
MODULES = {
    "xmae_fast": "tests/package/test_documented_commands.py::test_the_version_of_everything",
    "xmae_fast.cli": "tests/training/test_processes.py",
    "xmae_fast.ops.lag_attention.picture": "tests/package/test_documented_commands.py::test_picture_is_drawn",
    "benchmarks.run": "tests/benchmarks/test_benchmarks.py",
    "benchmarks.harness.page": "tests/benchmarks/test_page.py",
    "benchmarks.chart": "tests/package/test_chart.py",
    "benchmarks.gpu_check": "tests/benchmarks/test_gpu_check.py",
    "benchmarks.gpu.build": "tests/benchmarks/test_gpu_build.py",
    "benchmarks.gpu.look": "tests/benchmarks/test_gpu_look.py",
    "xmae_fast.testing.resources": "tests/ops/test_triton_compiled.py",
    "xmae_fast.testing.launches": "--help",
    "xmae_fast.testing.traffic": "tests/ops/test_traffic.py",
    "benchmarks.studies.train_scaling": "--help",
    "benchmarks.studies.prepare": "--help",
    "benchmarks.studies.embedding": "--help",
    "benchmarks.studies.neighbours": "--help",
    "benchmarks.studies.real_tasks": "tests/benchmarks/test_real_tasks.py",
    "benchmarks.studies.ablations": "tests/benchmarks/test_ablations.py",
    "benchmarks.studies.realism": "tests/benchmarks/test_ablations.py",
    "benchmarks.studies.tiles": "--help",
    "benchmarks.gpu.profile": "--help",
    "tests.data.fuzz": "tests/data/test_fuzz.py",
    "tests.ops.cuda.predict": "tests/ops/cuda/test_stem_layout.py",
    "tests.ops.cuda.predict_train": "tests/package/test_documented_commands.py::test_tables_of_the_training_kernels",
    "setup": "tests/package/test_install.py",
}
NOT_OURS = {"pytest", "venv", "pip"}


class Command(NamedTuple):
    page: str
    words: tuple[str, ...]  # the program first, without variables before it and the comment after it
    whole: bool = True  # it stands in a block, to be copied; between backticks a part of one may stand

    def __str__(self) -> str:
        return f"{self.page}: {' '.join(self.words)}"


def commands_of(text: str) -> list[tuple[tuple[str, ...], bool]]:
    """Commands in fenced blocks, a line or a part of one between `&&` each, and between backticks; words, `whole`."""
    blocks = re.findall(r"^```(\w*)\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    fenced = "\n".join(block for kind, block in blocks if kind in ("bash", "sh", "")).replace("\\\n", " ")
    without = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    lines = [part.strip() for line in fenced.splitlines() for part in line.split("&&")]
    inline = [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", without)]
    found = []
    for whole, line in (*((True, line) for line in lines), *((False, line) for line in inline)):
        if PROGRAM.match(line):
            words = shlex.split(line, comments=True)
            while re.fullmatch(r"[A-Z_]+=.*", words[0]):
                del words[0]
            found.append((tuple(words), whole))
    return found


COMMANDS = list(
    dict.fromkeys(
        Command(str(page.relative_to(ROOT)), *found) for page in PAGES for found in commands_of(page.read_text())
    )
)


def module_of(words: tuple[str, ...]) -> tuple[str, tuple[str, ...]] | None:
    """The module that `python` or `torchrun` is told to run, and its arguments."""
    if words[0] not in ("python", "python3", "torchrun"):
        return None
    if "-m" in words:
        at = words.index("-m") + 1
        return words[at], words[at + 1 :]
    scripts = [word for word in words[1:] if word.endswith(".py")]
    if not scripts:
        return None
    return scripts[0].removesuffix(".py").replace("/", "."), words[words.index(scripts[0]) + 1 :]


OURS = [(one, *found) for one in COMMANDS if (found := module_of(one.words)) and found[0] not in NOT_OURS]
XMAE_FAST = [(one, one.words[1:]) for one in COMMANDS if one.words[0] == "xmae-fast"]
XMAE_FAST += [(one, arguments) for one, module, arguments in OURS if module == "xmae_fast.cli"]
# Options of the program itself, such as --version, which print and end, and -q and -v, which a command may follow.
OF_PROGRAM = {words[0] for _, words in XMAE_FAST if words and words[0].startswith("-")}
XMAE_FAST = [(one, words[words[:1] in (("-q",), ("-v",)) :]) for one, words in XMAE_FAST]
XMAE_FAST = [(one, words) for one, words in XMAE_FAST if not words or not words[0].startswith("-")]


def subcommands() -> set[str]:
    (choices,) = (action.choices for action in cli.parser()._actions if action.choices)
    return set(choices)


def test_commands_are_found():
    assert len(COMMANDS) > 40
    assert {words[0] for _, words in XMAE_FAST if words} <= set(RUN_BY)
    text = "`make x` and\n```bash\na && xmae-fast embed \\\n  x -o y  # z\nA=1 python -m m\n```\n`xmae-fast\ninspect`"
    assert commands_of(text) == [
        (("xmae-fast", "embed", "x", "-o", "y"), True), (("python", "-m", "m"), True), (("make", "x"), False),
        (("xmae-fast", "inspect"), False),
    ]  # fmt: skip


def test_every_subcommand_is_run_by_a_test():
    assert subcommands() == set(RUN_BY)
    for name, test in RUN_BY.items():
        source = (ROOT / test.partition("::")[0]).read_text()
        assert "main(" in source, test
        assert f'"{name}"' in source, f"{test} does not run xmae-fast {name}"


def test_every_module_is_run_by_a_test():
    assert {module for _, module, _ in OURS} <= set(MODULES)
    for module, test in MODULES.items():
        if test != "--help":
            name = module.rpartition(".")[2]
            assert re.search(rf"\b{name}\b", (ROOT / test.partition("::")[0]).read_text()), f"{test}: {module}"


@pytest.mark.parametrize(("command", "arguments"), XMAE_FAST, ids=[str(one) for one, _ in XMAE_FAST])
def test_arguments_of_xmae_fast(command, arguments, capsys):
    """A whole command is understood; one that is only named exists and has the options named."""
    if command.whole:
        assert cli.parser().parse_args(arguments).run
        return
    with pytest.raises(SystemExit) as end:
        cli.parser().parse_args([*arguments[:1], "--help"])
    assert end.value.code == 0
    told = capsys.readouterr().out
    assert all(re.search(rf"(?<![\w-]){re.escape(word)}\b", told) for word in arguments if word.startswith("-")), told


def test_options_of_the_program():
    assert {"--version", "--print-completion", "-q", "-v"} <= OF_PROGRAM
    assert {option for action in cli.parser()._actions for option in action.option_strings} >= OF_PROGRAM


@pytest.mark.parametrize("module", [name for name in MODULES if name.startswith("benchmarks.")])
def test_options_of_modules(module, monkeypatch, capsys):
    pytest.importorskip("rich")
    shown = {word for _, name, words in OURS if name == module for word in words if word.startswith("-")}
    monkeypatch.setattr(sys, "argv", [module, "--help"])
    monkeypatch.setattr(sys, "path", list(sys.path))
    with pytest.raises(SystemExit) as end:
        runpy.run_module(module, run_name="__main__")
    assert end.value.code in (0, None)
    told = capsys.readouterr().out
    assert all(re.search(rf"(?<![\w-]){re.escape(option)}\b", told) for option in shown), (shown, told)


def test_targets_of_make():
    if shutil.which("make") is None:
        pytest.skip("no make here")
    targets = {one.words[1] for one in COMMANDS if one.words[0] == "make" and len(one.words) > 1}
    assert {"test", "test-fast", "elsewhere", "sanitize"} <= targets
    for target in targets:
        run = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True, check=False)
        assert run.returncode == 0, run.stderr
        assert re.search(
            r"pytest|ruff|pyright|setup\.py|benchmarks/run\.py|csrc\.wheels|\.ci/wheels|awk|mkdocs", run.stdout
        )


def test_explain_runs(capsys):
    assert cli.main(["explain"]) == 0
    assert "conv_stem" in capsys.readouterr().out


def test_env_runs(capsys, monkeypatch):
    """It has what --version and explain tell, and nothing that names the machine, its user or a folder."""
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.setenv("XMAE_FAST_OTHER", "secret")
    assert cli.main(["env"]) == 0
    told = capsys.readouterr().out
    assert told.startswith(version.describe_versions())
    lines = dict(line.split(": ", 1) for line in told.splitlines() if ": " in line and not line.startswith(" "))
    assert list(lines)[5:] == ["Python", "system", "processor", "packages", "environment"]
    assert lines["Python"] == platform.python_version()
    assert f"torch {torch.__version__}" in lines["packages"].split(", ")
    assert f"numpy {np.__version__}" in lines["packages"].split(", ")
    assert "OMP_NUM_THREADS=3" in lines["environment"].split(", ")
    operators = told.partition("operators:\n")[2]
    assert [line.removeprefix("  ") for line in operators.splitlines()] == xmae_fast.explain().splitlines()
    reason = f"none, because {xmae_fast.__path__[0]}/_C_cpu.so, {Path.home()}/x: no"  # as the system names files
    monkeypatch.setattr(version, "describe_versions", lambda: f"CPU kernels: {reason}")
    assert cli.main(["env"]) == 0
    told += capsys.readouterr().out
    assert "CPU kernels: none, because xmae_fast/_C_cpu.so, ~/x: no\n" in told
    for private in (socket.gethostname(), str(Path.home()), str(ROOT), "secret"):
        assert not re.search(rf"(?<!\w){re.escape(private)}(?!\w)", told), private


@pytest.mark.parametrize("module", ["xmae_fast", "xmae_fast.cli"])
def test_the_version_of_everything(module, monkeypatch, capsys):
    """`python -m xmae_fast` is `xmae-fast`; the program's --version tells what is installed, a line each."""
    monkeypatch.setattr(sys, "argv", [module, "--version"])
    with pytest.raises(SystemExit) as end:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    assert not end.value.code
    lines = dict(line.split(": ", 1) for line in capsys.readouterr().out.splitlines())
    assert list(lines) == ["xmae_fast", "torch", "CPU kernels", "CPU kernels in bfloat16", "CUDA"]
    assert lines["xmae_fast"] == xmae_fast.__version__
    assert lines["torch"] == torch.__version__
    here = available()["conv_stem"]["cpu"]
    assert lines["CPU kernels"] == (backend.cpu_kernels() if here.usable else f"none, because {here.reason}")
    if torch.version.cuda is None:
        assert lines["CUDA"].startswith("none, because ")
    else:
        gpus = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
        assert lines["CUDA"] == f"{torch.version.cuda}, {', '.join(gpus) or 'no GPU'}"


def test_the_version_says_what_is_missing(monkeypatch):
    monkeypatch.setitem(extensions.EXTENSION_REASON, "cpu", "they were not built")
    monkeypatch.setattr(torch.version, "cuda", None)
    told = version.describe_versions().splitlines()
    assert told[2:] == [
        "CPU kernels: none, because they were not built",
        "CPU kernels in bfloat16: none, because they were not built",
        "CUDA: none, because this torch was built without CUDA",
    ]
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda number: f"GPU {number}")
    assert version.describe_versions().splitlines()[4] == "CUDA: 13.0, GPU 0, GPU 1"


def test_picture_is_drawn(tmp_path):
    pytest.importorskip("matplotlib")
    picture.draw(tmp_path / "lag.svg")
    assert "<svg" in (tmp_path / "lag.svg").read_text()


@pytest.mark.slow
@pytest.mark.skipif(COMPILER is None, reason="no C++ compiler here")
def test_tables_of_the_training_kernels():
    """They are what the page shows."""
    page = (ROOT / "xmae_fast" / "ops" / "conv_stem" / "cuda" / "TRAINING.md").read_text()
    assert all(line in page for line in predict_train.tables().splitlines())
