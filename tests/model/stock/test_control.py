"""The control itself against the numbers that the published code computed in float64."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from tests.golden_cases import FOLDER, INDEX, read, seeded_state
from tests.model.stock import model as stock

TRAINED = [case for case, entry in INDEX.items() if "train/loss" in entry["keys"]]


def relative(got: torch.Tensor, want: np.ndarray) -> float:
    return float(np.linalg.norm(got.detach().double().numpy() - want) / max(np.linalg.norm(want), 1e-30))


def build(case: str, dtype: torch.dtype) -> tuple[stock.xMAE, dict[str, torch.Tensor]]:
    model = stock.build_model_from_cfg(INDEX[case]["cfg"])
    model.load_state_dict(seeded_state(model, INDEX[case]["seed"]))
    inputs = {key: x.to(dtype) if x.is_floating_point() else x for key, x in read(case).inputs.items()}
    return model.to(dtype).eval(), inputs


def loss_of(results: dict[str, torch.Tensor], ecg: torch.Tensor) -> torch.Tensor:
    mask = results["seq_mask_used_ecg"]
    error = (results["ecg_reconstructed"] - ecg.reshape(mask.shape)) ** 2
    return (mask * error).sum() / mask.sum().clamp_min(1)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("case", INDEX)
def test_eval_outputs(case, dtype):
    golden, (model, inputs) = read(case), build(case, dtype)
    with torch.no_grad():
        results = model(**inputs)
    assert set(results) == set(golden.named("eval"))
    for key, want in golden.named("eval").items():
        bound = 1e-13 if dtype == torch.float64 else max(2 * float(golden.results[f"eval_fp32_relerr/{key}"]), 1e-6)
        assert results[key].shape == want.shape
        assert relative(results[key], want) <= bound, key


def entries(x: torch.Tensor, *, with_sum: bool) -> np.ndarray:
    flat = x.detach().double().flatten().numpy()
    return np.array([np.linalg.norm(flat), *([flat.sum()] if with_sum else []), *flat[:4]])


@pytest.mark.parametrize("case", TRAINED)
def test_training_in_float64(case):
    golden, (model, inputs) = read(case), build(case, torch.float64)
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, weight_decay=0.01, betas=(0.9, 0.95))
    losses = []
    for step, _ in enumerate(golden.results["train/adamw_losses"]):
        results = model(**inputs)
        loss = loss_of(results, inputs["ecg"])
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        if step == 0:
            rounding = 2**-24  # the stored waveform is float32
            assert relative(results["ecg_reconstructed"], golden.results["train/ecg_reconstructed"]) <= rounding
            gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
            assert set(gradients) == set(golden.named("grad"))
            largest = max(want[0] for want in golden.named("grad").values())
            for name, want in golden.named("grad").items():
                got = entries(gradients[name], with_sum=True)[: len(want)]
                np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-12 * largest, err_msg=name)
            buffers = dict(model.named_buffers())
            for name, want in golden.named("buf").items():
                got = entries(buffers[name], with_sum=False)[: len(want)]
                np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-12 * want[0], err_msg=name)
        optimizer.step()
    np.testing.assert_allclose(losses, golden.results["train/adamw_losses"], rtol=1e-6)
    assert losses[0] == pytest.approx(float(golden.results["train/loss"]), rel=1e-12)


@pytest.mark.parametrize("case", TRAINED)
def test_training_in_float32(case):
    golden, (model, inputs) = read(case), build(case, torch.float32)
    results = model.train()(**inputs)
    assert loss_of(results, inputs["ecg"]).item() == pytest.approx(float(golden.results["train/loss"]), rel=2e-5)
    assert relative(results["ecg_reconstructed"], golden.results["train/ecg_reconstructed"]) < 1e-5


def test_state_dict_has_the_published_keys_in_their_order():
    model, _ = build("default_anchor", torch.float32)
    published = json.loads((FOLDER / "state_dict.json").read_text())
    assert [(key, list(value.shape)) for key, value in model.state_dict().items()] == list(published.items())
    assert sum(p.numel() for p in model.parameters()) == 6_481_930
