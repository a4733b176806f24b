"""How the compiled parts are compiled: what setup.py gives to setuptools, and the same as commands of the compilers.

Imports nothing but the standard library, and torch not even to find it, so that it serves where setuptools is too old
for pyproject.toml (`benchmarks/gpu/build.py` runs the commands in parallel).
"""

from __future__ import annotations

import importlib.util
import os
import sysconfig
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
INCLUDE = str(ROOT / "csrc")  # an #include names a file by its path from here
NVCC = os.environ.get("NVCC", "nvcc")
OLDEST_TORCH = "0x020b000000000000"  # stable ABI of torch 2.11: one binary serves every later 2.x
OLDEST_PYTHON = "0x030B0000"
STABLE = [("TORCH_TARGET_VERSION", OLDEST_TORCH), ("Py_LIMITED_API", OLDEST_PYTHON)]
SANITIZE = ["-fsanitize=address,undefined"] if os.environ.get("XMAE_FAST_SANITIZE") == "1" else []
# Python's own -fwrapv would hide overflow of signed integers, and its -g makes the library seven times as large.
OPTIMIZE = [*SANITIZE, "-fno-wrapv", "-fno-omit-frame-pointer", "-g", "-O1"] if SANITIZE else ["-O3", "-g0"]
COMPILE = [*OPTIMIZE, "-std=c++20", "-fvisibility=hidden", "-Wall"]
# No fused multiply-add in the reader: normalisation is bit-equal to the published arithmetic.
COMPILE_READER = [*COMPILE, "-ffp-contract=off", "-pthread"]
AS_PYTHON = ["-DNDEBUG", "-fwrapv"]  # which setuptools adds: Python itself is compiled with them
LINK_READER = [*SANITIZE, "-pthread"]
# One intermediate code serves all GPUs, because nothing asks for more than compute capability 8.0: making it takes
# longer than machine code for an architecture.
EVERY_GPU = "-gencode=arch=compute_80,code=[sm_80,sm_90a,compute_80]"
HOPPER = "-gencode=arch=compute_90a,code=sm_90a"  # an H100 or H200 alone: a third of the time


class Commands(NamedTuple):
    """Of one library: `compile` (object, command) can run at the same time, `link` after all of them."""

    library: Path
    compile: list[tuple[Path, list[str]]]
    link: list[str]


def sources(folder: str, suffix: str) -> list[str]:
    """Files below csrc/<folder>, relative to the repository."""
    return sorted(str(path.relative_to(ROOT)) for path in (ROOT / "csrc" / folder).rglob(f"*{suffix}"))


def torch_folder() -> Path:
    """Where torch is installed.

    Raises:
        ImportError: it is not.
    """
    found = importlib.util.find_spec("torch")
    if found is None or found.origin is None:
        raise ImportError("torch is not installed")
    return Path(found.origin).parent


def torch_includes() -> list[str]:
    """Options of a compiler that find torch's headers (and pybind11, which is among them)."""
    include = torch_folder() / "include"
    return [f"-I{include}", f"-I{include / 'torch' / 'csrc' / 'api' / 'include'}"]


def torch_libraries(*names: str) -> list[str]:
    """Options of a linker for those of torch's libraries that are there."""
    folder = torch_folder() / "lib"
    return [f"-L{folder}", *(f"-l{name}" for name in names if (folder / f"lib{name}.so").exists())]


def nvcc_options(gpus: str = EVERY_GPU) -> list[str]:
    """What every file of csrc/cuda is compiled with. No GPU is needed for it."""
    return [
        "-O3", "-std=c++20", "-Xcompiler=-fPIC,-fvisibility=hidden,-Wall", "-DUSE_CUDA",
        f"-DTORCH_TARGET_VERSION={OLDEST_TORCH}", f"-I{INCLUDE}", *torch_includes(), gpus,
    ]  # fmt: skip


def cuda_libraries() -> list[str]:
    return torch_libraries("torch", "torch_cpu", "torch_cuda", "c10")


def nvcc_command(output: str, files: list[str] | None = None) -> list[str]:
    """Everything in csrc/cuda as one library for sm_80, sm_90a and, by PTX, later GPUs, in one command."""
    files = sources("cuda", ".cpp") + sources("cuda", ".cu") if files is None else files
    return [NVCC, "-shared", *nvcc_options(), "--threads=0", *files, "-o", output, *cuda_libraries()]


def cuda_commands(folder: Path, nvcc: str, gpus: str = EVERY_GPU) -> Commands:
    """_C_cuda.so in `folder`, each file by a command of its own."""
    files = sources("cuda", ".cpp") + sources("cuda", ".cu")
    library, options = folder / "_C_cuda.so", nvcc_options(gpus)
    units = [(_object(folder, file), file) for file in files]
    steps = [(made, [nvcc, "-c", *options, file, "-o", str(made)]) for made, file in units]
    objects = [str(made) for made, _ in units]
    return Commands(library, steps, [nvcc, "-shared", *objects, "-o", str(library), *cuda_libraries()])


def cpu_commands(folder: Path, compiler: str) -> Commands:
    """_C_cpu.so in `folder`."""
    defined = [f"-D{name}={value}" for name, value in STABLE]
    options = [*AS_PYTHON, *COMPILE, "-fPIC", *defined, f"-I{INCLUDE}", *torch_includes()]
    return _host_commands(folder / "_C_cpu.so", compiler, "cpu", options, [*SANITIZE, *torch_libraries(
        "c10", "torch", "torch_cpu")])  # fmt: skip


def reader_commands(folder: Path, compiler: str, include: str = "", name: str = "") -> Commands:
    """The reader of segments in `folder`: for this Python, or for another with its folder of headers and file name."""
    python = include or sysconfig.get_paths()["include"]
    options = [*AS_PYTHON, *COMPILE_READER, "-fPIC", f"-I{INCLUDE}", *torch_includes(), f"-I{python}"]
    return _host_commands(folder / (name or reader_name()), compiler, "io", options, LINK_READER)


def reader_name() -> str:
    """File name of the reader: one binary per Python, unlike the operators, which serve all from 3.11 on."""
    return f"_C_io{sysconfig.get_config_var('EXT_SUFFIX')}"


def _host_commands(library: Path, compiler: str, folder: str, options: list[str], link: list[str]) -> Commands:
    units = [(_object(library.parent, file), file) for file in sources(folder, ".cpp")]
    steps = [(made, [*compiler.split(), "-c", *options, file, "-o", str(made)]) for made, file in units]
    return Commands(library, steps, [*compiler.split(), "-shared", *(str(made) for made, _ in units),
                                     "-o", str(library), *link])  # fmt: skip


def _object(folder: Path, file: str) -> Path:
    return folder / (file.replace("/", "-") + ".o")
