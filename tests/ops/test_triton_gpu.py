"""What only a GPU can show of the Triton kernels: real arithmetic in every precision, large tensors, repeatability."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.golden_cases import INDEX, build, read
from tests.model.test_golden import TRAINED, relative, training_loss
from xmae_fast import backend, ops
from xmae_fast.ops.cases import Maker, all_cases
from xmae_fast.ops.random_masking import MODES
from xmae_fast.testing import check_op, hostile_layout

pytestmark = pytest.mark.gpu
CASES = all_cases()
DIFFERENTIABLE = [
    pytest.param(op, case, id=f"{op}-{case.name}") for op in backend.MODEL_OPS for case in CASES[op].tests
]


@pytest.fixture(autouse=True)
def _usable(need_impl):
    for op in ("random_masking", *backend.MODEL_OPS):
        need_impl(op, "triton")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("op", "case"), DIFFERENTIABLE)
def test_half_precisions(op, case, dtype):
    cases = CASES[op]
    if cases.exact:
        pytest.skip("copies are compared bit for bit in float32")
    check_op(
        cases, case, lambda inputs: cases.call(inputs, "triton"), dtype=dtype, device="cuda", prepare=hostile_layout
    )


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("B", "N", "k"), [(512, 25, 20), (100, 250, 200), (70_000, 25, 5)])
def test_masks_are_those_of_the_cpu(mode, B, N, k):
    seed = torch.tensor([123456789012345, 42])
    want = ops.masks_from_seed(seed, B, N, k, mode, impl="reference")
    for got, expected in zip(ops.masks_from_seed(seed.cuda(), B, N, k, mode, impl="triton"), want, strict=True):
        assert torch.equal(got.cpu(), expected)


@pytest.mark.parametrize("case", INDEX)
def test_golden_outputs(case):
    golden, model = read(case), build(case, "triton").cuda()
    with torch.no_grad():
        results = model(**{name: x.cuda() for name, x in golden.inputs.items()})
    for key, want in golden.named("eval").items():
        bound = max(2 * float(golden.results[f"eval_fp32_relerr/{key}"]), 1e-6)
        assert relative(results[key].double().cpu().numpy(), want) <= bound, key


@pytest.mark.parametrize("case", TRAINED)
def test_golden_training(case):
    golden, model = read(case), build(case, "triton").cuda().train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, weight_decay=0.01, betas=(0.9, 0.95))
    losses = []
    for _ in golden.results["train/adamw_losses"]:
        loss, _ = training_loss(model, {name: x.cuda() for name, x in golden.inputs.items()})
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    np.testing.assert_allclose(losses, golden.results["train/adamw_losses"], rtol=1e-4)


@pytest.mark.parametrize("op", backend.MODEL_OPS)
def test_repeats_bit_for_bit_at_full_size(op):
    """Results and gradients; a difference would be a race or an atomic sum."""
    cases = CASES[op]
    sizes = {**cases.benches[-1].sizes, "B": 512}
    runs = []
    for _ in range(3):
        inputs = cases.make_inputs(sizes, Maker(1, device="cuda"))
        with torch.autocast("cuda", torch.bfloat16):
            outputs = cases.call(inputs, "triton")
        runs.append([x.clone() for x in (outputs if isinstance(outputs, tuple) else (outputs,))])
    for other in runs[1:]:
        assert all(torch.equal(a, b) for a, b in zip(runs[0], other, strict=True))


def test_offsets_beyond_32_bits():
    """The last rows of a tensor of more than 2^31 elements are those of the same rows alone."""
    cases = CASES["conv_stem"]
    inputs = cases.make_inputs({"B": 4, "L": 1000, "S": 32, "training": False}, Maker(0, device="cuda"))
    want = cases.call(inputs, "triton")
    big = torch.zeros(70_000, 1, 1000, device="cuda")
    big[-4:] = inputs["x"]
    with torch.no_grad():
        got = cases.call({**inputs, "x": big}, "triton")
    assert got.numel() > 2**31
    torch.testing.assert_close(got[-4:], want.detach(), rtol=1e-5, atol=1e-5)
