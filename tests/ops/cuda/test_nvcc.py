"""csrc/cuda compiled by nvcc as setup.py does it: no GPU is needed to see warnings, spills, registers and instructions.

The kernels in bfloat16, one compilation for both architectures, take a minute of one core; with
XMAE_FAST_ALL_KERNELS=1 those in float16 too, which differ from them in the type that tensor cores are told. What was
built is kept in the system's temporary folder until a source changes.
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib.util
import os
import re
import runpy
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import setuptools
import torch
from torch.utils.cpp_extension import TORCH_LIB_PATH

from tests.ops.cuda.stem_host import ROOT

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc is not on PATH"),
]
ALL = os.environ.get("XMAE_FAST_ALL_KERNELS") == "1"
OPERATORS, KERNELS = ["conv_stem.cpp", "conv_stem_train.cpp"], ["stem_bfloat16.cu", "train_bfloat16.cu"]
HALF = ["stem_float16.cu", "train_float16.cu"]
SOURCES = [*OPERATORS, *KERNELS, *(HALF if ALL else [])]
DTYPES = 2 if ALL else 1
EVAL_KERNELS, PACK_KERNELS = 3 * DTYPES, DTYPES  # three sizes, and packing
# Shapes of convolutions, forward and backward; packing, moments of x, two ends, the gradients' collection.
TRAIN_SHAPES, TRAIN_KERNELS = 26 * DTYPES, 31 * DTYPES
STREAM = "aoti_torch_get_current_cuda_stream"  # of torch's CUDA library


class Built(NamedTuple):
    library: Path
    log: str


class Kernel(NamedTuple):
    """What ptxas reports of one kernel on one architecture."""

    name: str
    arch: str
    stack: int
    spilled: int
    registers: int


def setup_py() -> Callable[..., list[str]]:
    """`nvcc_command` of setup.py."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(setuptools, "setup", lambda **_: None)
        patch.setenv("XMAE_FAST_BUILD", "none")
        return runpy.run_path(str(ROOT / "setup.py"))["nvcc_command"]


@pytest.fixture(scope="module")
def built() -> Built:
    command_of = setup_py()
    files = [f"csrc/cuda/conv_stem/{name}" for name in SOURCES]
    digest = hashlib.sha256(" ".join(command_of("", files)).encode())
    for path in sorted(path for path in (ROOT / "csrc" / "cuda").rglob("*") if path.is_file()):
        digest.update(path.name.encode() + path.read_bytes())
    folder = Path(tempfile.gettempdir()) / f"xmae_fast_nvcc_{digest.hexdigest()[:16]}"
    library, log = folder / "_C_cuda.so", folder / "log"
    if not log.exists():
        folder.mkdir(exist_ok=True)
        # One after the other, so that ptxas's reports do not mix.
        command = [word for word in command_of(str(library), files) if word != "--threads=0"] + ["-Xptxas=-v"]
        made = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert made.returncode == 0, made.stderr
        log.write_text(made.stdout + made.stderr)
    return Built(library, log.read_text())


def kernels(log: str) -> list[Kernel]:
    pattern = (
        r"Compiling entry function '(\S+)' for '(sm_\w+)'.*?(\d+) bytes stack frame, (\d+) bytes spill stores,"
        r" (\d+) bytes spill loads.*?Used (\d+) registers"
    )
    return [
        Kernel(name, arch, int(stack), int(stores) + int(loads), int(registers))
        for name, arch, stack, stores, loads, registers in re.findall(pattern, log, re.DOTALL)
    ]


def test_the_command_builds_all_sources():
    found = {path.name for path in (ROOT / "csrc" / "cuda").rglob("*") if path.suffix in (".cpp", ".cu")}
    assert found == {*OPERATORS, *KERNELS, *HALF}
    assert {Path(word).name for word in setup_py()("out.so") if word.startswith("csrc")} == found


def test_no_warnings(built):
    assert "warning" not in built.log.lower(), built.log


@pytest.mark.parametrize("arch", ["sm_80", "sm_90a"])
def test_no_spills_no_stack_and_registers_for_the_stated_occupancy(built, arch):
    found = [kernel for kernel in kernels(built.log) if kernel.arch == arch]
    assert len(found) == EVAL_KERNELS + PACK_KERNELS + TRAIN_KERNELS
    for kernel in found:
        assert kernel.stack == kernel.spilled == 0, kernel
        # Four warps share a multiprocessor's 65,536 registers with another CTA of four; eight have them alone, but two
        # CTAs of eight where a launch of training says so (the 2 after the name of its class).
        together = re.search(r"Launch.*?Li([12])E", kernel.name)
        assert kernel.registers <= (128 if together and together[1] == "2" else 255), kernel


