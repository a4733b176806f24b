"""Training through the C++ kernels against training through plain PyTorch, on simulated recordings."""

from __future__ import annotations

import functools
import statistics

import pytest
import torch

from xmae_fast import ModelCfg, masked_mse, random_masking, xMAE
from xmae_fast.backend import MODEL_OPS
from xmae_fast.data import simulate

CFG = {"d_model": 32, "nhead": 4, "proj_dim": 16, "stem_ch": 8}
PATCHES = 10


@pytest.fixture(autouse=True)
def _built(need_impl):
    """One thread: here a second one only slows the plain path down, and changes no bit of ours (test_cpu_model.py)."""
    for op in MODEL_OPS:
        need_impl(op, "cpu")
    torch.set_num_threads(1)


@functools.cache
def recordings(L: int) -> tuple[torch.Tensor, torch.Tensor]:
    """PPG and ECG [64000 / L, L] of simulated subjects."""
    simulation = simulate(num_subjects=8, segments_per_subject=8, seed=3)
    ppg, ecg = (torch.from_numpy(x).reshape(-1, L) for x in (simulation.ppg, simulation.ecg))
    return ppg, ecg


def losses(impl: str, seed: int, dropout: float, *, steps: int, B: int, L: int, lag: str | None = None) -> list[float]:
    """The loss of every step; weights, batches and masks depend on the seed alone, not on the implementation."""
    torch.manual_seed(seed)
    model = xMAE(ModelCfg(**CFG, seq_len=L, patch_len=L // PATCHES, dropout=dropout, lag=lag), impl=impl).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, weight_decay=0.01, betas=(0.9, 0.95), fused=True)
    ppg, ecg = recordings(L)
    draws = torch.Generator().manual_seed(seed)
    curve = []
    for _ in range(steps):
        chosen = torch.randint(len(ppg), (B,), generator=draws)
        mask = random_masking(B, PATCHES, 0.8, generator=draws)
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
    plain, fast = (losses(impl, 0, 0.0, steps=200, B=16, L=200, lag=lag) for impl in ("reference", "cpu"))
    assert plain[-1] < 0.8 * plain[0]
    assert max(abs(a - b) / b for a, b in zip(fast, plain, strict=True)) < 1e-3


def test_final_losses_agree_within_noise_with_dropout():
    def final(impl: str, seed: int) -> float:
        return statistics.fmean(losses(impl, seed, 0.1, steps=60, B=8, L=100)[-20:])

    finals = {impl: [final(impl, seed) for seed in range(5)] for impl in ("reference", "cpu")}
    # The same seeds have the same weights, batches and masks: what is left between the pairs is dropout's noise.
    differences = [a - b for a, b in zip(finals["cpu"], finals["reference"], strict=True)]
    noise = statistics.stdev(differences) / len(differences) ** 0.5
    assert abs(statistics.fmean(differences)) < 4 * noise
    assert noise < 0.05 * statistics.fmean(finals["reference"])
