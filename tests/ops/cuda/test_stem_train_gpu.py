"""What only a GPU can show of the stem's CUDA C++ kernels for training."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from xmae_fast import ops
from xmae_fast.ops.cases import Case, Maker
from xmae_fast.ops.conv_stem.cases import CASES, make_inputs
from xmae_fast.ops.conv_stem.params import TRAINED, flatten
from xmae_fast.testing import check_op, hostile_layout, relative_error

pytestmark = pytest.mark.gpu
TRAINING = replace(CASES, no_grad=(*CASES.no_grad, "x"))
PUBLISHED = ((512, 1000), (512, 200))  # B, L of PPG and ECG


@pytest.fixture(autouse=True)
def _usable(need_impl):
    need_impl("conv_stem", "cuda")


class Stems:
    """Stems on a GPU whose weights want gradients; every run starts from the same running statistics."""

    def __init__(self, *sizes: tuple[int, int], training: bool = True) -> None:
        self.training = training
        made = [
            make_inputs({"B": B, "L": L, "S": 32, "training": training}, Maker(seed, device="cuda"))
            for seed, (B, L) in enumerate(sizes)
        ]
        self.xs, self.params = [one["x"] for one in made], [one["params"] for one in made]
        self.weights = [flatten(stem) for stem in self.params]
        self.leaves = [weight.requires_grad_() for some in self.weights for weight in some[:TRAINED]]
        self.running = [x for some in self.weights for x in some[TRAINED:]]
        self.first = [x.clone() for x in self.running]
        maker = Maker(7, torch.bfloat16, "cuda")
        self.cotangents = [maker.normal(B, 32, L) for B, L in sizes]

    def __call__(self, impl: str = "cuda", together: bool = True, autocast: bool = True) -> list[Tensor]:
        """Features, gradients, running statistics; in bfloat16 unless `autocast` is off."""
        for x, first in zip(self.running, self.first, strict=True):
            x.detach().copy_(first)
        with torch.autocast("cuda", torch.bfloat16, enabled=autocast):
            how = {"training": self.training, "impl": impl}
            if together and len(self.xs) == 2:
                features = ops.conv_stems(tuple(self.xs), tuple(self.params), **how)
            else:
                features = [ops.conv_stem(x, stem, **how) for x, stem in zip(self.xs, self.params, strict=True)]
        cotangents = [given.to(x.dtype) for given, x in zip(self.cotangents, features, strict=True)]
        gradients = torch.autograd.grad(features, self.leaves, cotangents)
        return [*(x.detach() for x in features), *gradients, *(x.clone() for x in self.running)]


def equal(got: list[Tensor], want: list[Tensor]) -> bool:
    return len(got) == len(want) and all(torch.equal(x, y) for x, y in zip(got, want, strict=True))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("B", "L"), [(2, 3), (3, 37), (7, 200), (64, 200), (5, 1000), (64, 1000), (2, 3000)])
def test_matches_the_oracle(B, L, dtype, training):
    """Values, gradients of all weights and running statistics."""
    case = Case(f"B{B}-L{L}", {"B": B, "L": L, "S": 32, "training": training})
    run = partial(TRAINING.call, impl="cuda")
    check_op(TRAINING, case, run, dtype=dtype, device="cuda", prepare=hostile_layout)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("sizes", [((5, 1000), (7, 200)), ((3, 37), (2, 3)), PUBLISHED])
def test_two_stems_at_once_are_each_alone(sizes, training):
    """Bit for bit where every CTA has one tile; otherwise CTAs are dealt to stems, and sums have another order."""
    stems = Stems(*sizes, training=training)
    together, alone = stems(), stems(together=False)
    if sizes != PUBLISHED:
        assert equal(together, alone)
        return
    for got, want in zip(together, alone, strict=True):
        assert relative_error(got, want.double()) <= 0.02


@pytest.mark.parametrize("training", [True, False])
def test_repeats_bit_for_bit(training):
    stems = Stems(*PUBLISHED, training=training)
    want = stems()
    for _ in range(20):
        assert equal(stems(), want)


@pytest.mark.parametrize("training", [True, False])
def test_in_a_graph(training):
    stems = Stems(*PUBLISHED, training=training)
    want = stems()
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        stems()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        got = stems()
    for x in got:
        x.zero_()
    graph.replay()
    assert equal(got, want)


@pytest.mark.parametrize("training", [True, False])
def test_agrees_with_triton(training, need_impl):
    """Within four times what plain PyTorch is off by: each of them may be off by twice that."""
    need_impl("conv_stem", "triton")
    stems = Stems((64, 1000), (64, 200), training=training)
    runs = stems(), stems("triton"), stems("reference"), stems("reference", autocast=False)
    ends = 0, 2, 2 + len(stems.leaves), 2 + len(stems.leaves) + len(stems.running)
    for first, end in pairwise(ends):
        ours, triton, plain, exact = (torch.cat([x.double().flatten() for x in run[first:end]]) for run in runs)
        assert relative_error(ours, triton) <= 4 * relative_error(plain, exact)
