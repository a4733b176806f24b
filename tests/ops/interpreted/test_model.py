"""A whole training step on the Triton kernels, in the interpreter: loss, gradients and buffers against float64."""

from __future__ import annotations

import copy

import pytest
import torch

from benchmarks.harness.numerics import Yardstick, season
from tests.ops.interpreted.checks import poisoned_memory
from xmae_fast import ModelCfg, random_masking, xMAE
from xmae_fast.ops._dropout import seeds_from

CFG = ModelCfg(
    seq_len=48, patch_len=12, d_model=16, nhead=2, depth_ecg=1, depth_ppg=1, stem_ch=8, proj_dim=8, lag="gaussian"
)
B = 3


@pytest.fixture(scope="module")
def step():
    """step(impl, dtype, dropout) -> what a step computes, by name."""
    torch.manual_seed(0)
    model = season(xMAE(CFG, impl="reference")).train()
    ppg, ecg = torch.randn(2, B, CFG.seq_len)
    mask = random_masking(B, CFG.num_patches, 0.5, "scatter", impl="reference")

    def run(impl: str, dtype: torch.dtype = torch.float32, dropout: float = 0.0) -> dict[str, torch.Tensor]:
        copied = copy.deepcopy(model).to(dtype)
        copied.impl = impl
        for module in copied.modules():
            if isinstance(getattr(module, "dropout", None), float):
                module.dropout = dropout
        ids = {"ids_keep_ecg": mask.ids_keep, "ids_restore_ecg": mask.ids_restore}
        with poisoned_memory(), seeds_from(torch.arange(40).reshape(20, 2)):
            out = copied(ppg.to(dtype), ecg.to(dtype), **ids, return_loss=True, return_embeddings=True)
            (out["loss"] + out["ppg_embedding"].square().mean()).backward()
        results = {name: x.detach() for name, x in out.items()}
        gradients = [x.grad.flatten() for x in copied.parameters() if x.grad is not None]
        statistics = [x.flatten() for x in copied.buffers() if x.is_floating_point()]
        return results | {"gradient": torch.cat(gradients), "running statistics": torch.cat(statistics)}

    return run


def test_training_step(step):
    want, plain = step("reference", torch.float64), step("reference")
    Yardstick(want, plain, torch.float32).check(step("triton"))


def test_dropout_is_that_of_the_cpu(step):
    """The same seeds drop the same elements on both, so the whole step agrees."""
    on_cpu, ours = step("cpu", dropout=0.2), step("triton", dropout=0.2)
    for name, x in on_cpu.items():
        assert (ours[name] - x).norm() <= 1e-4 * x.norm(), name
