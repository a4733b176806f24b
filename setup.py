"""Builds the C++ operators of csrc/cpu and csrc/cuda against the LibTorch stable ABI and the segment reader of csrc/io
with the pybind11 that torch brings along; everything else is in pyproject.toml.

XMAE_FAST_BUILD = auto (default: what this machine can build) | cpu | cuda (both) | none. `auto` falls back to a
pure-Python install with one sentence saying why, and builds for CUDA where torch has it and nvcc (or what NVCC names)
is found; `cpu` and `cuda` fail instead. Nothing is downloaded. XMAE_FAST_SANITIZE=1 builds
for `make sanitize`: bounds, lifetimes and undefined behaviour are checked at run time.
"""

import os
import shutil
import sys
from pathlib import Path

import setuptools
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

sys.path.insert(0, str(Path(__file__).resolve().parent))  # build frontends do not look through this folder

from csrc.building import COMPILE, COMPILE_READER, LINK_READER, NVCC, SANITIZE, STABLE, nvcc_command, sources

ROOT = Path(__file__).resolve().parent
READER = "xmae_fast._C_io"  # one binary per Python, unlike the operators, which serve all from 3.10 on
CUDA = "xmae_fast._C_cuda"
CHOICES = ("auto", "cpu", "cuda", "none")
OLDEST_SETUPTOOLS = 77  # older ones stop at pyproject.toml's `license = "Apache-2.0"` with a page about its schema


def check_setuptools() -> None:
    """Stop with one sentence where setuptools cannot read pyproject.toml."""
    if int(setuptools.__version__.partition(".")[0]) < OLDEST_SETUPTOOLS:
        raise SystemExit(
            f"xmae_fast: setuptools {setuptools.__version__} cannot read pyproject.toml (its licence field): it needs "
            f"setuptools >= {OLDEST_SETUPTOOLS} (pip install -U setuptools). `python -m benchmarks.gpu.build` builds "
            "the compiled parts without setuptools."
        )


def missing_for_cpu() -> str | None:
    """Why the CPU operators cannot be built here, or None."""
    try:
        import torch  # noqa: F401
    except ImportError:
        return "torch cannot be imported while building (install it first and use `pip install --no-build-isolation`)"
    compiler = os.environ.get("CXX", "c++").split()[0]
    if shutil.which(compiler) is None and shutil.which("g++") is None:
        return f"no C++ compiler was found (looked for {compiler!r} and 'g++')"
    return None


def extensions(choice: str) -> list:
    """The extension modules that `choice` asks for and this machine can build."""
    if choice == "none":
        return []
    why_not = missing_for_cpu()
    if why_not is None and choice == "cuda" and shutil.which(NVCC) is None:
        why_not = f"no CUDA compiler was found (looked for {NVCC!r})"
    if why_not is not None:
        if choice == "auto":
            print(f"xmae_fast: installing without C++ operators: {why_not}.", file=sys.stderr)
            return []
        raise SystemExit(f"xmae_fast: XMAE_FAST_BUILD={choice}, but {why_not}.")
    import torch
    from torch.utils.cpp_extension import CppExtension, include_paths

    with_cuda = choice == "cuda" or (choice == "auto" and torch.version.cuda is not None and shutil.which(NVCC))
    return [
        Extension(
            READER,
            sources("io", ".cpp"),
            include_dirs=[str(ROOT / "csrc" / "io"), *include_paths()],
            extra_compile_args=COMPILE_READER,
            extra_link_args=LINK_READER,
            language="c++",
        ),
        CppExtension(
            "xmae_fast._C_cpu",
            sources("cpu", ".cpp"),
            include_dirs=[str(ROOT / "csrc" / "cpu")],
            define_macros=STABLE,
            extra_compile_args=COMPILE,
            extra_link_args=SANITIZE,
            py_limited_api=True,
        ),
        *([Extension(CUDA, [])] if with_cuda else []),
    ]


check_setuptools()
choice = os.environ.get("XMAE_FAST_BUILD", "auto")
if choice not in CHOICES:
    raise SystemExit(f"xmae_fast: XMAE_FAST_BUILD: expected one of {', '.join(CHOICES)}, got {choice!r}.")
modules = extensions(choice)
if modules:
    from torch.utils.cpp_extension import BuildExtension

    class Build(BuildExtension.with_options(no_python_abi_suffix=True)):
        def get_ext_filename(self, name: str) -> str:
            if name.endswith(READER.rpartition(".")[2]):
                return build_ext.get_ext_filename(self, name)
            return super().get_ext_filename(name)

        def build_extension(self, extension: Extension) -> None:
            if extension.name != CUDA:
                return super().build_extension(extension)
            self.spawn(nvcc_command(self.get_ext_fullpath(CUDA)))

    setup(ext_modules=modules, cmdclass={"build_ext": Build})
else:
    setup()
