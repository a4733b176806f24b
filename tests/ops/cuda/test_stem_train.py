"""The Python side of training the stem by CUDA C++ kernels: operators, autograd, choice; a double computes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from tests.ops.cuda.stem_double import WEIGHT_SHAPES, StemDouble
from xmae_fast import backend
from xmae_fast.ops import conv_stem as conv_stem_of
from xmae_fast.ops import conv_stems
from xmae_fast.ops.cases import Case, Maker
from xmae_fast.ops.conv_stem import _cuda_limit, operators
from xmae_fast.ops.conv_stem.cases import CASES, make_inputs
from xmae_fast.ops.conv_stem.cuda import schema as cuda_schema
from xmae_fast.ops.conv_stem.params import TRAINED, flatten
from xmae_fast.testing import check_op, hostile_layout

TRAINING = replace(CASES, no_grad=(*CASES.no_grad, "x"))


@pytest.fixture
def double(need_impl):
    need_impl("conv_stem", "cpu")
    with StemDouble().registered() as double:
        yield double


def inputs_of(B: int, L: int, training: bool = True, seed: int = 0, dtype: torch.dtype = torch.float32):
    return make_inputs({"B": B, "L": L, "S": 32, "training": training}, Maker(seed, dtype))


def train(inputs, compute: torch.dtype = torch.float32):
    return operators.train((inputs["x"],), (inputs["params"],), inputs["training"], compute, "cuda")[0]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("B", "L"), [(2, 40), (5, 37), (1, 37)])
def test_values_gradients_and_running_statistics(double, B, L, training):
    case = Case(f"B{B}-L{L}", {"B": B, "L": L, "S": 32, "training": training})
    check_op(TRAINING, case, train, prepare=hostile_layout)
    assert double.calls == ["train", "backward"]


@pytest.mark.parametrize("training", [True, False])
def test_two_stems_are_each_alone(double, training):
    stems = [inputs_of(3, 37, training, 1), inputs_of(2, 20, training, 2)]
    weights = [flatten(stem["params"])[:TRAINED] for stem in stems]
    for some in weights:
        for weight in some:
            weight.requires_grad_()

    def results(together: bool) -> list[torch.Tensor]:
        xs, params = [stem["x"] for stem in stems], [stem["params"] for stem in stems]
        if together:
            features = operators.train(xs, params, training, torch.bfloat16, "cuda")
        else:
            features = [train(stem, torch.bfloat16) for stem in stems]
        assert [x.shape for x in features] == [(3, 32, 37), (2, 32, 20)]
        total = sum(x.float().square().sum() + x[..., 0].sum() for x in features)
        return [*features, *torch.autograd.grad(total, weights[0] + weights[1])]

    assert all(torch.equal(x, y) for x, y in zip(results(True), results(False), strict=True))
    assert double.calls == ["train", "backward", "train", "train", "backward", "backward"]


def test_running_statistics_of_two_stems(double):
    stems = [inputs_of(3, 37, seed=1), inputs_of(2, 20, seed=2)]
    again = [inputs_of(3, 37, seed=1), inputs_of(2, 20, seed=2)]
    params = [stem["params"] for stem in stems]
    operators.train([stem["x"] for stem in stems], params, True, torch.float32, "cuda")
    for stem in again:
        CASES.call(stem, "reference")
    for got, want in zip(params, [stem["params"] for stem in again], strict=True):
        for x, y in zip(flatten(got)[TRAINED:], flatten(want)[TRAINED:], strict=True):
            torch.testing.assert_close(x, y, rtol=1e-5, atol=1e-6)
        assert got.head.num_batches_tracked == 1


@pytest.mark.parametrize("training", [True, False])
def test_what_the_kernels_get(double, training):
    inputs = inputs_of(2, 20, training, dtype=torch.float64)
    train(inputs, torch.float16)
    assert torch.equal(double.x, inputs["x"].float().flatten())
    weights = flatten(inputs["params"])[: TRAINED if training else None]
    assert torch.equal(double.flat, torch.cat([weight.flatten() for weight in weights]).float()[None])
    train(inputs_of(2, 20, training, dtype=torch.float16), torch.float16)
    assert double.x.dtype == torch.float16


def test_gradients_are_in_the_weights_dtypes(double):
    inputs = inputs_of(2, 20, dtype=torch.bfloat16)
    weights = flatten(inputs["params"])[:TRAINED]
    weights[3].data = weights[3].data.float()
    for weight in weights:
        weight.requires_grad_()
    inputs["x"].requires_grad_()
    features = train(inputs, torch.bfloat16)
    assert features.dtype == torch.bfloat16
    *gradients, of_x = torch.autograd.grad(features.sum(), [*weights, inputs["x"]], allow_unused=True)
    assert of_x is None
    assert [x.dtype for x in gradients] == [weight.dtype for weight in weights]
    assert {x.dtype for x in gradients} == {torch.bfloat16, torch.float32}


def test_without_gradients_nothing_is_kept(double):
    inputs = inputs_of(2, 20)
    with torch.no_grad():
        features = train(inputs)
    assert not features.requires_grad
    assert double.calls == ["train"]


@pytest.mark.parametrize(
    ("training", "gradients", "calls"),
    [(True, True, ["train", "backward"]), (False, True, ["train", "backward"]), (True, False, ["train"])],
)
def test_routing_of_two_stems(double, monkeypatch, training, gradients, calls):
    """Both stems go into one set of launches, under autocast, with a GPU that is said to be there."""
    monkeypatch.setattr(backend, "resolve", lambda *args, **kwargs: "cuda")
    stems = [inputs_of(3, 37, training, 1), inputs_of(2, 20, training, 2)]
    weight = stems[0]["params"].head.weight
    weight.requires_grad_(gradients)
    stems[1]["params"].head.gamma.requires_grad_(gradients)
    with torch.autocast("cpu", torch.bfloat16):
        features = conv_stems(
            tuple(stem["x"] for stem in stems), tuple(stem["params"] for stem in stems), training=training, impl="cuda"
        )
    assert [x.dtype for x in features] == [torch.bfloat16] * 2
    if gradients:
        sum(x.float().sum() for x in features).backward()
        assert weight.grad.dtype == torch.float32
    assert double.calls == calls


def test_one_stem_and_one_value_per_channel(double, monkeypatch):
    monkeypatch.setattr(backend, "resolve", lambda *args, **kwargs: "cuda")
    inputs = inputs_of(2, 20, dtype=torch.bfloat16)
    assert conv_stem_of(**inputs, impl="cuda").shape == (2, 32, 20)
    with pytest.raises(ValueError, match="more than one value per channel"):
        conv_stem_of(**inputs_of(1, 4, dtype=torch.bfloat16), impl="cuda")
    assert double.calls == ["train"]


def test_a_gradient_of_x_is_refused():
    stem = inputs_of(3, 37, dtype=torch.bfloat16)
    assert _cuda_limit(stem["x"], stem["params"], True) == ""
    stem["x"].requires_grad_()
    assert "give no gradient of x" in _cuda_limit(stem["x"], stem["params"], True)


@pytest.mark.parametrize("batch_statistics", [False, True])
def test_operators(double, batch_statistics):
    """Schemas, and shapes and dtypes of fakes, against the double's, which are counted layer by layer."""
    which = ("test_schema", "test_faketensor")
    stems = [inputs_of(3, 37), inputs_of(2, 18)]
    x = torch.cat([stem["x"].flatten() for stem in stems])
    used = TRAINED if batch_statistics else None
    flat = torch.stack([torch.cat([w.flatten() for w in flatten(stem["params"])[:used]]) for stem in stems])
    arguments = (x, flat, [3, 37, 2, 18], batch_statistics, torch.bfloat16)
    torch.library.opcheck(cuda_schema.TRAIN, arguments, test_utils=which)
    _, norms, kept, moments = cuda_schema.TRAIN(*arguments)
    grads = [torch.ones(3, 37, 32, dtype=torch.bfloat16), torch.ones(2, 18, 32, dtype=torch.bfloat16)]
    arguments = (grads, x, flat, norms, kept, moments, [3, 37, 2, 18], batch_statistics)
    torch.library.opcheck(cuda_schema.BACKWARD, arguments, test_utils=which)


