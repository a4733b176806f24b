"""The whole model against the published code's numbers. Bounds are those of the golden files' description."""

from __future__ import annotations

import functools
import json

import numpy as np
import pytest
import torch

from tests.golden_cases import FOLDER, INDEX, Golden, build, read
from xmae_fast import masked_mse, random_masking
from xmae_fast.testing import several_roundings, within_rounding

# One entry per implementation that can run the whole model.
IMPLS = ("auto", "cpu", "reference")
TRAINED = [case for case, entry in INDEX.items() if "train/loss" in entry["keys"]]


def relative(got: np.ndarray, want: np.ndarray) -> float:
    return float(np.linalg.norm(got - want) / max(np.linalg.norm(want), 1e-30))


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("case", INDEX)
def test_eval_outputs(case, impl):
    golden, model = read(case), build(case, impl)
    with torch.no_grad():
        results = model(**golden.inputs)
    assert set(results) == set(golden.named("eval"))
    for key, want in golden.named("eval").items():
        bound = max(2 * float(golden.results[f"eval_fp32_relerr/{key}"]), 1e-6)
        assert results[key].shape == want.shape
        assert relative(results[key].double().numpy(), want) <= bound, key
    if "ppg" in golden.inputs and "ids_keep_ppg" not in golden.inputs:
        bound = max(2 * float(golden.results["eval_fp32_relerr/ppg_embedding"]), 1e-6)
        embedded = model.embed(golden.inputs["ppg"]).double().numpy()
        assert relative(embedded, golden.results["eval/ppg_embedding"]) <= bound


def test_oracle_in_float64_agrees_to_rounding():
    golden = read("default_anchor")
    model = build("default_anchor", "reference", torch.float64)
    inputs = {key: x.double() if x.is_floating_point() else x for key, x in golden.inputs.items()}
    with torch.no_grad():
        results = model(**inputs)
    for key, want in golden.named("eval").items():
        assert relative(results[key].numpy(), want) < 1e-13


def training_loss(model, inputs):
    results = model(**inputs)
    return masked_mse(results["ecg_reconstructed"], inputs["ecg"], results["seq_mask_used_ecg"]), results


def summary(x: torch.Tensor, *, with_sum: bool) -> np.ndarray:
    flat = x.detach().double().flatten().numpy()
    return np.array([np.linalg.norm(flat), *([flat.sum()] if with_sum else []), *flat[:4]])


def gradients_of(model) -> dict[str, torch.Tensor]:
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def check_gradients(case: str, golden: Golden, gradients: dict[str, torch.Tensor]) -> None:
    """Within 5e-4 of each gradient's norm; within the error budget where a gradient all but vanishes."""
    wanted = golden.named("grad")
    assert set(gradients) == set(wanted)
    bounds = {name: 5e-4 * want[0] for name, want in wanted.items()} | budgets_of_vanishing_gradients(case)
    for name, want in wanted.items():
        got = summary(gradients[name], with_sum=True)[: len(want)]
        assert (np.abs(got - want) <= bounds[name]).all(), (name, got, want, bounds[name])


@functools.cache
def budgets_of_vanishing_gradients(case: str) -> dict[str, float]:
    """Absolute errors allowed to gradients below 1e-4 of the whole gradient, from the plain model's own errors.

    The weights of a convolution with one input and one tap before a BatchNorm in training have no gradient but through
    BatchNorm's eps: terms some thousand times as large cancel, and the rounding that they leave is no share of the sum.
    """
    golden = read(case)
    wanted = golden.named("grad")
    whole = np.linalg.norm([want[0] for want in wanted.values()])
    vanishing = {name: want for name, want in wanted.items() if want[0] < 1e-4 * whole}
    if not vanishing:
        return {}
    generator = torch.Generator().manual_seed(0)

    def run() -> dict[str, torch.Tensor]:
        model = build(case, "reference").train()
        with torch.no_grad():
            for x in model.parameters():
                x.copy_(within_rounding(x, generator))
        inputs = {key: within_rounding(x, generator) for key, x in golden.inputs.items()}
        training_loss(model, inputs)[0].backward()
        gradients = gradients_of(model)
        return {name: gradients[name] for name in vanishing}

    rounding = 4 * torch.finfo(torch.float32).eps
    errors = {name: 0.0 for name in vanishing}
    for gradients in several_roundings(run, draws=3):
        for name, want in vanishing.items():
            off = np.abs(summary(gradients[name], with_sum=True)[: len(want)] - want).max()
            errors[name] = max(errors[name], float(off))
    return {name: 2 * error + rounding * wanted[name][0] for name, error in errors.items()}


