"""Training through the C++ kernels against training through plain PyTorch, on simulated recordings."""

from __future__ import annotations

import functools
import statistics

import pytest
import torch

from xmae_fast import ModelCfg, masked_mse, random_masking, xMAE
from xmae_fast.backend import MODEL_OPS
from xmae_fast.data import simulate

CFG = {"seq_len": 200, "patch_len": 20, "d_model": 32, "nhead": 4, "proj_dim": 16, "stem_ch": 8}
STEPS, B = 200, 16


@pytest.fixture(autouse=True)
def _built(need_impl):
    for op in MODEL_OPS:
        need_impl(op, "cpu")


@functools.cache
def recordings() -> tuple[torch.Tensor, torch.Tensor]:
    """PPG and ECG [320, 200] of simulated subjects."""
    simulation = simulate(num_subjects=8, segments_per_subject=8, seed=3)
    ppg, ecg = (torch.from_numpy(x).reshape(-1, CFG["seq_len"]) for x in (simulation.ppg, simulation.ecg))
    return ppg, ecg


def losses(impl: str, seed: int, dropout: float, lag: str | None = None) -> list[float]:
    """The loss of every step; weights, batches and masks depend on the seed alone, not on the implementation."""
    torch.manual_seed(seed)
    model = xMAE(ModelCfg(**CFG, dropout=dropout, lag=lag), impl=impl).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, weight_decay=0.01, betas=(0.9, 0.95))
    ppg, ecg = recordings()
    draws = torch.Generator().manual_seed(seed)
    curve = []
    for _ in range(STEPS):
        chosen = torch.randint(len(ppg), (B,), generator=draws)
        mask = random_masking(B, 10, 0.8, generator=draws)
        ids = {"ids_keep_ecg": mask.ids_keep, "ids_restore_ecg": mask.ids_restore}
        out = model(ppg[chosen], ecg[chosen], **ids, return_embeddings=False)
        loss = masked_mse(out["ecg_reconstructed"], ecg[chosen], out["seq_mask_used_ecg"], impl=impl)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        curve.append(loss.item())
    return curve


@pytest.mark.parametrize("lag", [None, "gaussian"])
def test_loss_curves_agree_without_dropout(lag):
    plain, fast = losses("reference", 0, 0.0, lag), losses("cpu", 0, 0.0, lag)
    assert plain[-1] < 0.8 * plain[0]
    assert max(abs(a - b) / b for a, b in zip(fast, plain, strict=True)) < 1e-3


def test_final_losses_agree_within_noise_with_dropout():
    finals = {
        impl: [statistics.fmean(losses(impl, seed, 0.1)[-20:]) for seed in range(5)] for impl in ("reference", "cpu")
    }
    # The same seeds have the same weights, batches and masks: what is left between the pairs is dropout's noise.
    differences = [a - b for a, b in zip(finals["cpu"], finals["reference"], strict=True)]
    noise = statistics.stdev(differences) / len(differences) ** 0.5
    assert abs(statistics.fmean(differences)) < 4 * noise
    assert noise < 0.05 * statistics.fmean(finals["reference"])
