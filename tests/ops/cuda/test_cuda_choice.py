"""impl="cuda": when it may be chosen, what is said when it may not."""

from __future__ import annotations

import re
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from benchmarks.gpu import small_cases as gpu_small_cases
from tests.ops.test_ops import EXISTING
from xmae_fast import available, backend, explain, ops
from xmae_fast.backend import extensions, registry
from xmae_fast.ops.cases import Maker
from xmae_fast.ops.conv_stem.cases import CASES, make_inputs
from xmae_fast.ops.conv_stem.cuda import limits
from xmae_fast.ops.conv_stem.cuda.limits import Gpu
from xmae_fast.ops.conv_stem.params import flatten

pytest.importorskip("rich", reason="the benchmarks need rich (pip install xmae-fast[bench])")

from benchmarks.suites import ops as suite

TURING, AMPERE, ADA = Gpu((7, 5), 65_536), Gpu((8, 0), 166_912), Gpu((8, 9), 101_376)


def inputs_of(L: int = 40, S: int = 32, widths=(32, 64, 128)):
    return make_inputs({"B": 2, "L": L, "S": S, "training": False, "widths": widths}, Maker(0))


@pytest.mark.skipif(torch.version.cuda is not None, reason="this torch has CUDA")
def test_a_torch_without_cuda_says_so():
    usable, reason = available()["conv_stem"]["cuda"]
    assert not usable
    assert reason == f"this torch ({torch.__version__}) was built without CUDA"
    with pytest.raises(backend.BackendError, match="was asked for conv_stem, but this torch .* built without CUDA"):
        ops.conv_stem(**inputs_of(), impl="cuda")
    assert "cuda not: this torch" in explain("conv_stem")


def test_auto_passes_it_over_and_says_why(monkeypatch):
    for impl in ("triton", "cuda"):
        monkeypatch.setitem(registry.USABLE, ("conv_stem", impl), True)
    device = torch.device("cuda")
    assert backend.resolve("conv_stem", "auto", device, torch.bfloat16) == "triton"
    assert backend.resolve("conv_stem", "cuda", device, torch.bfloat16) == "cuda"
    monkeypatch.delitem(backend.NOT_AUTOMATIC, ("conv_stem", "cuda"))
    assert backend.resolve("conv_stem", "auto", device, torch.bfloat16) == "cuda"


def test_explain_names_what_auto_passes_over(monkeypatch):
    monkeypatch.setitem(registry.USABLE, ("conv_stem", "cuda"), True)
    text = explain("conv_stem", device="cuda")
    assert "cuda only if asked for: " + backend.NOT_AUTOMATIC["conv_stem", "cuda"] in text


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"x_gradients": True}, "give no gradient of x"),
        ({"compute": torch.float32}, "(by autocast, or a model of that dtype), not in torch.float32"),
        ({"compute": torch.float32, "training": True}, "not in torch.float32"),
        ({"L": 1025}, "at most 1,024 samples, not 1,025"),
        ({"L": 1000, "gpu": ADA}, "need 165,376 bytes of shared memory and this GPU has 101,376"),
        ({"L": 512, "gpu": ADA}, ""),
        ({"L": 1024, "gpu": AMPERE}, ""),
        ({"gpu": TURING}, "need a GPU of compute capability 8.0 or later, and this one has 7.5"),
        ({"gpu": TURING, "training": True}, "need a GPU of compute capability 8.0 or later, and this one has 7.5"),
        ({"training": True, "L": 100_000, "gpu": AMPERE}, ""),
        ({"gradients": True, "L": 1025}, ""),
        ({"training": True, "gpu": ADA}, "training needs 148,352 bytes of shared memory and this GPU has 101,376"),
        ({"gradients": True, "gpu": ADA}, "training needs 148,352 bytes of shared memory and this GPU has 101,376"),
        (
            {"training": True, "B": 2**15, "L": 2**14},
            "x has 1,073,741,824 values and the CUDA kernels count up to 2^30",
        ),
        ({"training": True, "B": 2**15, "L": 2**14 - 1}, ""),
        ({"training": True, "B": 1, "L": 2**20}, ""),
        ({"training": True, "B": 1, "L": 2**20 + 1}, "at most 1,048,576 samples, not 1,048,577"),
        ({}, ""),
    ],
)
def test_limits(changes, said):
    """The limits of a call with two stems that have the same x."""
    call = {"B": 3, "L": 200, "compute": torch.bfloat16, "training": False, "gradients": False, "gpu": None} | changes
    x = torch.zeros(1).expand(call.pop("B"), 1, call.pop("L"))
    why = limits.limit(inputs_of()["params"], (x, x), **call)
    assert said in why
    assert bool(why) == bool(said)


