"""waveform_loss' kernels: waveform, loss and gradients, in one operator and in two, under autocast, with any mask."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.ops.interpreted.checks import CONFIGS, check, each, poisoned_memory
from xmae_fast import ops
from xmae_fast.backend import BackendError
from xmae_fast.ops.cases import Maker, cases
from xmae_fast.ops.waveform_loss import reference
from xmae_fast.ops.waveform_loss.cases import CASES
from xmae_fast.testing import check_op, relative_error

# A patch, a token and a batch that are wider than one program takes; more than one slice of tokens.
BIG = cases({"B": 3, "N": 25, "Nk": 5, "P": 70, "D": 130}, {"B": 38, "N": 7, "Nk": 2, "P": 3, "D": 9})
raw = torch.ops.xmae_fast


def _by_parts(functions, x, **impl):
    waveform = functions.decode_waveform(x["tokens"], x["weight"], x["bias"], **impl)
    return waveform, functions.masked_mse(waveform, x["target"], x["mask"], **impl)


BY_PARTS = replace(CASES, call=lambda x, impl: _by_parts(ops, x, impl=impl), oracle=lambda x: _by_parts(reference, x))
both = pytest.mark.parametrize("subject", [CASES, BY_PARTS], ids=["fused", "parts"])


@each(CASES, BIG)
@both
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_against_the_oracle(subject, case, dtype):
    check(subject, case, dtype=dtype)


@each(CASES, BIG)
@both
@pytest.mark.parametrize("config", CONFIGS[1:])
def test_other_configurations(subject, case, config):
    check(subject, case, config=config)


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.float16, torch.float32])
@both
def test_masks_of_any_dtype_and_value(subject, dtype):
    """Integers and floating-point weights too; the float64 oracle takes the mask as it is."""

    def inputs(sizes, make):
        x = CASES.make_inputs(sizes, make)
        weights = torch.rand(x["mask"].shape, generator=make.generator) * 3 - 0.5
        x["mask"] = weights.to(dtype) if dtype != torch.bool else weights > 0.5
        return x

    case = CASES.tests[0]
    with poisoned_memory():
        check_op(replace(subject, make_inputs=inputs), case, lambda x: subject.call(x, "triton"))


@both
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_views_of_one_recording(subject, dtype):
    """Target and mask in the forms that callers have: a channel of [B, C, L], one mask for all samples, [B, L]."""
    x = CASES.make_inputs(CASES.tests[0].sizes, Maker(5, dtype))
    B, _, L = x["target"].shape
    x["target"] = torch.randn(B, 2, L).to(dtype)[:, 1:]
    x["mask"] = x["mask"][:1].expand(B, 1, L)
    got, want = (subject.call(x, impl) for impl in ("triton", "reference"))
    got, want = (y if isinstance(y, tuple) else (y,) for y in (got, want))
    for ours, theirs in zip(got, want, strict=True):
        assert ours.dtype == theirs.dtype
        assert ours.shape == theirs.shape
        assert relative_error(ours, theirs) <= 8 * torch.finfo(dtype).eps
    flat = ops.masked_mse(x["target"][:, 0], x["target"] + 1, x["mask"][:, 0], impl="triton")
    assert relative_error(flat, torch.ones(())) <= 8 * torch.finfo(dtype).eps


@both
@pytest.mark.parametrize("case", CASES.tests[:3], ids=lambda case: case.name)
def test_autocast(subject, case):
    """float32 tensors, products in float16: as close to float64 as plain PyTorch under the same autocast, times two."""

    def run(x, impl):
        leaves = [x[name] for name in ("tokens", "weight", "bias")]
        for leaf in leaves:
            leaf.requires_grad_()
        out = subject.oracle(x) if impl == "oracle" else subject.call(x, impl)
        out = out if isinstance(out, tuple) else (out,)
        assert all(y.dtype == out[-1].dtype for y in out)
        return [*out, *torch.autograd.grad(out[-1], leaves)]

    for seed in range(3):
        x = CASES.make_inputs(case.sizes, Maker(seed))
        with torch.autocast("cpu", torch.float16):
            plain = run({name: y.clone() for name, y in x.items()}, "reference")
            with poisoned_memory():
                got = run({name: y.clone() for name, y in x.items()}, "triton")
        exact = run({name: y.double() for name, y in x.items()}, "oracle")
        for ours, theirs, want in zip(got, plain, exact, strict=True):
            assert ours.dtype == theirs.dtype
            bound = 2 * relative_error(theirs, want) + 4 * torch.finfo(torch.float16).eps
            assert relative_error(ours, want) <= bound


def test_float16_loss_of_a_large_batch():
    """sum(mask) is beyond float16 here; plain PyTorch gives 0."""
    prediction = torch.full((70, 1000), 2.0, dtype=torch.float16, requires_grad=True)
    loss = ops.masked_mse(prediction, torch.zeros_like(prediction), torch.ones_like(prediction), impl="triton")
    assert loss.dtype == torch.float16
    assert loss.item() == 4.0
    loss.backward(torch.tensor(1000.0, dtype=torch.float16))
    assert torch.allclose(prediction.grad.float(), torch.tensor(4000.0 / 70000), rtol=2**-10)


def test_the_gradient_of_the_loss_is_read_on_the_device():
    x = CASES.make_inputs(CASES.tests[0].sizes, Maker(6))
    leaves = [x[name].requires_grad_() for name in ("tokens", "weight", "bias")]
    for subject in (CASES, BY_PARTS):
        loss = subject.call(x, "triton")
        loss = loss[-1] if isinstance(loss, tuple) else loss
        once = torch.autograd.grad(loss, leaves, torch.tensor(1.0), retain_graph=True)
        more = torch.autograd.grad(loss, leaves, torch.tensor(-8.0), retain_graph=True)
        again = torch.autograd.grad(loss, leaves, torch.tensor(1.0))
        for a, b, c in zip(once, more, again, strict=True):
            assert torch.equal(a * -8, b)
            assert torch.equal(a, c)


@pytest.mark.parametrize("wanted", ["tokens", "weight", "bias"])
def test_only_what_is_wanted(wanted):
    x = CASES.make_inputs(CASES.tests[0].sizes, Maker(7))
    x[wanted].requires_grad_()
    with poisoned_memory():
        (got,) = torch.autograd.grad(ops.waveform_loss(**x, impl="triton"), x[wanted])
    (want,) = torch.autograd.grad(ops.waveform_loss(**x, impl="reference"), x[wanted])
    assert relative_error(got, want) <= 1e-5


@pytest.mark.parametrize("name", ["target", "mask"])
def test_no_gradients_of_target_and_mask(name):
    x = CASES.make_inputs(CASES.tests[0].sizes, Maker())
    x[name].requires_grad_()
    with pytest.raises(BackendError, match=f"impl='triton' .* no gradient of {name}"):
        ops.waveform_loss(**x, impl="triton")
    with torch.no_grad():
        ops.waveform_loss(**x, impl="triton")


def test_opcheck():
    x = CASES.make_inputs(CASES.tests[-2].sizes, Maker(8))
    tokens, weight, bias, target, mask = x.values()
    scale, half = torch.tensor(2.0), torch.float16
    calls = {
        "decode_waveform": [(tokens, weight, bias, half)],
        "decode_waveform_backward": [
            (target, None, None, tokens, weight, half, half, True, True),
            (target, scale, scale, tokens, weight, torch.float32, torch.float32, True, False),
            (target, scale, scale, tokens, weight, torch.float32, torch.float32, False, True),
        ],
        "masked_mse": [(target[:, 0], target[:, 0] + 1, mask[:, 0], half)],
        "masked_mse_backward": [(scale, scale, target[:, 0], target[:, 0] + 1, mask[:, 0])],
        "waveform_loss": [(*x.values(), half, torch.float32, want) for want in (True, False)],
    }
    for name, argument_lists in calls.items():
        for args in argument_lists:
            torch.library.opcheck(
                getattr(raw, f"{name}_triton").default, args, test_utils=("test_schema", "test_faketensor")
            )
