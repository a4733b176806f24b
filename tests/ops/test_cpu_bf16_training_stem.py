"""conv_stem on the CPU in bfloat16 with gradients: under autocast, for float32 weights.

Errors are against float64, and at most twice those of plain PyTorch under the same autocast. Roundings to bfloat16 are
few and large, so one comparison of two errors is a matter of luck; root mean squares over several draws of weights
and signals are compared.
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.ops.instruction_sets import BF16_SETS, on_bf16
from xmae_fast import backend
from xmae_fast.ops import conv_stem
from xmae_fast.ops.cases import Maker
from xmae_fast.ops.conv_stem import reference
from xmae_fast.ops.conv_stem.cases import CASES
from xmae_fast.ops.conv_stem.params import TRAINED, flatten
from xmae_fast.testing import hostile_layout, named_tensors, relative_error
from xmae_fast.testing.numerics import _map_tensors, _run

DRAWS = 6
SMALL = {"B": 3, "L": 37, "S": 16, "widths": (22, 31, 45)}
SIZES = {
    "whole panels": {"B": 3, "L": 40, "S": 32, "widths": (32, 64, 96)},
    "wider than panels": {"B": 3, "L": 45, "S": 40, "widths": (33, 50, 65)},
    "narrow": {"B": 4, "L": 61, "S": 3, "widths": (22, 31, 45)},
    "long": {"B": 2, "L": 301, "S": 5, "widths": (22, 31, 45)},  # more rows than a chunk of the weights' gradient has
    "one sample of five": {"B": 1, "L": 5, "S": 3, "widths": (13, 22, 31)},
}
KERNELS = torch.ops.xmae_fast


@pytest.fixture(autouse=True)
def _built(need_impl):
    need_impl("conv_stem", "cpu")


def autocast():
    return torch.autocast("cpu", torch.bfloat16)


def ours(inputs):
    return CASES.call(inputs, "cpu")


def make(seed=0, training=True, **sizes):
    return CASES.make_inputs({**SMALL, **sizes, "training": training}, Maker(seed))


def copy_of(inputs):
    return _map_tensors(torch.clone, inputs)


def rms(values):
    return torch.tensor(values, dtype=torch.float64).square().mean().sqrt().item()


def errors(sizes, run, prepare=copy_of) -> dict[str, tuple[float, float]]:
    """Root mean square errors of `run` and of plain PyTorch, both under autocast, for every result and gradient."""
    found: dict[str, tuple[list[float], list[float]]] = {}
    for seed in range(DRAWS):
        inputs = make(seed, **sizes)
        exact = _map_tensors(lambda x: x.double() if x.is_floating_point() else x.clone(), inputs)
        want = _run(CASES, exact, CASES.oracle)
        with autocast():
            stock = _run(CASES, copy_of(inputs), CASES.oracle)
            got = _run(CASES, prepare(inputs), run)
        assert got.keys() == want.keys()
        for name in want:
            pair = found.setdefault(name, ([], []))
            pair[0].append(relative_error(got[name], want[name]))
            pair[1].append(relative_error(stock[name], want[name]))
    return {name: (rms(first), rms(second)) for name, (first, second) in found.items()}


def check(sizes, run, prepare=copy_of) -> None:
    """Raise AssertionError unless errors are at most twice those of plain PyTorch, and on average not
    noticeably larger."""
    found = errors(sizes, run, prepare)
    bad = {name: pair for name, pair in found.items() if not pair[0] <= 2 * pair[1] + 1e-6}
    assert not bad, f"errors, and those of plain PyTorch: {bad}"
    ratios = [got / stock for got, stock in found.values() if stock > 1e-6]  # of what has been rounded
    assert sum(ratios) / len(ratios) < 1.2, f"errors are on average {sum(ratios) / len(ratios):.2f} of plain PyTorch's"


@pytest.mark.parametrize("training", [True, False], ids=["batch", "running"])
@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES.keys())
@pytest.mark.parametrize("name", BF16_SETS)
def test_errors(name, sizes, training):
    if training and sizes["B"] == 1:
        sizes = {**sizes, "B": 40}  # BatchNorm of few values is chaotic
    with on_bf16(name):
        check({**sizes, "training": training}, ours)


@pytest.mark.parametrize("signal", ["constants", "dead lead", "offset"])
def test_signals_that_hardly_vary(signal):
    with on_bf16(backend.cpu_bfloat16() or "plain"):
        check({"B": 6, "L": 60, "signal": signal}, ours)


def test_hostile_layout():
    with on_bf16(backend.cpu_bfloat16() or "plain"):
        check({}, ours, hostile_layout)


def tap_off_by_one(inputs):
    layer = inputs["params"].smooth1
    moved = layer._replace(weight=layer.weight.roll(1, -1))
    return ours({**inputs, "params": inputs["params"]._replace(smooth1=moved)})


def pair_swapped(inputs):
    layer = inputs["params"].smooth1
    order = torch.arange(layer.weight.shape[1])
    order[:2] = torch.tensor([1, 0])
    moved = layer._replace(weight=layer.weight[:, order])
    return ours({**inputs, "params": inputs["params"]._replace(smooth1=moved)})


class _Changed(torch.autograd.Function):
    """Its argument, whose gradient is changed."""

    @staticmethod
    def forward(ctx, x, change):
        ctx.change = change
        return x.view_as(x)

    @staticmethod
    def backward(ctx, grad):  # pyright: ignore[reportIncompatibleMethodOverride]
        return ctx.change(grad), None


def with_gradient_of_a_weight(change):
    def run(inputs):
        layer = inputs["params"].down1
        changed = layer._replace(weight=_Changed.apply(layer.weight, change))
        return ours({**inputs, "params": inputs["params"]._replace(down1=changed)})

    return run


WRONG = {
    "tap off by one": tap_off_by_one,
    "pair swapped": pair_swapped,
    "gradient of a tap off by one": with_gradient_of_a_weight(lambda grad: grad.roll(1, -1)),
    "gradient without one of three samples": with_gradient_of_a_weight(lambda grad: grad * (2 / 3)),
}


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG.keys())
def test_wrong_kernels_are_rejected(wrong):
    with on_bf16(backend.cpu_bfloat16() or "plain"):
        check({}, ours)
        with pytest.raises(AssertionError, match="errors, and those of plain PyTorch"):
            check({}, wrong)


def test_accumulation_in_bfloat16_is_rejected(monkeypatch):
    exact = F.conv1d

    def step_by_step(x: Tensor, weight: Tensor, stride: int = 1, padding: int = 0) -> Tensor:
        if x.dtype == torch.float64:
            return exact(x, weight, stride=stride, padding=padding)
        x, weight = F.pad(x, (padding, padding)).bfloat16(), weight.bfloat16()
        rows = (x.shape[-1] - weight.shape[-1]) // stride + 1
        total = torch.zeros(x.shape[0], weight.shape[0], rows, dtype=torch.bfloat16)
        for channel in range(weight.shape[1]):
            for tap in range(weight.shape[2]):
                shifted = x[:, channel, None, tap : tap + stride * (rows - 1) + 1 : stride]
                total = total + shifted * weight[:, channel, tap, None]
        return total

    def wrong(inputs):
        with monkeypatch.context() as patch:
            patch.setattr(F, "conv1d", step_by_step)
            return CASES.call(inputs, "reference")

    with pytest.raises(AssertionError, match="errors, and those of plain PyTorch|on average"):
        check({}, wrong)


def results(inputs, frozen=()):
    """Features, gradients and running statistics of a call under autocast."""
    leaves = {key: x for key, x in named_tensors(inputs) if x.is_floating_point() and "running" not in key}
    wanted = {key: x.requires_grad_() for key, x in leaves.items() if key not in frozen}
    with autocast():
        out = conv_stem(**inputs, impl="cpu")
    grads = torch.autograd.grad(out, list(wanted.values()), torch.randn(out.shape, generator=_seeded()).to(out))
    buffers = {key: x for key, x in named_tensors(inputs) if "running" in key}
    return {"features": out.detach(), **dict(zip(wanted, grads, strict=True)), **buffers}


def _seeded():
    return torch.Generator().manual_seed(1)


@pytest.mark.parametrize("training", [True, False], ids=["batch", "running"])
@pytest.mark.parametrize("name", BF16_SETS)
def test_same_bits_for_any_number_of_threads(name, training):
    before = torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            with on_bf16(name):
                found.append(results(make(training=training, B=5, L=70)))
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        assert all(torch.equal(other[key], x) for key, x in found[0].items())


def test_dtypes():
    with on_bf16(backend.cpu_bfloat16() or "plain"):
        found = results(make())
    assert found.pop("features").dtype == torch.bfloat16
    assert {x.dtype for x in found.values()} == {torch.float32}


def test_running_statistics_and_counts_are_updated():
    before, exact, inputs = (make(B=8, L=200) for _ in range(3))
    exact = _map_tensors(lambda x: x.double() if x.is_floating_point() else x, exact)
    reference.conv_stem(**exact)
    with on_bf16(backend.cpu_bfloat16() or "plain"), autocast():
        conv_stem(**inputs, impl="cpu")
        counts = [x.item() for name, x in named_tensors(inputs) if name.endswith("num_batches_tracked")]
        assert counts == [1] * 30
    old, want, got = (dict(named_tensors(x)) for x in (before, exact, inputs))
    for name in (name for name in old if "running" in name):
        step = (want[name] - old[name]).norm()  # of which the error is a small part; without an update it would be all
        assert (got[name] - want[name]).norm() < 0.02 * step, name


def test_frozen_weights():
    with on_bf16(backend.cpu_bfloat16() or "plain"):
        every = results(make())
        frozen = {key for key in every if key.startswith("params") and "running" not in key}
        of_x = results(make(), frozen)
        of_weights = results(make(), {"x"})
    assert torch.equal(every["x"], of_x["x"])
    assert "x" not in of_weights
    assert all(torch.equal(every[key], of_weights[key]) for key in frozen)


def test_float32_without_autocast_stays():
    found = []
    for name in (backend.cpu_bfloat16() or "plain", "none"):
        with on_bf16(name):
            inputs = make()
            inputs["x"].requires_grad_()
            out = conv_stem(**inputs, impl="cpu")
            found.append((out, *torch.autograd.grad(out.square().sum(), inputs["x"])))
    assert found[0][0].dtype == torch.float32
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_autocast_without_kernels_is_float32():
    with backend.use_cpu_bfloat16("none"):
        assert results(make())["features"].dtype == torch.float32


def test_bfloat16_model_trains_in_plain_pytorch():
    inputs = _map_tensors(lambda x: x.bfloat16() if x.is_floating_point() else x, make())
    inputs["x"].requires_grad_()
    with on_bf16(backend.cpu_bfloat16() or "plain"):
        with pytest.raises(backend.BackendError, match="without gradients"):
            conv_stem(**inputs, impl="cpu")
        assert torch.equal(conv_stem(**copy_of(inputs)), reference.conv_stem(**copy_of(inputs)))


@pytest.mark.parametrize("batch_statistics", [True, False])
def test_opcheck(batch_statistics):
    inputs = make(B=2, L=9)
    x, weights = inputs["x"], flatten(inputs["params"])
    with on_bf16(backend.cpu_bfloat16() or "plain"):
        torch.library.opcheck(KERNELS.conv_stem_train_bf16.default, (x, weights, batch_statistics))
        features, statistics, kept = KERNELS.conv_stem_train_bf16(x, weights, batch_statistics)
        for want_x in (True, False):
            arguments = (features, x, weights[:TRAINED], statistics, kept, batch_statistics, want_x)
            torch.library.opcheck(KERNELS.conv_stem_backward_bf16.default, arguments)


def test_kernels_refuse_other_dtypes():
    inputs = make(B=2, L=9)
    x, weights = inputs["x"], flatten(inputs["params"])
    with on_bf16(backend.cpu_bfloat16() or "plain"):
        with pytest.raises(RuntimeError, match="float32"):
            KERNELS.conv_stem_train_bf16(x.bfloat16(), weights, True)
        features, statistics, kept = KERNELS.conv_stem_train_bf16(x, weights, True)
        with pytest.raises(RuntimeError, match="bfloat16"):
            KERNELS.conv_stem_backward_bf16(features.float(), x, weights[:TRAINED], statistics, kept, True, True)
        with pytest.raises(RuntimeError, match="19 kept activations"):
            KERNELS.conv_stem_backward_bf16(features, x, weights[:TRAINED], statistics, kept[1:], True, True)