@pytest.mark.parametrize(
    ("inputs", "training", "said"),
    [
        ({"widths": (13, 22, 31)}, False, "made for widths (32, 64, 128), not (13, 22, 31)"),
        ({"widths": (13, 22, 31)}, True, "made for widths (32, 64, 128), not (13, 22, 31)"),
        ({"S": 129}, False, "at most 128 channels, not 129"),
        ({"S": 16}, False, ""),
        ({"S": 16}, True, "train stems that return 32 channels, not 16"),
    ],
)
def test_limits_of_the_weights(inputs, training, said):
    params = inputs_of(**inputs)["params"]
    why = limits.limit(params, (torch.zeros(2, 1, 40),), torch.bfloat16, training=training, gradients=False)
    assert said in why
    assert bool(why) == bool(said)


@pytest.mark.parametrize(
    ("gpu", "dtype", "training", "gradients", "said"),
    [
        (TURING, torch.bfloat16, False, False, "compute capability 8.0 or later, and this one has 7.5"),
        (ADA, torch.float16, False, False, "signals of 600 samples need 165,376 bytes"),
        (AMPERE, torch.float32, False, False, "compute in bfloat16 or float16"),
        (AMPERE, torch.bfloat16, True, True, "give no gradient of x"),
        (AMPERE, torch.bfloat16, False, True, "give no gradient of x"),
        (AMPERE, torch.float32, True, False, "compute in bfloat16 or float16"),
        (ADA, torch.bfloat16, True, False, f"training needs {limits.TRAIN_SHARED_BYTES:,} bytes of shared memory"),
    ],
)
def test_refusals_name_triton(monkeypatch, gpu, dtype, training, gradients, said):
    """The limits are asked as the operator asks them, of a GPU that is said to be there. Where "auto" may choose these
    kernels, it then chooses Triton's."""
    for impl in ("triton", "cuda"):
        monkeypatch.setitem(registry.USABLE, ("conv_stem", impl), True)
    monkeypatch.setattr(limits, "gpu_of", lambda device: gpu)
    inputs = make_inputs({"B": 1, "L": 600, "S": 32, "training": training}, Maker(0, dtype))
    inputs["x"].requires_grad_(gradients)

    def chosen(impl: str) -> str:
        return backend.resolve(
            "conv_stem", impl, torch.device("cuda"), dtype, (inputs["x"], inputs["params"], training)
        )

    with pytest.raises(backend.BackendError, match=re.escape(said)) as refused:
        chosen("cuda")
    assert str(refused.value).startswith("impl='cuda' was asked for conv_stem, but ")
    assert str(refused.value).endswith("; impl='triton' takes it")
    monkeypatch.delitem(backend.NOT_AUTOMATIC, ("conv_stem", "cuda"))
    assert chosen("auto") == chosen("auto, conv_stem=auto") == "triton"
    monkeypatch.setattr(limits, "limit", lambda *args, **kwargs: "")
    assert chosen("auto") == chosen("reference, conv_stem=cuda") == "cuda"
    assert chosen("cuda, conv_stem=reference") == "reference"


def test_a_library_without_the_training_kernels_is_too_old(monkeypatch):
    monkeypatch.setitem(extensions.EXTENSION_REASON, "cuda", "")
    ask = "_dispatch_has_kernel_for_dispatch_key"
    monkeypatch.setattr(torch._C, ask, lambda name, key: name.endswith("eval_cuda"))
    usable, reason = available()["conv_stem"]["cuda"]
    assert not usable
    assert "older than the Python code and lack xmae_fast::conv_stem_train_cuda" in reason


