"""Installation: what import needs, what is said when a piece is missing, and how setup.py chooses."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run(code: str, *, cwd: Path, **env: str) -> str:
    result = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=os.environ | env,
        timeout=300,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.fixture
def pure_python(tmp_path):
    """A copy of the package without its built operators."""
    shutil.copytree(ROOT / "xmae_fast", tmp_path / "xmae_fast", ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    return tmp_path


def test_works_without_the_extension(pure_python):
    out = run(
        "import torch, xmae_fast; assert 'site-packages' not in xmae_fast.__file__\n"
        "m = xmae_fast.random_masking(4, 25, 0.8); print(m.ids_keep.shape)\n"
        "print(xmae_fast.xMAE(xmae_fast.ModelCfg(d_model=16, nhead=2)).embed(torch.zeros(1, 1000)).shape)\n"
        "print(xmae_fast.available()['random_masking']['cpu'])\n"
        "try: xmae_fast.random_masking(4, 25, 0.8, impl='cpu')\n"
        "except RuntimeError as error: print(error)",
        cwd=pure_python,
        PYTHONPATH=str(pure_python),
    )
    assert "torch.Size([4, 5])" in out
    assert "torch.Size([1, 384])" in out
    assert "the C++ operators were not built" in out
    assert "impl='cpu' was asked for random_masking, but the C++ operators were not built" in out


def test_a_broken_extension_is_explained(pure_python):
    (pure_python / "xmae_fast" / "_C_cpu.so").write_bytes(b"not a library")
    out = run(
        "import xmae_fast; print(xmae_fast.available()['random_masking']['cpu'].reason)",
        cwd=pure_python,
        PYTHONPATH=str(pure_python),
    )
    assert "_C_cpu.so could not be loaded" in out


def test_import_needs_torch_and_numpy_alone(tmp_path):
    """Everything else that may be installed is hidden, and must not be looked for."""
    out = run(
        "import sys\n"
        "class Hide:\n"
        "    names = {'triton', 'h5py', 'safetensors', 'matplotlib', 'rich', 'sklearn', 'lightning', 'scipy', 'yaml'}\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in self.names: raise ImportError(f'{name} is hidden')\n"
        "import torch\n"
        "sys.meta_path.insert(0, Hide())\n"
        "before = set(sys.modules)\n"
        "import xmae_fast, xmae_fast.data, xmae_fast.evaluation\n"
        "print(sorted({name.split('.')[0] for name in set(sys.modules) - before} & Hide.names))",
        cwd=tmp_path,
        PYTHONPATH=str(ROOT),
    )
    assert out.strip() == "[]"


def test_triton_is_not_imported(tmp_path):
    assert (
        run("import xmae_fast, sys; print('triton' in sys.modules)", cwd=tmp_path, PYTHONPATH=str(ROOT)).strip()
        == "False"
    )


BUILD = ("build_ext", "--inplace")


def setup_py(choice: str, cwd: Path, *arguments: str, **env: str) -> subprocess.CompletedProcess:
    """setup.py with these arguments, or `BUILD`, in `cwd`, on a copy of the sources."""
    for name in ("setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, cwd)
    for name in ("csrc", "xmae_fast"):
        shutil.copytree(
            ROOT / name, cwd / name, ignore=shutil.ignore_patterns("*.so", "__pycache__"), dirs_exist_ok=True
        )
    command = [sys.executable, "setup.py", "-q", *(arguments or BUILD)]
    environment = os.environ | {"XMAE_FAST_BUILD": choice} | env
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=600, check=False)


NO_COMPILER = {"CXX": "no-such-compiler", "PATH": "/nonexistent"}


def test_without_a_compiler_an_installation_ends_with_a_sentence_on_what_to_do(tmp_path):
    """And not, silently, without kernels: pip hides what a build that succeeds has said."""
    result = setup_py("auto", tmp_path, **NO_COMPILER)
    assert result.returncode == 1
    assert result.stderr.splitlines() == [
        "xmae_fast: the C++ kernels cannot be built, because no C++ compiler was found (looked for 'no-such-compiler' "
        "and 'g++'); install one, such as g++, or set XMAE_FAST_BUILD=none in the environment to install without "
        "kernels, where everything runs in plain PyTorch."
    ]


@pytest.mark.parametrize(
    ("choice", "env", "message"),
    [
        ("cpu", NO_COMPILER, "XMAE_FAST_BUILD=cpu, but no C++ compiler was found"),
        ("cuda", {"NVCC": "no-such-nvcc"}, "but no CUDA compiler was found (looked for 'no-such-nvcc')"),
        ("gpu", {}, "XMAE_FAST_BUILD: expected one of auto, cpu, cuda, none, got 'gpu'"),
    ],
)
def test_explicit_choices_fail_loudly(tmp_path, choice, env, message):
    result = setup_py(choice, tmp_path, **env)
    assert result.returncode != 0
    assert message in result.stderr


def test_none_builds_nothing(tmp_path):
    result = setup_py("none", tmp_path)
    assert result.returncode == 0, result.stderr
    assert not list((tmp_path / "xmae_fast").glob("*.so"))
