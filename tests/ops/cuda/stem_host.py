"""csrc/cuda/conv_stem/stem_*.h compiled for the host (see host/) and called as a function of tensors."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from filelock import FileLock  # torch needs it
from torch import Tensor

from xmae_fast.ops.conv_stem import StemParams
from xmae_fast.ops.conv_stem.params import flatten

ROOT = Path(__file__).parents[3]
VARIANTS = (256, 512, 1024)  # the most samples that each instantiation of the kernel takes
COMPILER = shutil.which("g++") or shutil.which("c++")
KINDS = ("load", "store", "ldmatrix")


class Banks(NamedTuple):
    """Accesses to shared memory of one kind and size by one layer (-1: before the first)."""

    layer: int
    kind: str
    size: int
    instructions: int
    wavefronts: int
    ideal: int


@functools.cache
def host_library(name: str) -> ctypes.CDLL:
    """host/<name>.cpp, compiled once: the library stays in build/ until a source or the compiler changes."""
    host, csrc = Path(__file__).parent / "host", ROOT / "csrc"
    command = [
        COMPILER, "-std=c++20", "-O2", "-U_FORTIFY_SOURCE",  # which takes a jump between stacks for an error
        "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", f"-I{csrc}", f"-I{host}", str(host / f"{name}.cpp"),
    ]  # fmt: skip
    version = subprocess.run([COMPILER, "--version"], capture_output=True, check=True).stdout
    state = hashlib.sha256(version + "\0".join(command).encode())
    for path in sorted([*host.iterdir(), *(csrc / "cuda").rglob("*.*")]):
        state.update(path.name.encode() + b"\0" + path.read_bytes())
    folder = ROOT / "build" / "tests"
    folder.mkdir(parents=True, exist_ok=True)
    library = folder / f"{name}-{state.hexdigest()[:16]}.so"
    with FileLock(library.with_suffix(".lock")):
        if not library.exists():
            made = library.with_suffix(f".{os.getpid()}")
            subprocess.run([*command, "-o", str(made)], check=True)
            made.replace(library)
    return ctypes.CDLL(str(library))


class HostStem:
    """The kernel on the host."""

    def __init__(self) -> None:
        self.library = host_library("stem_host")
        self.library.stem_host.restype = ctypes.c_char_p

    def __call__(
        self,
        x: Tensor,
        params: StemParams,
        dtype: torch.dtype = torch.bfloat16,
        *,
        ids_keep: Tensor | None = None,
        patch_len: int = 1,
        variant: int | None = None,
        blocks: int = 1,
        keep1_in_global: bool = False,
        order: int = 0,
        late: bool = False,
        tanh: int = 0,
        count_banks: bool = False,
        without: int = -1,
    ) -> Tensor:
        """Features [B, L, S] in `dtype`. Raises AssertionError where threads race or wait for ever.

        Args:
            variant: of `VARIANTS`; None: the smallest that fits.
            blocks: CTAs, which take samples in turn.
            order, late, tanh, without: see `Options` in host/cta.h.
        """
        x = x.contiguous()
        B, _, source_length = x.shape
        patches = 0 if ids_keep is None else ids_keep.shape[1]
        L = source_length if ids_keep is None else patches * patch_len
        variant = variant or next(size for size in VARIANTS if size >= L)
        weights = [weight.detach().float().contiguous() for weight in flatten(params)]
        pointers = (ctypes.c_void_p * len(weights))(*(weight.data_ptr() for weight in weights))
        S = params.head.weight.shape[0]
        margin = 64  # numbers before and after the features that must stay as they are
        memory = torch.full((B * L * S + 2 * margin,), 7.0, dtype=dtype)
        message = self.library.stem_host(
            pointers, ctypes.c_void_p(x.data_ptr()), int(x.dtype == torch.float32),
            ctypes.c_void_p(0 if ids_keep is None else ids_keep.contiguous().data_ptr()), patches, patch_len,
            ctypes.c_int64(source_length), B, L, S, ctypes.c_void_p(memory[margin:].data_ptr()),
            int(dtype == torch.float16), variant, blocks, int(keep1_in_global), order, int(late), tanh,
            int(count_banks), without,
        )  # fmt: skip
        assert message == b"", message.decode()
        assert (memory[:margin] == 7).all(), "written before the features"
        assert (memory[margin + B * L * S :] == 7).all(), "written after the features"
        return memory[margin : margin + B * L * S].view(B, L, S)

    def barriers(self) -> int:
        """How many barriers a thread came to in the last run, in its last CTA."""
        return self.library.barrier_count()

    def warp_mma(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """One mma.m16n8k16 onto zeros: bits of bf16 pairs a [32, 4], b [32, 2] (uint32) -> c [32, 4] float32."""
        a, b, c = np.ascontiguousarray(a, np.uint32), np.ascontiguousarray(b, np.uint32), np.zeros((32, 4), np.float32)
        self.library.warp_mma(*(ctypes.c_void_p(x.ctypes.data) for x in (a, b, c)))
        return c

    def banks(self) -> list[Banks]:
        """Accesses to shared memory in the last run, which counted them."""
        rows = np.zeros((1000, 6), np.int64)
        count = self.library.bank_counts(rows.ctypes.data_as(ctypes.c_void_p), len(rows))
        return [Banks(int(row[0]), KINDS[row[1]], *map(int, row[2:])) for row in rows[:count]]

    def records(self, S: int = 32) -> np.ndarray:
        """The stream's pieces: [layer, tap, part, piece, offset, bytes]; piece 0: weights."""
        rows = np.zeros((208, 6), np.int64)
        return rows[: self.library.stream_records(S, rows.ctypes.data_as(ctypes.c_void_p))]

    def rounded(self, x: np.ndarray, half: bool) -> tuple[np.ndarray, np.ndarray]:
        """Bits of float32 numbers rounded to 16 bits, and their values."""
        bits, back = np.zeros(x.shape, np.uint16), np.zeros(x.shape, np.float32)
        pointers = [ctypes.c_void_p(a.ctypes.data) for a in (x, bits, back)]
        self.library.round_numbers(pointers[0], ctypes.c_int64(x.size), int(half), *pointers[1:])
        return bits, back

    def shared_bytes(self, variant: int, keep1_in_global: bool) -> int:
        return self.library.shared_bytes(variant, int(keep1_in_global))
