"""Attention kernels: every case, dropout against its mask, autocast, what is asked for, bit-equal repeats."""

from __future__ import annotations

import contextlib
from dataclasses import replace

import pytest
import torch

from tests.ops.interpreted.checks import check, each, poisoned_memory
from tests.ops.test_cpu_blocks_dropout import lag_attention_with_mask
from xmae_fast import backend
from xmae_fast.ops import lag_attention
from xmae_fast.ops._gradients import bits
from xmae_fast.ops._launch import forced_config
from xmae_fast.ops.cases import Maker, cases
from xmae_fast.ops.lag_attention import reference
from xmae_fast.ops.lag_attention.cases import CASES
from xmae_fast.testing import check_op, hostile_layout, named_tensors

OPS = torch.ops.xmae_fast
FEW = cases(
    {"B": 3, "Nq": 7, "Nk": 4, "D": 9, "H": 3, "bias": "table"},  # no power of two anywhere
    {"B": 3, "Nq": 4, "Nk": "self", "D": 20, "H": 2, "bias": "window"},
)
MANY = cases({"B": 1, "Nq": 70, "Nk": 68, "D": 16, "H": 1, "bias": "table"})  # several tiles of queries, keys and lags
ODD = cases({"B": 2, "Nq": 0, "Nk": 0, "D": 8, "H": 2, "bias": "none"})


@each(CASES, FEW + ODD)
def test_float32(case):
    check(CASES, case)


@each(CASES, FEW + MANY)
def test_float16(case):
    check(CASES, case, dtype=torch.float16)


@pytest.mark.parametrize(("config", "dtype"), [(1, torch.float32), (1, torch.float16), (2, torch.float16)])
@pytest.mark.parametrize("case", FEW, ids=lambda case: case.name)
def test_other_configurations(case, config, dtype):
    check(CASES, case, config=config, dtype=dtype)


def under_autocast(inputs):
    """The oracle; in float32 it runs as under autocast."""
    plain = inputs["x"].dtype == torch.float64
    with contextlib.nullcontext() if plain else torch.autocast("cpu", dtype=torch.float16):
        return CASES.oracle(inputs)


@pytest.mark.parametrize("case", FEW, ids=lambda case: case.name)
def test_autocast(case):
    def run(inputs):
        with torch.autocast("cpu", dtype=torch.float16):
            out = CASES.call(inputs, "triton")
        assert out.dtype == torch.float32, "the residual stream keeps its dtype"
        return out

    with poisoned_memory():
        check_op(replace(CASES, oracle=under_autocast), case, run, seed=3, prepare=hostile_layout)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("case", FEW, ids=lambda case: case.name)
def test_dropout_against_the_formula_with_its_mask(case, dtype):
    if not backend.available()["lag_attention"]["cpu"].usable:
        pytest.skip("the mask to compare with is that of the C++ kernels")
    p = 0.3

    def run(inputs):
        torch.manual_seed(11)
        return CASES.call(inputs | {"dropout_p": p}, "triton")

    with poisoned_memory():
        oracle = replace(CASES, oracle=lambda inputs: lag_attention_with_mask(inputs, p))
        check_op(oracle, case, run, dtype=dtype, prepare=hostile_layout)


def leaves_of(case, seed=0):
    inputs = CASES.make_inputs(case.sizes, Maker(seed))
    leaves = {name: x for name, x in named_tensors(inputs) if x.is_floating_point()}
    return inputs, {name: x for name, x in leaves.items() if inputs["key_value"] is not None or "norm_kv" not in name}


def gradients_of(case, names):
    inputs, leaves = leaves_of(case)
    for name in names:
        leaves[name].requires_grad_()
    torch.manual_seed(1)
    lag_attention(**inputs, dropout_p=0.2, impl="triton").sin().sum().backward()
    return {name: leaves[name].grad for name in leaves}


@pytest.mark.parametrize("case", FEW, ids=lambda case: case.name)
def test_gradients_asked_for_one_by_one_are_those_of_all(case):
    names = list(leaves_of(case)[1])
    with poisoned_memory():
        want, again = gradients_of(case, names), gradients_of(case, names)
        assert all(torch.equal(want[name], again[name]) for name in names), "runs repeat bit for bit"
        for name in names:
            got = gradients_of(case, [name])
            assert torch.equal(got.pop(name), want[name]), name
            assert all(gradient is None for gradient in got.values())


def test_positions_of_every_sample():
    inputs = CASES.make_inputs(FEW[0].sizes, Maker())
    pos = {"query_pos": torch.tensor([[6, 0, 0, 2, 5, 1, 1], [0, 1, 2, 3, 4, 5, 6], [3, 3, 3, 3, 3, 3, 3]])}
    cases_with_pos = replace(
        CASES,
        make_inputs=lambda sizes, make: CASES.make_inputs(sizes, make) | pos,
        oracle=lambda inputs: reference.lag_attention(
            inputs["x"], inputs["key_value"], inputs["params"], inputs["num_heads"], inputs["bias_table"],
            inputs["query_pos"], inputs["key_pos"], dropout_p=0.0,
        ),
    )  # fmt: skip
    assert inputs["key_pos"].shape[0] > 1
    check(cases_with_pos, FEW[0])


@pytest.mark.parametrize("case", FEW, ids=lambda case: case.name)
def test_evaluation_is_the_training_forward(case):
    inputs, leaves = leaves_of(case)
    with poisoned_memory(), torch.no_grad():
        got = lag_attention(**inputs, impl="triton")
    leaves["x"].requires_grad_()
    assert torch.equal(got, lag_attention(**inputs, impl="triton"))


@pytest.mark.parametrize("case", FEW, ids=lambda case: case.name)
def test_schemas_and_fakes(case):
    inputs, _ = leaves_of(case)
    x, key_value, params, table = inputs["x"], inputs["key_value"], inputs["params"], inputs["bias_table"]
    weights = list(params) if key_value is not None else [*params[:2], *params[4:]]
    query_pos = torch.arange(x.shape[1])[None]
    args = (
        x, key_value, weights, inputs["num_heads"], table, query_pos, inputs.get("key_pos", query_pos),
        torch.tensor([5, 7]), 0.2, torch.float16,
    )  # fmt: skip
    out, *kept = OPS.lag_attention_train_triton(*args)
    needs = bits((True,) * (3 + len(weights)))
    for op, arguments in (
        (OPS.lag_attention_eval_triton, args),
        (OPS.lag_attention_train_triton, args),
        (OPS.lag_attention_backward_triton, (torch.ones_like(out), *args, *kept, needs)),
    ):
        torch.library.opcheck(op.default, arguments, test_utils=("test_schema", "test_faketensor"))


def test_limits():
    inputs = CASES.make_inputs({"B": 1, "Nq": 1, "Nk": "self", "D": 514, "H": 2, "bias": "none"}, Maker())
    with pytest.raises(backend.BackendError, match=r"D / num_heads <= 256"):
        lag_attention(**inputs, impl="triton")


def test_a_position_outside_the_table_shows():
    """On a GPU positions are not checked: a wrong one must not read beside the table."""
    inputs = CASES.make_inputs(FEW[0].sizes, Maker())
    table, key_pos = inputs["bias_table"], inputs["key_pos"].clone()
    key_pos[1, 2] = 400
    with forced_config(0):
        out = OPS.lag_attention_eval_triton(
            inputs["x"], inputs["key_value"], list(inputs["params"]), inputs["num_heads"], table,
            torch.arange(7)[None], key_pos, None, 0.0, torch.float32,
        )  # fmt: skip
    assert out[1].isnan().all()
    assert out[::2].isfinite().all()
