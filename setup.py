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

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

READER = "xmae_fast._C_io"  # one binary per Python, unlike the operators, which serve all from 3.10 on
CUDA = "xmae_fast._C_cuda"
NVCC = os.environ.get("NVCC", "nvcc")
CHOICES = ("auto", "cpu", "cuda", "none")
OLDEST_TORCH = "0x020b000000000000"  # stable ABI of torch 2.11: one binary serves every later 2.x
ROOT = Path(__file__).parent
INCLUDE = str((ROOT / "csrc").resolve())  # an #include names a file by its path from here
SANITIZE = ["-fsanitize=address,undefined"] if os.environ.get("XMAE_FAST_SANITIZE") == "1" else []
# Python's own -fwrapv would hide overflow of signed integers.
OPTIMIZE = [*SANITIZE, "-fno-wrapv", "-fno-omit-frame-pointer", "-g", "-O1"] if SANITIZE else ["-O3"]
COMPILE = [*OPTIMIZE, "-std=c++20", "-fvisibility=hidden", "-Wall"]


def sources(folder: str, suffix: str) -> list[str]:
    return sorted(str(path.relative_to(ROOT)) for path in (ROOT / "csrc" / folder).rglob(f"*{suffix}"))


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


def nvcc_command(output: str, files: list[str] | None = None) -> list[str]:
    """Everything below csrc/cuda as one library for sm_80, sm_90a and, by PTX, later GPUs. No GPU is needed for it.

    One intermediate code serves all of them, because nothing here asks for more than compute capability 8.0: making it
    takes longer than machine code for an architecture.
    """
    from torch.utils.cpp_extension import TORCH_LIB_PATH, include_paths

    files = sources("cuda", ".cpp") + sources("cuda", ".cu") if files is None else files
    there = {path.name for path in Path(TORCH_LIB_PATH).iterdir()}
    libraries = [lib for lib in ("torch", "torch_cpu", "torch_cuda", "c10") if f"lib{lib}.so" in there]
    return [
        NVCC, "-shared", "-O3", "-std=c++20", "-Xcompiler=-fPIC,-fvisibility=hidden,-Wall", "-DUSE_CUDA",
        f"-DTORCH_TARGET_VERSION={OLDEST_TORCH}", *(f"-I{path}" for path in [INCLUDE, *include_paths()]),
        "-gencode=arch=compute_80,code=[sm_80,sm_90a,compute_80]", "--threads=0", *files, "-o", output,
        f"-L{TORCH_LIB_PATH}", *(f"-l{lib}" for lib in libraries),
    ]  # fmt: skip


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
            include_dirs=[INCLUDE, *include_paths()],
            # No fused multiply-add: normalisation is bit-equal to the published arithmetic.
            extra_compile_args=[*COMPILE, "-ffp-contract=off", "-pthread"],
            extra_link_args=[*SANITIZE, "-pthread"],
            language="c++",
        ),
        CppExtension(
            "xmae_fast._C_cpu",
            sources("cpu", ".cpp"),
            include_dirs=[INCLUDE],
            define_macros=[("TORCH_TARGET_VERSION", OLDEST_TORCH), ("Py_LIMITED_API", "0x030A0000")],
            extra_compile_args=COMPILE,
            extra_link_args=SANITIZE,
            py_limited_api=True,
        ),
        *([Extension(CUDA, [])] if with_cuda else []),
    ]


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
