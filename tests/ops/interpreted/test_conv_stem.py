"""The stem's kernels against the oracle: values, gradients, running statistics, autocast, repetition."""

from __future__ import annotations

import pytest
import torch
import triton.language as tl

from tests.ops.interpreted.checks import check, each, poisoned_memory
from xmae_fast.ops._launch import forced_config
from xmae_fast.ops.cases import Maker, OpCases, cases
from xmae_fast.ops.conv_stem import conv_stem, conv_stems, reference
from xmae_fast.ops.conv_stem.cases import CASES
from xmae_fast.ops.conv_stem.params import TRAINED, flatten
from xmae_fast.ops.conv_stem.triton import forward, merge
from xmae_fast.ops.conv_stem.triton import schema as triton_schema
from xmae_fast.testing import hostile_layout, relative_error
from xmae_fast.testing.numerics import _map_tensors, _run

NARROW = {"S": 3, "widths": (22, 31, 45)}
# Several tiles on every level and several parts of a weight gradient on levels 1 and 2, the last of each not full; odd
# and even lengths. Rows are 305, 155, 80 and 360, 180, 90; a tile has 64 and a part at least 128.
TILED = cases({"B": 5, "L": 61, "training": True, **NARROW}, {"B": 9, "L": 40, "training": False, **NARROW})
# Fewer channels, none of them a multiple of what a block holds; the third level's input takes two blocks.
NARROWEST = {"S": 3, "widths": (5, 9, 20)}
SMALL = [case for case in CASES.tests if case.sizes["widths"] != (32, 64, 128) and "signal" not in case.sizes]
FLAT = [case for case in CASES.tests if case.sizes.get("signal") in ("constants", "zeros")]  # all seven: 80 seconds
WIDE = [case for case in CASES.tests if case.sizes["L"] == 37]
FEW = OpCases(**{**CASES.__dict__, "tests": (*SMALL, *WIDE, *FLAT)})  # only the wide cases of odd length


@each(FEW, TILED)
def test_float32(case):
    check(CASES, case)


@pytest.mark.parametrize("case", SMALL, ids=lambda case: case.name)
def test_float16(case):
    check(CASES, case, dtype=torch.float16)


@pytest.mark.parametrize("config", [1, 2])
def test_other_configurations(config):
    check(CASES, SMALL[1], config=config)


@pytest.mark.parametrize(("B", "L"), [(1, 1), (3, 2), (2, 3), (2, 39), (7, 40)])
def test_inference(B, L):
    inputs = CASES.make_inputs({"B": B, "L": L, "training": False, **NARROW}, Maker(4))
    want = reference.conv_stem(**_map_tensors(lambda x: x.double() if x.is_floating_point() else x, inputs))
    plain = relative_error(reference.conv_stem(**inputs), want)
    with torch.no_grad(), poisoned_memory():
        got = conv_stem(**hostile_layout(inputs), impl="triton")
    assert got.dtype == torch.float32
    assert relative_error(got, want) < 2 * plain + 4 * torch.finfo(torch.float32).eps


@pytest.mark.parametrize("training", [False, True])
def test_autocast(training):
    """Master weights in float32, products in float16: at most twice as far from float64 as plain autocast."""
    inputs = CASES.make_inputs({"B": 16, "L": 40, "training": training, **NARROW}, Maker(5))

    def results(run, dtype, autocast):
        copies = _map_tensors(lambda x: x.detach().to(dtype) if x.is_floating_point() else x.clone(), inputs)
        with torch.autocast("cpu", torch.float16, enabled=autocast):
            return _run(CASES, _map_tensors(torch.clone, copies), run)

    want = results(CASES.oracle, torch.float64, False)
    plain = results(CASES.oracle, torch.float32, True)
    got = results(lambda inputs: CASES.call(inputs, "triton"), torch.float32, True)
    assert {name: x.dtype for name, x in got.items()} == {name: x.dtype for name, x in plain.items()}
    groups = {name.split(" ")[0] for name in want}
    for group in groups:  # single gradients of a few numbers are right or wrong by luck
        exact, stock, ours = (
            torch.cat([run[name].double().flatten() for name in want if name.startswith(group)])
            for run in (want, plain, got)
        )
        assert relative_error(ours, exact) <= 2 * relative_error(stock, exact), group


