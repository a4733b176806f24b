"""The machine line: what this machine can do, measured in this run, so that shares of it mean something."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch

from xmae_fast._environment import cpu_name

FMA_SOURCE = """
#if defined(__AVX512F__)
typedef float V __attribute__((vector_size(64)));
#elif defined(__AVX__)
typedef float V __attribute__((vector_size(32)));
#else
typedef float V __attribute__((vector_size(16)));
#endif
enum { CHAINS = 12 };
extern "C" double fma_loop(long steps) {
  V x[CHAINS], scale = {}, shift = {};
  scale += 0.999f, shift += 0.001f;
  for (int j = 0; j < CHAINS; ++j) x[j] = shift * (float)j;
  for (long i = 0; i < steps; ++i)
#pragma GCC unroll 12
    for (int j = 0; j < CHAINS; ++j) x[j] = x[j] * scale + shift;
  double sum = 0;
  for (int j = 0; j < CHAINS; ++j) sum += x[j][0];
  return sum;
}
extern "C" long flops_per_step() { return 2 * CHAINS * (long)(sizeof(V) / sizeof(float)); }
"""
INSTRUCTIONS = (
    "avx2", "avx512f", "avx_vnni", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_bf16", "amx_int8",
)  # fmt: skip


@dataclass(frozen=True)
class Machine:
    """Peaks in FLOP/s and bytes/s; `fma` is 0 where it was not measured, and `fma_note` says why.

    `instructions`: those of `INSTRUCTIONS` that the processor has. `gemm_bfloat16`: of a CPU; 0 where it lacks that.
    """

    cpu: str
    threads: int
    cores: int
    load: float
    torch: str
    gpu: str
    gemm_dtype: str
    gemm: float
    fma: float
    fma_note: str
    copy: float
    instructions: tuple[str, ...] = ()
    gemm_bfloat16: float = 0.0

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Machine:
        """A machine as JSON files have it."""
        names = {one.name for one in fields(cls)}
        about = {name: value for name, value in values.items() if name in names}
        return cls(**about | {"instructions": tuple(about.get("instructions", ()))})

    def line(self) -> str:
        fma = f"FMA peak {self.fma / 1e9:.0f} GFLOP/s" if self.fma else f"FMA peak {self.fma_note}"
        gemm = f"GEMM peak {self.gemm / 1e9:.0f} GFLOP/s ({self.gemm_dtype})"
        parts = [
            f"{self.cpu}, {self.threads} of {self.cores} cores", " ".join(self.instructions), f"torch {self.torch}",
            self.gpu, fma, gemm + (f", {self.gemm_bfloat16 / 1e9:,.0f} (bfloat16)" if self.gemm_bfloat16 else ""),
            f"copy {self.copy / 1e9:.1f} GB/s (read + write)", f"load {self.load:.1f} at the start",
        ]  # fmt: skip
        return " | ".join(part for part in parts if part)

    def peaks(self, precision: str) -> tuple[float, float]:
        """GEMM and FMA peak of a class of precision, each 0 where it was not measured; '' is that of the run."""
        if self.gpu or precision in ("", "float32"):
            return self.gemm, self.fma
        return (self.gemm_bfloat16 if precision == "bfloat16" else 0.0), 0.0


def measure_machine(device: torch.device, seconds: float = 1.0) -> Machine:
    """Names and peaks of this machine; each peak takes about `seconds`."""
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    threads = torch.get_num_threads()
    cuda = device.type == "cuda"
    dtype = torch.bfloat16 if cuda else torch.float32
    fma, note = (0.0, "not measured (GPU)") if cuda else fma_peak(threads, seconds)
    return Machine(
        cpu=cpu_name(), threads=threads, cores=os.cpu_count() or 1, load=load, torch=torch.__version__,
        gpu=torch.cuda.get_device_name(device) if cuda else "", gemm_dtype=str(dtype).removeprefix("torch."),
        gemm=gemm_peak(device, dtype, seconds), fma=fma, fma_note=note, copy=copy_rate(device, seconds),
        instructions=instruction_sets(),
        gemm_bfloat16=0.0 if cuda or not has_bfloat16() else gemm_peak(device, torch.bfloat16, seconds),
    )  # fmt: skip


def instruction_sets() -> tuple[str, ...]:
    """Those of `INSTRUCTIONS` that Linux names for the first processor; empty elsewhere."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    flags = next((line.partition(":")[2].split() for line in lines if line.startswith(("flags", "Features"))), [])
    return tuple(name for name in INSTRUCTIONS if name in flags)


def has_bfloat16() -> bool:
    """Whether torch reports that this CPU multiplies in bfloat16; without that it is several times slower there."""
    return any(getattr(torch.cpu, name, bool)() for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))


def gemm_peak(device: torch.device, dtype: torch.dtype, seconds: float) -> float:
    """FLOP/s of torch.mm, the best of a few square sizes."""
    sizes = (2048, 4096, 8192) if device.type == "cuda" else (512, 1024, 2048)
    rates = []
    for n in sizes:
        a, b = torch.randn(2, n, n, device=device).to(dtype)
        out = torch.empty_like(a)
        best = _fastest(lambda a=a, b=b, out=out: torch.mm(a, b, out=out), device, seconds / len(sizes))
        rates.append(2 * n**3 / best)
    return max(rates)


def copy_rate(device: torch.device, seconds: float) -> float:
    """Bytes/s read and written by a copy far larger than the caches."""
    source = torch.ones(2**28 if device.type == "cuda" else 2**26, device=device)
    target = torch.empty_like(source)
    return 2 * source.nbytes / _fastest(lambda: target.copy_(source), device, seconds)


def fma_peak(threads: int, seconds: float) -> tuple[float, str]:
    """FLOP/s of independent multiply-adds in registers on all threads, or 0 and why it was not measured."""
    compiler = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        return 0.0, "not measured (no compiler)"
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(threads) as pool:
        source, library = Path(folder, "fma.cpp"), Path(folder, "fma.so")
        source.write_text(FMA_SOURCE)
        flags = ["-O3", "-march=native", "-ffp-contract=fast", "-shared", "-fPIC"]
        if subprocess.run([compiler, *flags, source, "-o", library], capture_output=True, check=False).returncode:
            return 0.0, f"not measured ({Path(compiler).name} failed)"
        functions = ctypes.CDLL(str(library))
        functions.fma_loop.restype, functions.fma_loop.argtypes = ctypes.c_double, [ctypes.c_long]
        functions.flops_per_step.restype = ctypes.c_long
        steps = 2_000_000
        best = _fastest(lambda: list(pool.map(functions.fma_loop, [steps] * threads)), torch.device("cpu"), seconds)
        return threads * steps * functions.flops_per_step() / best, ""


def _fastest(run: Callable[[], object], device: torch.device, seconds: float) -> float:
    """Seconds of the fastest of the calls that fit into `seconds`, at least three, after one to warm up."""
    times: list[float] = []
    stop = time.perf_counter() + seconds
    while len(times) < 4 or time.perf_counter() < stop:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        start = time.perf_counter()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - start)
    return min(times[1:])
