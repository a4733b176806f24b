"""What only a GPU can show of the stem's CUDA C++ kernel."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from xmae_fast import ops
from xmae_fast.ops.cases import Case, Maker
from xmae_fast.ops.conv_stem.cases import CASES, make_inputs
from xmae_fast.ops.conv_stem.cuda import schema as cuda_schema
from xmae_fast.ops.conv_stem.params import flatten
from xmae_fast.testing import check_op, hostile_layout

pytestmark = pytest.mark.gpu
EVALUATION = replace(CASES, differentiable=False)


@pytest.fixture(autouse=True)
def _usable(need_impl):
    need_impl("conv_stem", "cuda")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    ("B", "L", "S"),
    [
        (1, 1, 4), (2, 5, 3), (3, 37, 33), (7, 200, 32), (300, 200, 32),
        (2, 257, 8), (2, 512, 128), (5, 1000, 32), (300, 1000, 32), (2, 1024, 40),
    ],
)  # fmt: skip
def test_matches_the_oracle(B, L, S, dtype):
    case = Case(f"B{B}-L{L}-S{S}", {"B": B, "L": L, "S": S, "training": False})

    def run(inputs):
        with torch.no_grad():
            return ops.conv_stem(**inputs, impl="cuda")

    check_op(EVALUATION, case, run, dtype=dtype, device="cuda", prepare=hostile_layout)


@torch.no_grad()
def test_visible_patches():
    inputs = make_inputs({"B": 9, "L": 1000, "S": 32, "training": False}, Maker(0, device="cuda"))
    ids_keep, _ = Maker(1, device="cuda").ids(9, 25, 5)
    visible = ops.gather_patches(inputs["x"], ids_keep, 40)
    want = cuda_schema.evaluate(visible, flatten(inputs["params"]), torch.bfloat16)
    assert torch.equal(cuda_schema.evaluate(inputs["x"], flatten(inputs["params"]), torch.bfloat16, ids_keep, 40), want)


@torch.no_grad()
def test_repeats_bit_for_bit_and_in_a_graph():
    inputs = make_inputs({"B": 512, "L": 1000, "S": 32, "training": False}, Maker(0, device="cuda"))

    def run():
        return cuda_schema.evaluate(inputs["x"], flatten(inputs["params"]), torch.bfloat16)

    want = run()
    for _ in range(20):
        assert torch.equal(run(), want)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        got = run()
    got.zero_()
    graph.replay()
    assert torch.equal(got, want)