def test_several_groups_of_tiles(monkeypatch):
    """A group has 64 tiles, which would take minutes here: with 2, there are several on every level. Of the two cases
    this one merges moments as well as sums."""
    monkeypatch.setattr(merge, "GROUP", 2)
    for module in (merge, forward):
        monkeypatch.setattr(module, "TILES", tl.constexpr(2))
    check(CASES, TILED[0])


def test_runs_repeat_bit_for_bit():
    def results():
        inputs = CASES.make_inputs({"B": 6, "L": 50, "training": True, "S": 4, "widths": (4, 8, 8)}, Maker(6))
        return _run(CASES, inputs, lambda inputs: CASES.call(inputs, "triton"))

    with forced_config(0):
        first, second = results(), results()
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("training", [False, True])
def test_two_stems_in_one_set_of_launches_are_each_alone(training):
    """Bit for bit, and so are running statistics: of two lengths and batch sizes, several tiles and parts each.

    What the second stem needs are offsets in rows, weights and norms; they do not depend on how wide the stem is.
    """
    both = ({"B": 5, "L": 61}, {"B": 7, "L": 26})  # rows: 305, 155, 80 and 182, 91, 49
    sizes = [{**lengths, "training": training, **NARROWEST} for lengths in both]

    def results(together: bool) -> dict[str, list[torch.Tensor]]:
        first, second = (hostile_layout(CASES.make_inputs(size, Maker(8 + i))) for i, size in enumerate(sizes))
        weights = [flatten(stem["params"]) for stem in (first, second)]
        leaves = [first["x"], second["x"], *weights[0][:TRAINED], *weights[1][:TRAINED]]
        for leaf in leaves:
            leaf.requires_grad_()
        with poisoned_memory(), forced_config(0):
            if together:
                xs, params = (first["x"], second["x"]), (first["params"], second["params"])
                features = conv_stems(xs, params, training=training, impl="triton")
            else:
                features = [conv_stem(**stem, impl="triton") for stem in (first, second)]
            gradients = torch.autograd.grad([x.square().sum() + x[..., 0].sum() for x in features], leaves)
        running = [x for some in weights for x in some[TRAINED:]]
        return {"features": [*features], "gradients": [*gradients], "running statistics": running}

    together, alone = results(True), results(False)
    for name, tensors in alone.items():
        assert all(torch.equal(x, y) for x, y in zip(together[name], tensors, strict=True)), name


@pytest.mark.parametrize("batch_statistics", [False, True])
def test_operators(batch_statistics):
    inputs = CASES.make_inputs({"B": 2, "L": 9, "S": 4, "widths": (4, 8, 8), "training": False}, Maker(7))
    x, weights = inputs["x"], flatten(inputs["params"])
    which = ("test_schema", "test_faketensor")
    sizes = [x.shape[0], x.shape[2]]
    arguments = (x.reshape(-1), weights, sizes, batch_statistics, torch.float32)
    torch.library.opcheck(triton_schema.TRAIN, arguments, test_utils=which)
    torch.library.opcheck(triton_schema.EVAL, (x, weights, torch.float32), test_utils=which)
    _, norms, kept = triton_schema.TRAIN(*arguments)
    grads = [torch.ones(2, 9, 4)]
    arguments = (grads, x.reshape(-1), norms, kept, sizes, batch_statistics, True, torch.float32)
    torch.library.opcheck(triton_schema.BACKWARD, arguments, test_utils=which)


def test_one_value_in_training_is_refused():
    inputs = CASES.make_inputs({"B": 1, "L": 4, "S": 4, "widths": (4, 8, 8), "training": True}, Maker(8))
    with pytest.raises(ValueError, match="more than one value"):
        conv_stem(**inputs, impl="triton")