def cuobjdump(built: Built, *options: str) -> str:
    spec = importlib.util.find_spec("triton")
    folders = [str(Path(spec.origin).parent / "backends" / "nvidia" / "bin")] if spec and spec.origin else []
    tool = shutil.which("cuobjdump", path=os.pathsep.join([os.environ["PATH"], *folders]))
    if tool is None:
        pytest.skip("cuobjdump is neither on PATH nor in Triton's package")
    return subprocess.run([tool, *options, str(built.library)], capture_output=True, text=True, check=True).stdout


def test_machine_code_and_ptx_are_in_it(built):
    elf, ptx = (cuobjdump(built, option) for option in ("--list-elf", "--list-ptx"))
    assert ".sm_80." in elf
    assert ".sm_90a." in elf
    assert ".sm_80." in ptx, ptx


@pytest.mark.parametrize("arch", ["sm_80", "sm_90a"])
def test_instructions(built, arch):
    sass = cuobjdump(built, "--dump-sass", "-arch", arch)
    functions = {part.split()[0]: part for part in sass.split("Function : ")[1:]}
    evaluations = {name: code for name, code in functions.items() if "stem_eval_kernel" in name}
    assert len(evaluations) == EVAL_KERNELS
    for name, code in evaluations.items():
        product = "HMMA.16816.F32.BF16" if "Bf16" in name else "HMMA.16816.F32 "
        assert code.count(product) > 800, name
        # Operands, copies and stores of 16 bytes; SiLU on the special-function units; nothing in local memory.
        for instruction in (r"LDSM\.16\.M88\.4", r"LDS\.128", r"LDGSTS\.E\.BYPASS\.128", r"STG\.E\.128", r"MUFU\.TANH"):
            assert re.search(instruction, code), (name, instruction)
        assert not re.search(r"\b(LDL|STL)\b", code), name


@pytest.mark.parametrize("arch", ["sm_80", "sm_90a"])
def test_instructions_of_training(built, arch):
    sass = cuobjdump(built, "--dump-sass", "-arch", arch)
    functions = {part.split()[0]: part for part in sass.split("Function : ")[1:]}
    convolutions = {name: code for name, code in functions.items() if re.search("ForwardShape|BackwardShape", name)}
    assert len(convolutions) == TRAIN_SHAPES
    for name, code in convolutions.items():
        product = "HMMA.16816.F32.BF16" if "Bf16" in name else "HMMA.16816.F32 "
        assert code.count(product) >= 16, name
        for instruction in (r"LDSM\.16\.M88\.4", r"LDS\.128", r"LDGSTS\.E\.BYPASS\.128", r"STG\.E\.128", r"MUFU\.TANH"):
            assert re.search(instruction, code), (name, instruction)
        if "BackwardShape" in name:  # operands of weight gradients, transposed
            assert re.search(r"LDSM\.16\.MT88\.4", code), name
        assert not re.search(r"\b(LDL|STL|ATOM|RED)\b", code), name


def test_links_against_the_stable_abi_of_this_torch(built):
    """Every symbol of torch's that it wants is in this torch, but for the CUDA stream where torch has no CUDA."""
    nm = shutil.which("nm")
    if nm is None:
        pytest.skip("nm is not on PATH")

    def symbols(path: Path, option: str) -> set[str]:
        listing = subprocess.run([nm, "-D", option, str(path)], capture_output=True, text=True, check=True).stdout
        return {line.split()[-1].split("@")[0] for line in listing.splitlines() if line.strip()}

    wanted = {name for name in symbols(built.library, "--undefined-only") if re.match(r"(aoti_)?torch_", name)}
    there = set().union(*(symbols(path, "--defined-only") for path in Path(TORCH_LIB_PATH).glob("libtorch_c*.so")))
    assert STREAM in wanted
    assert wanted - there == (set() if torch.version.cuda else {STREAM})


@pytest.mark.skipif(torch.version.cuda is not None, reason="this torch has CUDA")
@pytest.mark.skipif(not ALL, reason="wants a library of all kernels: XMAE_FAST_ALL_KERNELS=1")
def test_a_torch_without_cuda_cannot_load_it(built):
    with pytest.raises(OSError, match=STREAM):
        ctypes.CDLL(str(built.library))
