"""The stem's training kernels on the host, every thread of every CTA of every launch, against the oracle.

The source is what nvcc compiles, and it is called through the Python code that a GPU's is called through."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch

from tests.ops.cuda.stem_host import ROOT
from tests.ops.cuda.train_host import HostTrain
from xmae_fast.ops.cases import Case, Maker
from xmae_fast.ops.conv_stem import operators
from xmae_fast.ops.conv_stem.cases import CASES, make_inputs
from xmae_fast.ops.conv_stem.cuda import limits
from xmae_fast.ops.conv_stem.cuda import schema as cuda_schema
from xmae_fast.ops.conv_stem.params import TRAINED, flatten
from xmae_fast.testing import check_op, hostile_layout

TRAINING = replace(CASES, no_grad=(*CASES.no_grad, "x"))
DTYPES = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])


def inputs_of(B: int, L: int, training: bool = True, seed: int = 0, dtype: torch.dtype = torch.float32):
    return make_inputs({"B": B, "L": L, "S": 32, "training": training}, Maker(seed, dtype))


def step(stems: list[dict], dtype: torch.dtype = torch.bfloat16) -> list[torch.Tensor]:
    """Features of each stem, gradients of all weights, running statistics."""
    weights = [weight for stem in stems for weight in flatten(stem["params"])[:TRAINED]]
    for weight in weights:
        weight.requires_grad_()
    params = [stem["params"] for stem in stems]
    features = operators.train([stem["x"] for stem in stems], params, stems[0]["training"], dtype, "cuda")
    cotangents = [Maker(9).normal(*x.shape).to(dtype) for x in features]
    gradients = torch.autograd.grad(features, weights, cotangents)
    running = [x.clone() for stem in params for x in flatten(stem)[TRAINED:]]
    return [*(x.detach() for x in features), *gradients, *running]


@DTYPES
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("B", "L"), [(3, 5), (2, 37), (1, 64), (40, 13), (3, 171)])
def test_matches_the_oracle(host_train: HostTrain, B, L, training, dtype):
    """Features, gradients and statistics, within the budget of every operator: twice the plain path's own error in this
    dtype, plus rounding."""
    case = Case(f"B{B}-L{L}", {"B": B, "L": L, "S": 32, "training": training})

    def run(inputs):
        return operators.train((inputs["x"],), (inputs["params"],), inputs["training"], dtype, "cuda")[0]

    with host_train.registered():
        check_op(TRAINING, case, run, dtype=dtype, prepare=hostile_layout)


# Gradients of zeros are beyond float16's range.
@pytest.mark.parametrize(
    ("signal", "dtype"), [("constant", torch.float16), ("step", torch.float16), ("zeros", torch.bfloat16)]
)
def test_signals_that_hardly_vary(host_train: HostTrain, signal, dtype):
    case = Case(signal, {"B": 3, "L": 60, "S": 32, "training": True, "signal": signal})

    def run(inputs):
        return operators.train((inputs["x"],), (inputs["params"],), True, dtype, "cuda")[0]

    with host_train.registered():
        check_op(TRAINING, case, run, dtype=dtype)


@pytest.mark.parametrize("training", [True, False])
def test_several_tiles_for_a_cta(host_train, training):
    """More rows than all CTAs take at a time, here those for one multiprocessor: sums go on from tile to tile."""
    case = Case("tiles", {"B": 9, "L": 301, "S": 32, "training": training})

    def run(inputs):
        return operators.train((inputs["x"],), (inputs["params"],), training, torch.bfloat16, "cuda")[0]

    with host_train.registered(multiprocessors=1):
        check_op(TRAINING, case, run, dtype=torch.bfloat16)
        convolutions = [one.blocks for one in host_train.launched if "Shape" in one.kernel]
    assert set(convolutions) <= {1, 2, 4}  # with up to four parts of the input channels beside each other


@pytest.mark.parametrize("sizes", [((2, 37), (3, 20)), ((1, 12), (30, 9)), ((5, 40), (1, 8))])
@pytest.mark.parametrize("training", [True, False])
def test_two_stems_in_one_set_of_launches(host_train, sizes, training):
    """Each stem gives what it gives alone, but for the order of sums, which depends on how CTAs are dealt to stems."""

    def stems():
        return [inputs_of(*size, training, seed) for seed, size in enumerate(sizes)]

    with host_train.registered():
        together = step(stems())
        launches = len(host_train.launched)
        each = [step([stem]) for stem in stems()]
    assert launches == 22
    alone = [*(one[0] for one in each), *(x for one in each for x in one[1 : TRAINED + 1])]
    alone += [x for one in each for x in one[TRAINED + 1 :]]
    assert len(alone) == len(together)
    scale = max(x.float().abs().max() for x in each[0][1 : TRAINED + 1])
    for got, want in zip(together, alone, strict=True):
        torch.testing.assert_close(got.float(), want.float(), rtol=0.02, atol=0.002 * scale.item())


@pytest.mark.parametrize(("order", "late", "backwards"), [(1, 0, 0), (2, 1, 1), (5, 1, 0)])
def test_any_order_of_threads_copies_and_ctas_gives_the_same_bits(host_train, order, late, backwards):
    def stems():
        return [inputs_of(2, 150), inputs_of(3, 20, seed=1)]

    with host_train.registered():
        want = step(stems())
    with host_train.registered(order=order, late=late, backwards=backwards):
        got = step(stems())
    assert all(torch.equal(x, y) for x, y in zip(got, want, strict=True))


@pytest.mark.parametrize("barrier", [0, 1, 2, 3, 4, 5])
def test_a_missing_barrier_is_found(host_train, barrier):
    """A barrier is left out in every CTA of every launch; the run stops in the first launch that needs it."""
    with (
        host_train.registered(without=barrier),
        pytest.raises(AssertionError, match=r"races, the first: thread|deadlock"),
    ):
        step([inputs_of(3, 150)])


@pytest.mark.parametrize("tanh", [1, -1, 2])
def test_approximate_tanh_stays_within_the_budget(host_train, tanh):
    case = Case("tanh", {"B": 2, "L": 100, "S": 32, "training": True})

    def run(inputs):
        return operators.train((inputs["x"],), (inputs["params"],), True, torch.bfloat16, "cuda")[0]

    with host_train.registered(tanh=tanh):
        check_op(TRAINING, case, run, dtype=torch.bfloat16)


@pytest.mark.parametrize("offset", [0.0, 30.0])
def test_statistics_from_lag_products(host_train, offset):
    """Of the first unit, the skip path and x, for which no launch goes over outputs: against outputs in float64."""
    stem = inputs_of(5, 61)
    x, params = (stem["x"] + offset).bfloat16(), stem["params"]
    weights = torch.cat([weight.detach().flatten() for weight in flatten(params)[:TRAINED]])[None]
    plan = cuda_schema.layout()
    with host_train.registered():
        _, norms, _, _ = cuda_schema.TRAIN(x.flatten(), weights, [5, 61], True, torch.bfloat16)
    skip = plan.layers[17].channel
    at = 0
    for conv in [*params.enc1[0].branches, params.skip]:
        first = at if conv is not params.skip else skip
        rounded = conv.weight.detach().bfloat16().double()
        out = torch.nn.functional.conv1d(x.double(), rounded, padding=rounded.shape[-1] // 2)
        mean, std = out.mean((0, 2)), out.var((0, 2), unbiased=False).sqrt()
        channels = slice(first, first + len(mean))
        torch.testing.assert_close(norms[0, 0, channels].double(), mean, rtol=1e-5, atol=1e-5 * std.max().item())
        unbiased = out.var((0, 2))
        torch.testing.assert_close(norms[0, 2, channels].double(), unbiased, rtol=2e-4, atol=1e-6)
        at += len(mean)
    torch.testing.assert_close(norms[0, 0, -1].double(), x.double().mean(), rtol=1e-5, atol=1e-6)


def test_sizes_are_as_the_python_side_says(host_train):
    assert host_train.library.packed_numbers() == cuda_schema.PACKED_NUMBERS
    for sizes in ([3, 37], [2, 1000, 5, 201], [1, 1]):
        assert cuda_schema.kept_numbers(sizes) == host_train.kept_numbers(sizes)


def test_shared_memory_leaves_room_for_the_stated_occupancy(host_train):
    with host_train.registered():
        step([inputs_of(2, 8), inputs_of(2, 8)])
        backward = host_train.launched
        operators.train((inputs_of(2, 8)["x"],), (inputs_of(2, 8)["params"],), True, torch.bfloat16, "cuda")
    launched = [*host_train.launched, *backward]
    assert len(launched) == 43
    for one in launched:
        # A multiprocessor of an H200 has 228 KB for CTAs, each of which the system takes 1 KB more for.
        assert one.together * (one.shared_bytes + 1024) <= 228 * 1024, one
    assert max(one.shared_bytes for one in launched) == limits.TRAIN_SHARED_BYTES
    shapes = {re.sub(r".*<|>.*", "", one.kernel) for one in launched if "Shape" in one.kernel}
    assert len(shapes) == 26
    page = (ROOT / "xmae_fast" / "ops" / "conv_stem" / "cuda" / "TRAINING.md").read_text()
    assert f"{limits.TRAIN_SHARED_BYTES:,} bytes" in page
    assert f"{len(host_train.launched)} forward, {len(backward)} backward" in page
