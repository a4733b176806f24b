"""Dropout of the C++ kernels: its masks, and both operators against their formula with the mask that was drawn."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from tests.ops.cpu_blocks import CASES, EVERY_SPLIT, KERNELS
from tests.ops.instruction_sets import TABLES, on
from xmae_fast import ops
from xmae_fast.ops._dropout import draw_seed
from xmae_fast.ops.cases import Maker
from xmae_fast.ops.lag_attention import reference as attention_reference
from xmae_fast.ops.lag_attention.tables import gather_bias
from xmae_fast.testing import check_op


@pytest.fixture(autouse=True)
def _need_kernels(need_impl):
    need_impl("feed_forward", "cpu")
    need_impl("lag_attention", "cpu")


def drawn_mask(p: float, rows: int, columns: int) -> torch.Tensor:
    torch.manual_seed(11)
    return KERNELS.dropout_mask(draw_seed(p), rows, columns, p)


def feed_forward_with_mask(inputs, p):
    x, w = inputs["x"], inputs["params"]
    mask = drawn_mask(p, x.shape[0] * x.shape[1], x.shape[2]).view(x.shape).to(x.dtype)
    h = F.gelu(F.linear(F.layer_norm(x, x.shape[-1:], w.norm_weight, w.norm_bias), w.up_weight, w.up_bias))
    return x + mask * F.linear(h, w.down_weight, w.down_bias)


def lag_attention_with_mask(inputs, p):
    x, w, table = inputs["x"], inputs["params"], inputs.get("bias_table")
    q, k, v = attention_reference.project(x, inputs["key_value"], w, inputs["num_heads"])
    query_pos = torch.arange(x.shape[1])[None]
    bias = None if table is None else gather_bias(table, query_pos, inputs.get("key_pos", query_pos))
    weights = attention_reference.probabilities(q, k, bias)
    B, H, queries, keys = weights.shape
    mask = drawn_mask(p, B * H, queries * keys).view(weights.shape).to(x.dtype)
    return x + F.linear((weights * mask @ v).transpose(1, 2).flatten(2), w.out_weight, w.out_bias)


WITH_MASK = {"feed_forward": feed_forward_with_mask, "lag_attention": lag_attention_with_mask}


@pytest.mark.parametrize(("op", "case"), EVERY_SPLIT)
def test_dropout_against_the_formula_with_its_mask(op, case, kernels):
    p = 0.3

    def run(inputs):
        torch.manual_seed(11)
        return CASES[op].call(inputs | {"dropout_p": p}, "cpu")

    check_op(replace(CASES[op], oracle=lambda inputs: WITH_MASK[op](inputs, p)), case, run)


def test_masks_are_the_same_for_every_instruction_set():
    seed = torch.tensor([5, -7])
    with on("baseline"):
        want = KERNELS.dropout_mask(seed, 9, 650, 0.4)
    for name in TABLES:
        with on(name):
            assert torch.equal(KERNELS.dropout_mask(seed, 9, 650, 0.4), want)
    assert torch.equal(KERNELS.dropout_mask(seed, 4, 70, 0.4), want[:4, :70]), "a mask depends on the place alone"


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_statistics_of_masks(p):
    rows, columns = 400, 256
    mask = KERNELS.dropout_mask(torch.tensor([1, 2]), rows, columns, p)
    assert set(mask.unique().tolist()) == {0.0, torch.tensor(1 / (1 - p)).item()}
    kept = (mask > 0).double()
    spread = (p * (1 - p)) ** 0.5
    assert abs(kept.mean() - (1 - p)) < 5 * spread / (rows * columns) ** 0.5
    assert (kept.mean(0) - (1 - p)).abs().max() < 6 * spread / rows**0.5
    assert (kept.mean(1) - (1 - p)).abs().max() < 6 * spread / columns**0.5
    centred = (kept - (1 - p)) / spread
    bound = 5 / (rows * columns) ** 0.5
    assert (centred[1:] * centred[:-1]).mean().abs() < bound, "neighbouring rows"
    for step in (1, 4, 16, 64):
        assert (centred[:, step:] * centred[:, :-step]).mean().abs() < bound * 1.2, f"columns {step} apart"
    for other in ([1, 3], [2, 2]):
        again = (KERNELS.dropout_mask(torch.tensor(other), rows, columns, p) > 0).double()
        assert (centred * (again - (1 - p)) / spread).mean().abs() < bound, f"seed {other}"


def test_every_call_draws_anew_and_a_seed_repeats():
    inputs = CASES["feed_forward"].make_inputs({"B": 2, "N": 3, "D": 16, "F": 16}, Maker())
    torch.manual_seed(1)
    first, second = (ops.feed_forward(**inputs, dropout_p=0.5, impl="cpu") for _ in range(2))
    assert not torch.equal(first, second)
    torch.manual_seed(1)
    assert torch.equal(ops.feed_forward(**inputs, dropout_p=0.5, impl="cpu"), first)
    state = torch.get_rng_state()
    ops.feed_forward(**inputs, impl="cpu")
    assert torch.equal(torch.get_rng_state(), state), "without dropout nothing is drawn"
