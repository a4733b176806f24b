"""Kernels that cannot be made for a GPU: the next configuration, then plain PyTorch. The failures are pretended."""

from __future__ import annotations

import re
import subprocess
import warnings

import pytest
import torch
from triton.runtime.errors import OutOfResources

from xmae_fast import backend
from xmae_fast.backend import registry, resolving
from xmae_fast.backend.errors import is_kernel_failure
from xmae_fast.ops import _compiling, _launch
from xmae_fast.ops.cases import Case, Maker, OpCases, all_cases
from xmae_fast.testing import check_op
from xmae_fast.testing.numerics import named_tensors

CASES = all_cases()
TOO_LARGE = OutOfResources(300_000, 232_448, "shared memory")
START = _launch._start


@pytest.fixture(autouse=True)
def a_gpu(monkeypatch):
    """The CPU as if it were a GPU that Triton serves; what is found out in a test is forgotten after it."""
    monkeypatch.setitem(resolving._FASTEST_FIRST, "cpu", ("triton",))
    monkeypatch.setattr(registry, "_LEFT_OUT", {})
    monkeypatch.setattr(_launch, "_impossible", {})
    monkeypatch.setattr(_compiling, "_checked", set())
    monkeypatch.setattr(_compiling, "_applies", lambda tensors: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    for key, usable in list(registry.USABLE.items()):
        monkeypatch.setitem(registry.USABLE, key, usable)
    monkeypatch.setattr(_compiling, "compile_for", lambda launch, device: None)


@pytest.fixture
def launched(monkeypatch):
    """The launches that happen, as `described`."""
    names: list[str] = []
    _launch.trace_launches(names.append)
    yield names
    _launch.trace_launches(None)


def run(cases: OpCases, impl: str = "auto", case: int = 0):
    """Values and gradients of a case against the oracle."""
    return check_op(cases, cases.tests[case], lambda inputs: cases.call(inputs, impl), draws=1)


def refuse(monkeypatch, where: object, name: str, refused=lambda text: True) -> None:
    """Let launches (or compilations) fail whose description is refused."""

    def start(kernel, programs, args, options):
        if refused(_launch.described(kernel, options)):
            raise TOO_LARGE
        START(kernel, programs, args, options)

    def compile_for(launch, device):
        options = {**launch.constants, "num_warps": launch.num_warps, "num_stages": launch.num_stages}
        if refused(_launch.described(launch.kernel, options)):
            raise TOO_LARGE

    monkeypatch.setattr(where, name, start if name == "_start" else compile_for)


@pytest.mark.parametrize("op", CASES)
def test_forward_that_cannot_be_made_runs_in_plain_pytorch(op, monkeypatch):
    refuse(monkeypatch, _launch, "_start")
    with pytest.warns(UserWarning, match=f"^{op} runs in plain PyTorch from now on: no config.*shared memory") as told:
        [run(CASES[op]) for _ in range(2)]
    assert len(told) == 1
    why = backend.available()[op]["triton"]
    assert not why.usable
    assert "shared memory" in why.reason
    assert backend.resolve(op, "auto", torch.device("cpu")) == "reference"
    with pytest.raises(backend.BackendError, match=rf"impl='triton' was asked for {op}, but no configuration"):
        run(CASES[op], "triton")


@pytest.mark.parametrize("op", [op for op, cases in CASES.items() if cases.differentiable])
def test_backward_that_cannot_be_made_is_known_in_the_forward(op, monkeypatch):
    refuse(monkeypatch, _compiling, "compile_for")
    with pytest.warns(UserWarning, match=f"^{op} runs in plain PyTorch from now on: no configuration") as told:
        run(CASES[op])
    assert len(told) == 1
    assert not backend.is_usable(op, "triton")


@pytest.mark.parametrize("op", [op for op, cases in CASES.items() if cases.differentiable])
def test_all_kernels_of_a_backward_are_compiled_ahead(op, launched, monkeypatch):
    """And only once for the same shapes."""
    compiled: list[str] = []
    monkeypatch.setattr(_compiling, "compile_for", lambda launch, device: compiled.append(launch.kernel.__name__))
    cases = CASES[op]
    for case in cases.tests[:2]:
        compiled.clear()
        _compiling._checked.clear()  # of a case with the same shapes
        of_backward = {re.match(r"\w+", name)[0] for name in backward_launches(cases, case, launched)}
        assert set(compiled) == of_backward, case.name
        compiled.clear()
        backward_launches(cases, case, launched)
        assert not compiled


def backward_launches(cases: OpCases, case: Case, launched: list[str]) -> list[str]:
    """What the backward of a case launches."""
    inputs = cases.make_inputs(case.sizes, Maker())
    for name, x in named_tensors(inputs):
        x.requires_grad_(x.is_floating_point() and name.rsplit(".", 1)[-1] not in cases.no_grad)
    outputs = cases.call(inputs, "auto")
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    launched.clear()
    torch.autograd.backward([x.sum() for x in outputs if x.requires_grad])
    return launched


def test_the_next_configuration_runs(launched, monkeypatch):
    """One that the GPU cannot run is tried once, and every kernel whose first one fails says so once."""
    first: dict[str, str] = {}

    def refused(text: str) -> bool:
        name = re.match(r"\w+", text)[0]
        return first.setdefault(name, text) == text

    refuse(monkeypatch, _launch, "_start", refused)
    cases = CASES["feed_forward"]
    with pytest.warns(UserWarning, match=r"shared memory.*; _\w+\(.*\) runs in its place") as told:
        run(cases)
    assert backend.is_usable("feed_forward", "triton")
    assert len(told) == len({str(one.message) for one in told}) == len(first)
    launched.clear()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run(cases)
    assert not set(launched) & set(first.values())


def test_a_configuration_that_fails_ahead_is_not_launched(launched, monkeypatch):
    first: dict[str, str] = {}
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))  # there all kernels have several
    refuse(
        monkeypatch, _compiling, "compile_for",
        lambda text: first.setdefault(re.match(r"\w+", text)[0], text) == text,
    )  # fmt: skip
    with pytest.warns(UserWarning, match="runs in its place"):
        run(CASES["feed_forward"])
    assert first
    assert not set(map(parts_of, launched)) & set(map(parts_of, first.values()))


