"""The errors that csrc/cpu/base/vec.h states for its elementwise functions, on every instruction set of this processor.

vec.h is compiled as the kernels are, with setup.py's flags, and compared with float64 over all of float32's range.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import subprocess
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from filelock import FileLock

from tests.ops.instruction_sets import SETS

ROOT = Path(__file__).resolve().parents[2]
BASE = ROOT / "csrc" / "cpu" / "base"
COMPILER = shutil.which("g++") or shutil.which("c++")
FLAGS = ["-O3", "-std=c++20", "-fvisibility=hidden", "-Wall", "-fPIC", "-shared"]
EPS = 2.0**-24

pytestmark = pytest.mark.skipif(COMPILER is None, reason="no C++ compiler here")


@cache
def library(name: str) -> ctypes.CDLL:
    """The functions of one instruction set, compiled once: the library stays in build/ until a source changes."""
    source = (BASE / f"kernels_{name}.cpp").read_text()
    for was, becomes in (("cpu/base/kernels.h", "cpu/base/common.h"), ("cpu/base/kernels.inc", "cpu_vec.inc")):
        assert source.count(f'#include "{was}"') == 1
        source = source.replace(f'#include "{was}"', f'#include "{becomes}"')
    command = [COMPILER, *FLAGS, f"-I{ROOT / 'csrc'}", f"-I{Path(__file__).parent}", "-x", "c++", "-"]
    version = subprocess.run([COMPILER, "--version"], capture_output=True, check=True).stdout
    state = hashlib.sha256(version + "\0".join([*command, source]).encode())
    for path in (BASE / "vec.h", BASE / "common.h", ROOT / "csrc" / "isa.h", Path(__file__).with_name("cpu_vec.inc")):
        state.update(path.read_bytes())
    folder = ROOT / "build" / "tests"
    folder.mkdir(parents=True, exist_ok=True)
    built = folder / f"cpu_vec_{name}-{state.hexdigest()[:16]}.so"
    with FileLock(built.with_suffix(".lock")):
        if not built.exists():
            made = built.with_suffix(f".{os.getpid()}")
            subprocess.run([*command, "-o", str(made)], input=source.encode(), check=True)
            made.replace(built)
    return ctypes.CDLL(str(built))


@pytest.fixture(scope="module", params=SETS)
def probe(request) -> Callable[[str, np.ndarray], np.ndarray]:
    """Applies a function of vec.h, by name, to float32 numbers; returns float32."""
    if not library("baseline").probe_runs(request.param.encode()):
        pytest.skip(f"this processor cannot run {request.param}")
    functions = library(request.param)

    def call(name: str, x: np.ndarray) -> np.ndarray:
        padded = np.pad(x.astype(np.float32), (0, -len(x) % 16))
        out = np.empty_like(padded)
        pointers = [ctypes.c_void_p(array.ctypes.data) for array in (padded, out)]
        getattr(functions, f"probe_{name}")(*pointers, ctypes.c_int64(len(padded)))
        return out[: len(x)]

    return call


@cache
def numbers() -> np.ndarray:
    """Finite float32 numbers: half a million over all bit patterns, denormal numbers among them; as many where the
    functions vary; and those where errors are largest, of every seventh float32 number that was tried.
    """
    bits = np.arange(0, 2**32, 8209, dtype=np.uint64).astype(np.uint32).view(np.float32)
    edges = [0.0, -0.0, 1e-45, -1e-45, 88.37, -87.33, 3.4028235e38, -3.4028235e38]
    worst = [15.623587608, -71.029586792, -16.649854660, -16.685289383, 16.635528564, 0.0219913814, 4.1453204155]
    lines = [np.linspace(-end, end, 200_001) for end in (1, 12, 110)]
    return np.concatenate([bits[np.isfinite(bits)], edges, worst, *lines]).astype(np.float32)


def units_in_the_last_place(want: np.ndarray) -> np.ndarray:
    """Of float32 numbers as large as these."""
    return np.ldexp(1.0, np.maximum(np.frexp(np.abs(want))[1] - 24, -149))


def sigmoid(x: np.ndarray) -> np.ndarray:
    return torch.sigmoid(torch.from_numpy(x)).numpy()


def phi(x: np.ndarray) -> np.ndarray:
    """The normal distribution function, with small relative errors on both sides."""
    return 0.5 * torch.erfc(torch.from_numpy(-x * np.sqrt(0.5))).numpy()


def states(*sentences: str) -> None:
    """The comments of vec.h say so: a test asserts what is stated, no more and no less."""
    comments = " ".join(line.strip().lstrip("/ ") for line in (BASE / "vec.h").read_text().splitlines())
    for sentence in sentences:
        assert sentence in comments, sentence


def test_exp(probe):
    states(
        "error at most 1.4 units in the last place for -87.33 <= x <= 88.37", "1.18e-38 or 2.41e38, never 0 or infinity"
    )
    x = numbers().astype(np.float64)
    got = probe("exp", x).astype(np.float64)
    inside = (x >= np.float32(-87.33)) & (x <= np.float32(88.37))
    want = np.exp(x[inside])
    assert (np.abs(got[inside] - want) <= 1.4 * units_in_the_last_place(want)).all()
    assert ((got > 0) & (got < np.inf)).all()
    limits = probe("exp", np.array([-87.34, -104, -3e38, -np.inf, 88.38, 89, 3e38, np.inf]))
    np.testing.assert_allclose(limits, np.repeat([1.18e-38, 2.41e38], 4), rtol=5e-3)
    assert len(set(limits[:4])) == len(set(limits[4:])) == 1


def test_exp_of_nan(probe):
    states("A NaN whose lowest nine bits are 0, as arithmetic makes it, stays NaN.")
    nans = np.arange(0x7F800200, 0x80000000, 0x200, dtype=np.uint32)
    assert np.isnan(probe("exp", np.concatenate([nans, nans | 0x80000000]).view(np.float32))).all()
    with np.errstate(invalid="ignore"):
        made = np.float32(np.inf) - np.float32(np.inf)
    assert np.isnan(probe("silu", np.array([made, -made, np.nan]))).all()


def test_sigmoid_and_silu(probe):
    states(
        "error at most 3.4 units in the last place for x >= -87.3.",
        "sigmoid is at most 4.2e-39 from the true value, and silu at most 4.2e-39 |x|",
    )
    x = numbers().astype(np.float64)
    inside = x >= -87.3
    for name, want, factor in (("sigmoid", sigmoid(x), 1.0), ("silu", x * sigmoid(x), np.abs(x))):
        error = np.abs(probe(name, x) - want)
        assert (error[inside] <= 3.4 * units_in_the_last_place(want[inside])).all()
        assert (error[~inside] <= (4.2e-39 * factor * np.ones_like(x))[~inside]).all()


def test_gradient_of_silu(probe):
    states("The derivative of silu: absolute error at most 1.1e-6 + 4.2e-39 |x|.")
    x = numbers().astype(np.float64)
    s = sigmoid(x)
    error = np.abs(probe("silu_gradient", x) - s * (1 + x * (1 - s)))
    assert (error <= 1.1e-6 + 4.2e-39 * np.abs(x)).all()


def test_normal_tail(probe):
    states("The relative error is at most (10 + 2 x^2) eps,", "plus an absolute error of 1.2e-38.")
    x = np.unique(np.abs(numbers())).astype(np.float64)
    want = phi(-x)
    for sign in (1, -1):
        error = np.abs(probe("normal_tail", sign * x) - want)
        with np.errstate(over="ignore"):
            assert (error <= np.nan_to_num((10 + 2 * x**2) * EPS * want) + 1.2e-38).all()


def test_gelu(probe):
    states(
        "x Phi(x), the form of GELU by erf: absolute error at most 2.5e-7 + 5e-39 |x|;",
        "for x < 0 also at most (11 + 2 x^2) eps of the value, plus 1.2e-38 |x| + 1.5e-45. For infinities it is NaN.",
    )
    x = numbers().astype(np.float64)
    want = x * phi(x)
    error = np.abs(probe("gelu", x) - want)
    assert (error <= 2.5e-7 + 5e-39 * np.abs(x)).all()
    below = x < 0
    bound = (11 + 2 * x**2) * EPS * np.abs(want) + 1.2e-38 * np.abs(x) + 1.5e-45
    assert (error[below] <= bound[below]).all()
    assert np.isnan(probe("gelu", np.array([np.inf, -np.inf]))).all()


def test_gradient_of_gelu(probe):
    states("its derivative Phi(x) + x phi(x): absolute error at most 3.2e-7 + 5e-39 |x|.")
    x = numbers().astype(np.float64)
    want = phi(x) + x * np.exp(-x * x / 2) / np.sqrt(2 * np.pi)
    assert (np.abs(probe("gelu_gradient", x) - want) <= 3.2e-7 + 5e-39 * np.abs(x)).all()