def test_fakes():
    """The fakes at the published sizes; the numbers of `kept` were counted by hand."""
    numbers = sum(shape.numel() for shape in WEIGHT_SHAPES[:TRAINED])
    with FakeTensorMode():
        sizes = [512, 1000, 512, 200]
        rows = 512 * 1200
        x, flat = torch.empty(rows), torch.empty(2, numbers)
        features, norms, kept, moments = cuda_schema.TRAIN(x, flat, sizes, True, torch.float16)
        assert (features.shape, features.dtype) == ((rows, 32), torch.float16)
        channels = 4 * 32 + 5 * 64 + 5 * 128 + 64 + 32 + 32 + 32
        assert (norms.shape, norms.dtype) == ((2, 5, channels + 1), torch.float32)
        packed = 2 * cuda_schema.PACKED_NUMBERS
        assert (kept.shape, kept.dtype) == ((rows * (3 + 5 + 5 + 1 + 2 + 1 + 1) * 32 + packed,), torch.float16)
        assert (moments.shape, moments.dtype) == ((2, 36), torch.float32)
        grads = [torch.empty(512, L, 32, dtype=torch.float16) for L in (1000, 200)]
        gradients = cuda_schema.BACKWARD(grads, x, flat, norms, kept, moments, sizes, True)
        assert (gradients.shape, gradients.dtype) == ((2, numbers), torch.float32)