def parts_of(description: str) -> frozenset[str]:
    """A description without the order of its parts."""
    return frozenset(re.findall(r"\w+=[\w.]+|^\w+", description))


def test_looking_ahead_may_fail_and_says_so(monkeypatch):
    """Then the backward compiles its kernels itself; it is said once for the same shapes."""

    def compile_for(launch, device):
        raise AttributeError("'JITFunction' object has no attribute 'warmup'")

    monkeypatch.setattr(_compiling, "compile_for", compile_for)
    with pytest.warns(
        UserWarning, match="^the kernels of feed_forward's backward are compiled when it runs: Attr"
    ) as told:
        [run(CASES["feed_forward"]) for _ in range(2)]
    assert len(told) == 1
    assert backend.is_usable("feed_forward", "triton")


def test_other_errors_are_errors(monkeypatch):
    """Where a kernel has run and failed, memory may be damaged: nothing is tried again."""

    def start(kernel, programs, args, options):
        raise RuntimeError("Triton Error [CUDA]: an illegal memory access was encountered")

    monkeypatch.setattr(_launch, "_start", start)
    with pytest.raises(RuntimeError, match="illegal memory access"):
        run(CASES["feed_forward"])
    assert backend.is_usable("feed_forward", "triton")


def test_what_counts_as_a_kernel_that_cannot_be_made():
    class MLIRCompilationError(Exception):
        """As older Tritons name it."""

    made = [
        TOO_LARGE, MLIRCompilationError(), subprocess.CalledProcessError(1, ["gcc"]),
        RuntimeError("PassManager::run failed"),
        RuntimeError("Failed to find C compiler. Please specify via CC environment variable."),
        RuntimeError("Triton Error [CUDA]: device kernel image is invalid"),
        AssertionError("libcuda.so cannot found!"),
    ]  # fmt: skip
    assert all(map(is_kernel_failure, made))
    others = [RuntimeError("Triton Error [CUDA]: out of memory"), ValueError("PassManager::run failed"), KeyError("x")]
    assert not any(map(is_kernel_failure, others))
