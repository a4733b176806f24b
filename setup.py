"""Builds the C++ operators of csrc/cpu and csrc/cuda against the LibTorch stable ABI and the segment reader of csrc/io
with the pybind11 that torch brings along; everything else is in pyproject.toml.

XMAE_FAST_BUILD = auto (default: for the CPU, and for CUDA too where torch has it and nvcc, or what NVCC names, is
found) | cpu | cuda (both) | none. What cannot be built ends the installation with a sentence on what to do; only `none`
installs without kernels. XMAE_FAST_PREBUILT=FOLDER takes the compiled parts from there as they are (`csrc/wheels.py`).
XMAE_FAST_SANITIZE=1 builds for `make sanitize`: bounds, lifetimes and undefined behaviour are checked at run time.
"""

import os
import shutil
import sys
from pathlib import Path

import setuptools
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

sys.path.insert(0, str(Path(__file__).resolve().parent))  # build frontends do not look through this folder

from csrc import choosing
from csrc.building import (
    COMPILE,
    COMPILE_READER,
    INCLUDE,
    LINK_READER,
    NVCC,
    SANITIZE,
    STABLE,
    nvcc_command,
    reader_name,
    sources,
)

READER = "xmae_fast._C_io"  # one binary per Python, unlike the operators, which serve all from 3.11 on
CPU = "xmae_fast._C_cpu"
CUDA = "xmae_fast._C_cuda"
FILES = {CPU: "_C_cpu.so", READER: reader_name(), CUDA: "_C_cuda.so"}
# Other commands (a source archive, metadata) need no compiler and no torch.
COMMANDS = {"build", "build_ext", "bdist_wheel", "editable_wheel", "install", "develop"}
OLDEST_SETUPTOOLS = 77  # older ones stop at pyproject.toml's `license = "Apache-2.0"` with a page about its schema


def check_setuptools() -> None:
    """Stop with one sentence where setuptools cannot read pyproject.toml."""
    if int(setuptools.__version__.partition(".")[0]) < OLDEST_SETUPTOOLS:
        raise SystemExit(
            f"xmae_fast: setuptools {setuptools.__version__} cannot read pyproject.toml (its licence field): it needs "
            f"setuptools >= {OLDEST_SETUPTOOLS} (pip install -U setuptools). `python -m benchmarks.gpu.build` builds "
            "the compiled parts without setuptools."
        )


class Prebuilt(build_ext):
    """Takes the files of a folder as they are."""

    folder = Path(os.environ.get("XMAE_FAST_PREBUILT", ""))

    def get_ext_filename(self, name: str) -> str:
        *folders, last = name.split(".")
        return os.path.join(*folders, FILES[f"xmae_fast.{last}"])

    def build_extension(self, extension: Extension) -> None:
        target = Path(self.get_ext_fullpath(extension.name))
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(self.folder / FILES[extension.name], target)


def prebuilt(asked: str) -> dict:
    """Arguments of setup() for parts that are there already."""
    names = [CPU, READER, *([CUDA] if asked == "cuda" else [])]
    for name in names:
        if not (Prebuilt.folder / FILES[name]).is_file():
            raise SystemExit(f"xmae_fast: XMAE_FAST_PREBUILT: expected {FILES[name]} in {Prebuilt.folder}, found none.")
    return {"ext_modules": [Extension(name, []) for name in names], "cmdclass": {"build_ext": Prebuilt}}


def compiled(asked: str) -> dict:
    """Arguments of setup() for parts that are compiled here."""
    choosing.refuse(asked, choosing.missing_compiler() or choosing.missing_torch())
    if asked == "cuda":
        choosing.refuse(asked, choosing.missing_nvcc(NVCC))
    import torch
    from torch.utils.cpp_extension import BuildExtension, CppExtension, include_paths

    class Build(BuildExtension.with_options(no_python_abi_suffix=True)):
        def get_ext_filename(self, name: str) -> str:
            if name.endswith(READER.rpartition(".")[2]):
                return build_ext.get_ext_filename(self, name)
            return super().get_ext_filename(name)

        def build_extension(self, extension: Extension) -> None:
            if extension.name != CUDA:
                return super().build_extension(extension)
            self.spawn(nvcc_command(self.get_ext_fullpath(CUDA)))

    with_cuda = asked == "cuda" or (asked == "auto" and torch.version.cuda is not None and shutil.which(NVCC))
    modules = [
        Extension(
            READER,
            sources("io", ".cpp"),
            include_dirs=[INCLUDE, *include_paths()],
            extra_compile_args=COMPILE_READER,
            extra_link_args=LINK_READER,
            language="c++",
        ),
        CppExtension(
            CPU,
            sources("cpu", ".cpp"),
            include_dirs=[INCLUDE],
            define_macros=STABLE,
            extra_compile_args=COMPILE,
            extra_link_args=SANITIZE,
            py_limited_api=True,
        ),
        *([Extension(CUDA, [])] if with_cuda else []),
    ]
    return {"ext_modules": modules, "cmdclass": {"build_ext": Build}}


check_setuptools()
asked = choosing.choice()
if asked == "none" or not COMMANDS.intersection(sys.argv):
    setup()
else:
    setup(**(prebuilt(asked) if "XMAE_FAST_PREBUILT" in os.environ else compiled(asked)))