def test_dtypes_that_no_gpu_kernel_has_name_the_reference(monkeypatch):
    monkeypatch.setitem(registry.USABLE, ("conv_stem", "cuda"), True)
    with pytest.raises(backend.BackendError, match="got torch.float64; impl='reference' takes it"):
        backend.resolve("conv_stem", "cuda", torch.device("cuda"), torch.float64)


def test_generic_tests_leave_it_out():
    assert ("conv_stem", "triton") in EXISTING
    assert not set(EXISTING) & set(backend.NOT_AUTOMATIC)


def test_benchmarks_give_it_groups_of_its_own(monkeypatch):
    for impl in ("triton", "cuda"):
        monkeypatch.setitem(registry.USABLE, ("conv_stem", impl), True)
    device = torch.device("cuda")
    assert suite.usable_impls("conv_stem", device) == ["reference", "triton"]
    groups = list(suite._bfloat16_groups(CASES, SimpleNamespace(device=device, quick=False)))
    assert [group.title for group in groups] == [
        "conv_stem forward, bfloat16: B=64 L=1000 S=32 training=False",
        "conv_stem forward, bfloat16: B=1 L=1000 S=32 training=False",
    ]
    assert all([one.name for one in group.contestants] == ["reference", "triton", "cuda"] for group in groups)
    assert list(suite._bfloat16_groups(CASES, SimpleNamespace(device=torch.device("cpu"), quick=False))) == []


def test_a_group_in_bfloat16_is_checked_and_runs(monkeypatch):
    """Plain PyTorch stands in for the kernel."""
    monkeypatch.setattr(backend, "NOT_AUTOMATIC", {("conv_stem", "reference"): "pretended"})
    cases = replace(CASES, benches=CASES.tests[:1])
    (group,) = suite._bfloat16_groups(cases, SimpleNamespace(device=torch.device("cpu"), quick=False))
    (plain,) = group.contestants
    run = plain.build()
    assert plain.check(run)[0].error < 0.05
    assert run(0).dtype == torch.bfloat16


def test_what_the_sanitizers_watch(capsys):
    gpu_small_cases.run_evaluation("conv_stem", "reference", "cpu")
    with backend.use_cpu_bfloat16("none"):  # as on a processor that is not faster in bfloat16
        gpu_small_cases.run_evaluation("conv_stem", "cpu", "cpu")
    said = capsys.readouterr().out.splitlines()
    assert [line.endswith("done") for line in said] == [True] * 4 + [False] * (len(said) - 4)
    assert all(line.endswith("impl='reference' takes it") for line in said[4:] if "refused" in line)


def test_the_sanitizers_case_of_training(monkeypatch, capsys):
    gpu_small_cases.run_both_stems("reference", "cpu")
    monkeypatch.setattr(gpu_small_cases, "available", lambda: {"conv_stem": {"cuda": (False, "no GPU")}})
    gpu_small_cases.run_both_stems("cuda", "cpu")
    *done, last = capsys.readouterr().out.splitlines()
    assert len(done) == 4
    assert all(line.startswith("conv_stems, reference, ((") and line.endswith("done") for line in done)
    assert last == "conv_stems, cuda: not run: no GPU"


def test_fake():
    real = flatten(inputs_of(S=16)["params"])
    with FakeTensorMode() as mode:
        x, weights = torch.empty(3, 1, 200), [mode.from_tensor(weight) for weight in real]
        op = torch.ops.xmae_fast.conv_stem_eval_cuda
        assert op(x, weights, None, 1, torch.bfloat16).shape == (3, 200, 16)
        ids_keep = torch.zeros(3, 2, dtype=torch.int64)
        features = op(x, weights, ids_keep, 40, torch.float16)
        assert features.shape == (3, 80, 16)
        assert features.dtype == torch.float16
