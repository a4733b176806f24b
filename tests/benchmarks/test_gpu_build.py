"""The compiled parts without setuptools: commands, carried libraries, compilers that fail; and what setup.py needs."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.gpu import build
from csrc import building

ROOT = Path(__file__).parents[2]


@pytest.fixture
def package(monkeypatch, tmp_path):
    """An empty package to build into."""
    folder = tmp_path / "xmae_fast"
    folder.mkdir()
    monkeypatch.setattr(build, "PACKAGE", folder)
    return folder


def compiler(tmp_path: Path, name: str, script: str) -> str:
    """A program in place of a compiler."""
    file = tmp_path / name
    file.write_text(f"#!{sys.executable} -S\nimport sys, time\n{script}\n")
    file.chmod(0o755)
    return str(file)


WRITES = "open(sys.argv[sys.argv.index('-o') + 1], 'w').write(' '.join(sys.argv[1:]))"
FAILS = "sys.exit('stem.cu(12): error: identifier \"half\" is undefined\\n1 error detected') if '-c' in sys.argv else 0"


def test_every_file_has_a_command_with_the_flags_of_setup_py(tmp_path):
    cuda = building.cuda_commands(tmp_path, "nvcc", building.HOPPER)
    cpu, reader = building.cpu_commands(tmp_path, "c++ -g"), building.reader_commands(tmp_path, "c++")
    for made, folder, suffixes in ((cuda, "cuda", (".cu", ".cpp")), (cpu, "cpu", (".cpp",)), (reader, "io", (".cpp",))):
        files = {path.name for path in (ROOT / "csrc" / folder).rglob("*") if path.suffix in suffixes}
        assert {Path(word).name for _, command in made.compile for word in command if word.startswith("csrc/")} == files
        assert len(made.compile) == len(files)
        assert all(str(made_object) in made.link for made_object, _ in made.compile)
        assert made.link[made.link.index("-o") + 1] == str(made.library)
    assert all(building.HOPPER in command for _, command in cuda.compile)
    assert all(set(building.COMPILE) <= set(command) for _, command in cpu.compile)
    assert all("-DPy_LIMITED_API=0x030B0000" in command for _, command in cpu.compile)
    assert all("-ffp-contract=off" in command for _, command in reader.compile)
    assert set(building.nvcc_command("out.so")) >= {
        "-DUSE_CUDA",
        building.EVERY_GPU,
        "csrc/cuda/conv_stem/stem_bfloat16.cu",
    }


def test_torch_is_found_without_importing_it():
    from torch.utils.cpp_extension import TORCH_LIB_PATH, include_paths

    assert building.torch_includes() == [f"-I{path}" for path in include_paths()]
    assert building.torch_libraries("c10") == [f"-L{TORCH_LIB_PATH}", "-lc10"]
    program = "import sys, csrc.building, benchmarks.gpu.build; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=False).returncode == 0


def test_files_are_compiled_at_the_same_time_and_linked(monkeypatch, package, tmp_path):
    monkeypatch.setenv("CXX", compiler(tmp_path, "cxx", WRITES))
    monkeypatch.setattr(build, "state", lambda: {"cpu": "", "cuda": "", "io": ""})
    said = []
    assert build.provide(["cpu", "io"], None, said.append) == {"cpu": "", "io": ""}
    assert {path.name for path in package.iterdir()} == {"_C_cpu.so", building.reader_name()}
    assert "-lc10" in (package / "_C_cpu.so").read_text()
    assert len(said) == 2


def test_what_does_not_compile_costs_its_own_part(monkeypatch, package, tmp_path):
    monkeypatch.setenv("NVCC", compiler(tmp_path, "nvcc", FAILS))
    monkeypatch.setenv("CXX", compiler(tmp_path, "cxx", WRITES))
    monkeypatch.setattr(build, "state", lambda: {"cpu": "", "cuda": "", "io": ""})
    failed = build.provide(["cuda", "cpu"], None, lambda line: None)
    assert failed["cuda"] == 'nvcc failed (exit code 1): stem.cu(12): error: identifier "half" is undefined'
    assert failed["cpu"] == ""
    assert [path.name for path in package.iterdir()] == ["_C_cpu.so"]


def test_without_compilers_the_reason_is_said(monkeypatch, package, tmp_path, capsys):
    monkeypatch.setenv("NVCC", "no-such-nvcc")
    monkeypatch.setattr(build, "NVCC_ELSEWHERE", str(tmp_path / "nvcc"))
    assert build.main(["--only", "cuda"]) == 1
    assert "_C_cuda.so is missing: no CUDA compiler was found" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        build.main(["--only", "gpu"])


def test_a_compiler_that_hangs_is_stopped(monkeypatch, package, tmp_path):
    monkeypatch.setenv("CXX", compiler(tmp_path, "cxx", "time.sleep(60)"))
    monkeypatch.setattr(build, "COMPILE_LIMIT_S", 0.5)
    assert "was stopped after 0.5 s" in build.build(["io"], lambda line: None)["io"]


@pytest.mark.skipif(not (ROOT / "xmae_fast" / "_C_cpu.so").exists(), reason="the C++ operators are not built here")
def test_carried_libraries_are_taken_where_they_fit(monkeypatch, tmp_path):
    """Into a copy of the package: the operators fit; a reader that is none is refused with the reason, and built."""
    copy, carried = tmp_path / "copy", tmp_path / "carried"
    carried.mkdir()
    for name in ("xmae_fast", "csrc"):
        os.makedirs(copy, exist_ok=True)
        subprocess.run(["cp", "-r", str(ROOT / name), str(copy / name)], check=True)
    for file in (copy / "xmae_fast").glob("*.so"):
        file.rename(carried / file.name)
    (carried / building.reader_name()).write_bytes(b"no library")
    monkeypatch.setattr(build, "ROOT", copy)
    monkeypatch.setattr(build, "PACKAGE", copy / "xmae_fast")
    monkeypatch.setattr(build, "build", lambda parts, say: dict.fromkeys(parts, "not built in this test"))
    said = []
    failed = build.provide(["cpu", "io"], carried, said.append)
    assert failed == {"cpu": "", "io": "not built in this test"}
    assert any("_C_cpu.so" in line and "taken as it is" in line for line in said)
    assert any(building.reader_name() in line and "does not fit: " in line for line in said)
    assert [path.name for path in (copy / "xmae_fast").glob("*.so")] == ["_C_cpu.so"]
    assert build.provide(["cpu"], None, said.append) == {"cpu": ""}
    assert said[-1] == "_C_cpu.so: is there and fits"


def test_an_old_setuptools_is_refused_in_one_sentence(tmp_path):
    """As 70.3 would be, which stops at the licence field of pyproject.toml."""
    program = "import setuptools, runpy; setuptools.__version__ = '70.3.0'; runpy.run_path('setup.py')"
    environment = os.environ | {"XMAE_FAST_BUILD": "none"}
    run = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert run.returncode == 1
    assert "setuptools 70.3.0 cannot read pyproject.toml (its licence field): it needs setuptools >= 77" in run.stderr
    command = shlex.split(run.stderr.split("`")[1])
    assert command == ["python", "-m", "benchmarks.gpu.build"]