@pytest.mark.parametrize("case", ["tiny_ppg_masked_too", "tiny_all_ecg_masked", "tiny_source_ecg"])
def test_wrong_gradients_are_refused(case):
    """The check fails when a gradient is off by a hundredth, also one that all but vanishes."""
    golden, model = read(case), build(case, "reference").train()
    training_loss(model, golden.inputs)[0].backward()
    right = gradients_of(model)
    check_gradients(case, golden, right)
    for name in {*list(right)[::9], *budgets_of_vanishing_gradients(case)}:
        with pytest.raises(AssertionError, match=name):
            check_gradients(case, golden, right | {name: 1.01 * right[name]})


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("case", TRAINED)
def test_training_step(case, impl):
    golden, model = read(case), build(case, impl).train()
    loss, results = training_loss(model, golden.inputs)
    assert loss.item() == pytest.approx(float(golden.results["train/loss"]), rel=2e-5)
    assert (
        relative(results["ecg_reconstructed"].detach().double().numpy(), golden.results["train/ecg_reconstructed"])
        < 1e-5
    )
    loss.backward()
    check_gradients(case, golden, gradients_of(model))
    buffers = dict(model.named_buffers())
    for name, want in golden.named("buf").items():
        got = summary(buffers[name], with_sum=False)[: len(want)]
        assert (np.abs(got - want) <= 1e-5 * want[0]).all(), (name, got, want)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("case", TRAINED)
def test_adamw_losses(case, impl):
    golden, model = read(case), build(case, impl).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, weight_decay=0.01, betas=(0.9, 0.95))
    losses = []
    for _ in golden.results["train/adamw_losses"]:
        loss, _ = training_loss(model, golden.inputs)
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    np.testing.assert_allclose(losses, golden.results["train/adamw_losses"], rtol=1e-4)


def test_state_dict_has_the_published_keys_and_shapes():
    model = build("default_anchor", "auto")
    published = json.loads((FOLDER / "state_dict.json").read_text())
    assert {key: list(value.shape) for key, value in model.state_dict().items()} == published
    count = {name: sum(p.numel() for p in module.parameters()) for name, module in model.named_children()}
    assert count == {"ppg_path": 2_845_445, "ecg_path": 2_055_685, "bridger": 1_580_544}
    assert sum(p.numel() for p in model.parameters()) == 6_481_930


@pytest.mark.filterwarnings("ignore:mode 'nonsense' is unknown")
@pytest.mark.parametrize("impl", ["reference", "cpu"])
@pytest.mark.parametrize(
    "case", json.loads((FOLDER / "masks_index.json").read_text()), ids=lambda c: f"{c['case']}-{c['mode']}"
)
def test_exact_masks_bit_for_bit(case, impl, need_impl):
    need_impl("random_masking", impl)
    with np.load(FOLDER / "masks.npz") as file:
        want = {key: file[f"{case['case']}/{key}"] for key in ("patch_mask", "ids_keep", "ids_restore", "next_rand")}
    torch.manual_seed(case["torch_seed"])
    mask = random_masking(case["B"], case["N"], case["ratio"], case["mode"], rng="exact", impl=impl)
    for key in ("patch_mask", "ids_keep", "ids_restore"):
        np.testing.assert_array_equal(getattr(mask, key).numpy(), want[key].astype(getattr(mask, key).numpy().dtype))
    assert torch.rand(1).item() == want["next_rand"]
