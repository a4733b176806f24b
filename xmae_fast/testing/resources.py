"""What the compiler makes of the Triton kernels, found out without a GPU.

`record` runs a piece of the library on fake tensors and writes its launches down; `compile_launch` compiles one of
them for an architecture and reads registers, stack, shared memory and the use of tensor cores from the machine code.

    python -m xmae_fast.testing.resources [--arch 90 80 89] [--out FILE.json]
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import torch
import triton
from torch._subclasses.fake_tensor import FakeTensorMode
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from xmae_fast.ops import _triton
from xmae_fast.ops._launch import Launch

SHARED_LIMIT = {80: 163 * 1024, 89: 99 * 1024, 90: 227 * 1024}  # bytes that one program may use
_POINTER = {
    torch.float32: "*fp32", torch.float16: "*fp16", torch.bfloat16: "*bf16", torch.int64: "*i64", torch.int32: "*i32",
    torch.bool: "*i1", torch.uint8: "*u8", torch.float64: "*fp64",
}  # fmt: skip


class Resources(NamedTuple):
    """Of one compiled kernel: registers of a thread, bytes of stack (spills) and of shared memory, tensor-core use."""

    kernel: str
    arch: int
    types: str
    constants: str
    num_warps: int
    num_stages: int
    registers: int
    stack: int
    shared: int
    tensor_cores: str  # "HGMMA", "HMMA" or ""

    @property
    def key(self) -> str:
        """Which compiled kernel this is, whatever it uses."""
        options = f"warps={self.num_warps} stages={self.num_stages}"
        return f"sm_{self.arch} {self.kernel}({self.types}) [{self.constants}] {options}"


def record(run: Callable[[], Any], capability: tuple[int, int] = (9, 0)) -> list[Launch]:
    """Launches of `run()`, which makes its tensors itself (on the CPU, see `recording`) and asks for impl="triton"."""
    with FakeTensorMode(allow_non_fake_inputs=True), _triton.recording(capability) as launches:
        run()
    return list(launches)


def signature(launch: Launch) -> tuple[dict[str, str], dict[str, Any], dict[tuple[int], list]]:
    """Types, compile-time values and alignments of the arguments, as Triton specialises a call."""
    types, constants, attributes = {}, {}, {}
    for place, param in enumerate(launch.kernel.params):
        value = launch.constants[param.name] if param.is_constexpr else launch.args[param.name]
        if param.is_constexpr or value is None or (type(value) is int and value == 1):
            types[param.name], constants[param.name] = "constexpr", value
            continue
        if isinstance(value, torch.Tensor):
            types[param.name] = _POINTER[value.dtype]
            aligned = value.storage_offset() * value.element_size() % 16 == 0
        elif isinstance(value, int):
            types[param.name] = "i32" if -(2**31) <= value < 2**31 else "i64"
            aligned = value % 16 == 0
        else:
            types[param.name], aligned = "fp32", False
        if aligned:
            attributes[(place,)] = [["tt.divisibility", 16]]
    return types, constants, attributes


def identity(launch: Launch) -> str:
    """The same for launches that share one compiled kernel."""
    return repr((launch.kernel.__name__, signature(launch), launch.num_warps, launch.num_stages))


def distinct(launches: Iterable[Launch]) -> list[Launch]:
    """One launch for every kernel that has to be compiled."""
    return list({identity(launch): launch for launch in launches}.values())


def code_of(launch: Launch, arch: int) -> Any:
    """What Triton compiles a launch to for sm_<arch>."""
    source = ASTSource(launch.kernel, *signature(launch))
    options = {"num_warps": launch.num_warps, "num_stages": launch.num_stages, "enable_fp_fusion": True}
    return triton.compile(source, target=GPUTarget("cuda", arch, 32), options=options)


def compile_launch(launch: Launch, arch: int) -> Resources:
    """Compile one launch for sm_<arch> and read what its machine code uses."""
    types, *_ = signature(launch)
    compiled = code_of(launch, arch)
    registers, stack = _usage(compiled.asm["cubin"])
    ptx = compiled.asm["ptx"]
    cores = "HGMMA" if "wgmma.mma_async" in ptx else "HMMA" if "mma.sync" in ptx else ""
    shown = ", ".join(f"{name}={value}" for name, value in sorted(launch.constants.items()))
    shown_types = " ".join(kind for kind in types.values() if kind != "constexpr")
    return Resources(
        launch.kernel.__name__, arch, shown_types, shown, launch.num_warps, launch.num_stages, registers, stack,
        compiled.metadata.shared, cores,
    )  # fmt: skip


def _usage(cubin: bytes) -> tuple[int, int]:
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [str(tool), "--dump-resource-usage", file.name]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = re.search(r"REG:(\d+) STACK:(\d+)", text)
    if found is None:
        raise RuntimeError(f"cuobjdump: expected a line with REG and STACK, got {text!r}")
    return int(found[1]), int(found[2])


def table(resources: Iterable[Resources]) -> str:
    """The resources as markdown."""
    lines = ["| kernel | arch | registers | stack | shared | tensor cores | constants |", "|---" * 7 + "|"]
    lines += [
        f"| {r.kernel} | sm_{r.arch} | {r.registers} | {r.stack} | {r.shared:,} | {r.tensor_cores} | {r.constants}, "
        f"warps={r.num_warps}, stages={r.num_stages} |"
        for r in resources
    ]
    return "\n".join(lines)


def compile_all(arch: int, float32_too: bool = False) -> list[Resources]:
    """Every kernel of the published model's training step and embedding, in bfloat16 autocast (and in float32)."""
    from xmae_fast.testing.launches import production_launches

    precisions = (torch.bfloat16, None) if float32_too else (torch.bfloat16,)
    launches = production_launches((arch // 10, arch % 10), precisions=precisions)
    return [compile_launch(launch, arch) for launch in distinct(launches)]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--arch", type=int, nargs="+", default=[90, 80], choices=sorted(SHARED_LIMIT))
    parser.add_argument("--float32", action="store_true", help="the kernels in float32 too")
    parser.add_argument("--out", type=Path, help="also write the resources here, as JSON")
    args = parser.parse_args()
    found = [resources for arch in args.arch for resources in compile_all(arch, args.float32)]
    print(table(found))
    if args.out:
        args.out.write_text(json.dumps([r._asdict() | {"key": r.key} for r in found], indent=1) + "\n")


if __name__ == "__main__":
    main()
