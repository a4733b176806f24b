"""The checker is checked: implementations that are known to be wrong must be rejected."""

from __future__ import annotations

import math

import pytest
import torch

from xmae_fast import ops
from xmae_fast.ops.cases import all_cases
from xmae_fast.testing import check_op, relative_error, within_rounding
from xmae_fast.testing.numerics import _map_tensors

CASES = all_cases()


def reject(op: str, wrong, **sizes) -> None:
    """`wrong` must fail on the first case of `op` that has the given sizes, and the right one must pass there."""
    cases = CASES[op]
    case = next(case for case in cases.tests if all(case.sizes[key] == value for key, value in sizes.items()))
    check_op(cases, case, lambda inputs: cases.call(inputs, "reference"))
    with pytest.raises(AssertionError, match="differs from the float64 oracle"):
        check_op(cases, case, wrong)


def test_last_patch_dropped():
    def wrong(x):
        tokens = ops.patch_embed(**x)
        return torch.cat([tokens[:, :-1], tokens[:, -1:] * 0], dim=1)

    reject("patch_embed", wrong)


def test_lag_off_by_one():
    def wrong(x):
        return ops.lag_attention(**{**x, "bias_table": x["bias_table"].roll(1, dims=1)})

    reject("lag_attention", wrong, bias="table", Nk=15)


def test_lag_from_key_index_instead_of_position():
    def wrong(x):
        return ops.lag_attention(**{key: value for key, value in x.items() if key != "key_pos"})

    reject("lag_attention", wrong, bias="table", Nk=15)


def test_softmax_over_queries():
    def wrong(x):
        right = ops.lag_attention(**x)
        return right + 1e-4 * (right - right.mean(1, keepdim=True))

    reject("lag_attention", wrong, bias="none", Nk="self")


def test_transposed_ids_restore():
    def wrong(x):
        return CASES["token_gather"].call({**x, "ids_restore": x["ids_restore"].argsort(1)}, "reference")

    reject("token_gather", wrong, Nk=5)


@pytest.mark.parametrize("op", ["conv_stem", "patch_embed", "feed_forward", "lag_attention", "waveform_loss"])
def test_bf16_accumulation(op):
    cases = CASES[op]

    def wrong(x):
        with torch.autocast("cpu", torch.bfloat16):
            out = cases.call(x, "reference")
        return out.float()

    reject(op, wrong)


@pytest.mark.parametrize("op", ["conv_stem", "patch_embed", "feed_forward", "lag_attention", "waveform_loss"])
def test_operands_of_16_bits(op):
    """Every number that comes in loses its last 8 bits: the budget must be far below bfloat16's error."""
    cases = CASES[op]

    def cut(x):
        return ((x.contiguous().view(torch.int32) + 0x80) & ~0xFF).view(torch.float32)

    reject(op, lambda x: cases.call(move_leaves(x, cut), "reference"))


def test_key_outside_a_window_admitted():
    def wrong(x):
        return ops.lag_attention(**{**x, "bias_table": x["bias_table"].clamp(min=-30)})

    reject("lag_attention", wrong, bias="window", Nk=4)


def test_budget_is_finite_for_every_case():
    """A plain path that fails on moved inputs would allow anything."""
    for cases in CASES.values():
        for case in cases.tests:
            errors = check_op(cases, case, lambda inputs, cases=cases: cases.call(inputs, "reference"))
            assert all(math.isfinite(error.bound) for error in errors), case.name


def move_leaves(inputs, move):
    """The inputs with `move` applied to the values, and not to the gradients, of all that requires one."""
    return _map_tensors(lambda x: x + (move(x.detach()) - x.detach()) if x.requires_grad else x, inputs)


@pytest.mark.parametrize("seed", range(3))
def test_other_roundings_are_within_the_budget(seed):
    generator = torch.Generator().manual_seed(100 + seed)
    cases = CASES["conv_stem"]
    for case in cases.tests:
        check_op(
            cases,
            case,
            lambda x: cases.call(move_leaves(x, lambda y: within_rounding(y, generator)), "reference"),
        )


def test_running_variance_biased():
    def wrong(x):
        before = x["params"].head.running_var.clone()
        out = ops.conv_stem(**x)
        n = out.shape[0] * out.shape[2]
        after = x["params"].head.running_var
        after.data.copy_(before * 0.9 + (after - before * 0.9) * (n - 1) / n)
        return out

    reject("conv_stem", wrong, training=True)


def test_gradient_of_one_parameter_missing():
    def wrong(x):
        return ops.feed_forward(x["x"], x["params"]._replace(up_bias=x["params"].up_bias.detach()))

    cases = CASES["feed_forward"]
    with pytest.raises(AssertionError, match="expected results"):
        check_op(cases, cases.tests[0], wrong)


def test_mask_with_one_id_swapped():
    def wrong(x):
        patch_mask, ids_keep, ids_restore = CASES["random_masking"].call(x, "reference")
        return patch_mask, ids_keep.flip(1), ids_restore

    reject("random_masking", wrong, mode="scatter")


def test_relative_error_sees_nan_and_shape():
    x = torch.ones(3)
    assert relative_error(torch.tensor([1.0, float("nan"), 1.0]), x) == float("inf")
    assert relative_error(torch.ones(1), x) == float("inf")
    assert relative_error(x, x) == 0
