"""Feed-forward kernels against the oracle."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from tests.ops.interpreted.checks import CONFIGS, check, each, poisoned_memory
from xmae_fast.ops import feed_forward
from xmae_fast.ops._dropout import draw_seed
from xmae_fast.ops.cases import Maker, cases
from xmae_fast.ops.feed_forward.cases import CASES
from xmae_fast.testing import check_op, hostile_layout, relative_error

SMALL = {"B": 3, "N": 7, "D": 9, "F": 13}
RAGGED = cases({"B": 5, "N": 29, "D": 70, "F": 40}, {"B": 2, "N": 3, "D": 300, "F": 20})


@each(CASES, RAGGED)
def test_float32(case):
    check(CASES, case)


@each(CASES)
def test_float16(case):
    check(CASES, case, dtype=torch.float16)


@pytest.mark.parametrize("config", CONFIGS[1:])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_other_configurations(dtype, config):
    for case in (*cases(SMALL), RAGGED[0]):
        check(CASES, case, dtype=dtype, config=config)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("sizes", [SMALL, {"B": 1, "N": 40, "D": 130, "F": 16}], ids=str)
def test_dropout_replays_the_mask_of_its_seed(sizes, dtype):
    p = 0.3

    def oracle(inputs):
        x, w = inputs["x"], inputs["params"]
        torch.manual_seed(11)
        mask = torch.ops.xmae_fast.dropout_mask(draw_seed(p), x.shape[0] * x.shape[1], x.shape[2], p)
        h = F.gelu(F.linear(F.layer_norm(x, x.shape[-1:], w.norm_weight, w.norm_bias), w.up_weight, w.up_bias))
        return x + mask.view(x.shape).to(x.dtype) * F.linear(h, w.down_weight, w.down_bias)

    def run(inputs):
        torch.manual_seed(11)
        return CASES.call(inputs | {"dropout_p": p}, "triton")

    with poisoned_memory():
        check_op(replace(CASES, oracle=oracle), cases(sizes)[0], run, dtype=dtype, prepare=hostile_layout)


@pytest.mark.parametrize("p", [2**-32, 0.5, 0.9])
def test_every_probability_runs(p):
    inputs = CASES.make_inputs(SMALL, Maker())
    torch.manual_seed(3)
    got = feed_forward(**inputs, dropout_p=p, impl="triton")
    torch.manual_seed(3)
    torch.testing.assert_close(got, feed_forward(**inputs, dropout_p=p, impl="cpu"))


def gradients(inputs, impl, wanted, **options):
    """Result and gradients of the wanted leaves, by name."""
    leaves = {"x": inputs["x"], **inputs["params"]._asdict()}
    leaves = {name: leaf.detach().clone().requires_grad_(name in wanted) for name, leaf in leaves.items()}
    params = type(inputs["params"])(**{name: leaf for name, leaf in leaves.items() if name != "x"})
    with torch.autocast("cpu", dtype=torch.float16, enabled=options.pop("autocast", False)):
        out = feed_forward(leaves["x"], params, impl=impl, **options)
    cotangent = Maker(4).normal(*out.shape).to(out.dtype)
    found = torch.autograd.grad(out, [leaves[name] for name in wanted], cotangent)
    return {"out": out.detach(), **dict(zip(wanted, found, strict=True))}


EVERYTHING = ("x", "norm_weight", "norm_bias", "up_weight", "up_bias", "down_weight", "down_bias")


@pytest.mark.parametrize("x_dtype", [torch.float32, torch.float16])
def test_autocast(x_dtype):
    """Results and gradients typed as the plain path types them, and at most twice as far from float64."""
    inputs = CASES.make_inputs({"B": 2, "N": 20, "D": 40, "F": 80}, Maker())
    inputs["x"] = inputs["x"].to(x_dtype)
    exact = {"x": inputs["x"].double(), "params": type(inputs["params"])(*(w.double() for w in inputs["params"]))}
    want = gradients(exact, "reference", EVERYTHING)
    plain = gradients(inputs, "reference", EVERYTHING, autocast=True)
    with poisoned_memory():
        got = gradients(inputs, "triton", EVERYTHING, autocast=True)
    for name, ours in got.items():
        assert ours.dtype == plain[name].dtype, name
        bound = 2 * relative_error(plain[name], want[name]) + 4 * torch.finfo(torch.float16).eps
        assert relative_error(ours, want[name]) <= bound, name


@pytest.mark.parametrize("wanted", [("x",), ("norm_bias",), ("down_bias",), ("up_weight",), ("up_bias", "down_weight")])
def test_only_what_is_asked_for(wanted):
    inputs = CASES.make_inputs(SMALL, Maker())
    everything = gradients(inputs, "triton", EVERYTHING)
    with poisoned_memory():
        some = gradients(inputs, "triton", wanted)
    assert all(torch.equal(some[name], everything[name]) for name in some)


def test_two_runs_are_equal():
    inputs = CASES.make_inputs(RAGGED[0].sizes, Maker())
    first, second = (gradients(inputs, "triton", EVERYTHING) for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("compute", [torch.float32, torch.float16])
@pytest.mark.parametrize("p", [0.0, 0.2])
def test_operators_keep_their_contract(p, compute):
    inputs = CASES.make_inputs(SMALL, Maker())
    x, weights = inputs["x"], list(inputs["params"])
    seed = draw_seed(p)
    ops = torch.ops.xmae_fast
    utils = ("test_schema", "test_faketensor")
    torch.library.opcheck(ops.feed_forward_eval_triton, (x, weights, seed, p, compute), test_utils=utils)
    torch.library.opcheck(ops.feed_forward_train_triton, (x, weights, seed, p, compute), test_utils=utils)
    out, stats, packed = ops.feed_forward_train_triton(x, weights, seed, p, compute)
    for needs in (0b1111111, 0b0000001):
        args = (out, x, weights, seed, p, compute, stats, packed, needs)
        torch.library.opcheck(ops.feed_forward_backward_triton, args, test_utils=utils)


@pytest.mark.parametrize(("dtype", "widest"), [(torch.float32, 512), (torch.float16, 1024)])
def test_beyond_the_widest_row(dtype, widest):
    inputs = CASES.make_inputs({"B": 1, "N": 1, "D": widest + 1, "F": 1}, Maker(dtype=dtype))
    with pytest.raises(RuntimeError, match=f"D = {widest + 1} is beyond the {widest} columns"):
        feed_forward(**inputs, impl="triton")
