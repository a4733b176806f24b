"""Bytes of launches that are written down, and the step that they predict."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

pytest.importorskip("triton")

from xmae_fast.testing.launches import AtenLaunch, bytes_of, embedding, launches_of, name_of, training_step
from xmae_fast.testing.traffic import GPUS, LAUNCH_S, by_kernel, moved, predicted, report


def test_a_place_in_memory_counts_once():
    x = torch.zeros(10, 4)
    assert bytes_of({"x": x, "again": [x, x.view(4, 10)], "n": 3}) == 160
    assert bytes_of((x, x[5:], torch.zeros(2, dtype=torch.bfloat16))) == 160 + 80 + 4


def test_what_takes_longer_counts_where_all_overlaps():
    gpu = GPUS["H200"]
    low, high = predicted(100, 43 * 10**9, 79e12, gpu)
    assert low == pytest.approx(0.1 + 100 * LAUNCH_S)
    assert high == pytest.approx(0.01 + 0.1 + 100 * LAUNCH_S)


@pytest.fixture(scope="module")
def steps():
    return {B: training_step(B, torch.bfloat16, (9, 0)) for B in (8, 64)}


def test_traffic_grows_with_the_batch(steps):
    """Activations do, weights do not; and each layer of the stem is read and written a few times, not dozens."""
    sizes = {B: sum(size for _, size in by_kernel(launches).values()) for B, launches in steps.items()}
    per_segment = (sizes[64] - sizes[8]) / 56
    activations = 30 * 32_000 * 2 * 1.2  # bytes of the outputs of 30 convolutions of both stems, in bfloat16
    assert 4 * activations < per_segment < 12 * activations
    assert sizes[8] > 8 * per_segment


def test_sums_that_launches_share_count_by_parts(steps):
    kernels = ("stem_weight_gradient_kernel", "stem_pointwise_gradient_kernel")
    launches = [launch for launch in steps[64] if name_of(launch) in kernels]
    assert launches
    arena = bytes_of(launches[0].args["arena_ptr"])
    parts = [moved(one) - bytes_of([x for name, x in one.args.items() if name != "arena_ptr"]) for one in launches]
    assert min(parts) > 0
    assert 0.9 * arena < sum(parts) < 2 * arena  # each tile once; tiles are padded


def test_the_report_names_every_kernel_and_the_optimiser(steps):
    text = report("training step", steps[64], 64, "H100")
    assert all(f"| {name_of(launch)} |" in text for launch in steps[64])
    of_adamw = sum(one.bytes for one in steps[64] if isinstance(one, AtenLaunch) and "adamw" in one.name)
    assert of_adamw == pytest.approx(28 * 5.02e6, rel=0.01)
    assert "predicted on an H100" in text


def test_the_page_states_the_launches(steps):
    page = (Path(__file__).parents[2] / "docs" / "gpu-kernels.md").read_text()
    assert f"| launches of a training step | {len(steps[64])}, " in page
    assert f"| embedding | {len(embedding(64, torch.bfloat16, (9, 0)))} launches, " in page


def test_operators_of_many_tensors_take_several_launches():
    def run(start, watch):
        many, counters = [torch.zeros(2) for _ in range(129)], [torch.zeros(2) for _ in range(110)]
        start()
        with watch():
            torch.cat(many)
            torch._foreach_add_(many, many)
            torch._foreach_add_(counters, 1)

    assert [name_of(launch) for launch in launches_of(run)] == ["aten.cat"] * 2 + ["aten._foreach_add_"] * (3 + 1)
