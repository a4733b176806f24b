"""Small models whose weights are frozen, what they are asked for, and the check that nothing stays frozen behind."""

from __future__ import annotations

import copy
import gc

import pytest
import torch
from torch import Tensor, nn

from xmae_fast import ModelCfg, random_masking, xMAE
from xmae_fast.backend import MODEL_OPS
from xmae_fast.ops import _frozen

CFG = {"seq_len": 80, "patch_len": 20, "d_model": 48, "nhead": 4, "proj_dim": 16, "stem_ch": 8}
MATRICES = (
    "stem.enc1.1.fuse.0.weight", "stem.enc3.0.branches.2.0.weight", "stem.lat2.weight", "stem.head.0.weight",
    "patcher.proj.weight", "encoder.blocks.0.attn.in_proj_weight", "encoder.blocks.1.attn.out_proj.weight",
    "encoder.blocks.0.mlp.0.weight", "encoder.blocks.1.mlp.2.weight",
)  # fmt: skip

NOT_FORWARD = ("bridger.ppg2ecg.", "ecg_path.proj.", "ppg_path.dec_blk.", "ppg_path.decoder.")  # does not read these


@pytest.fixture(autouse=True)
def _built(need_impl):
    for op in MODEL_OPS:
        need_impl(op, "cpu")
    yield
    gc.collect()
    assert not _frozen._versions
    assert not _frozen._holds


def make_model(seed: int = 0, **options) -> xMAE:
    torch.manual_seed(seed)
    return xMAE(ModelCfg(**CFG, **options), impl="cpu").eval()


def signal(B: int = 2) -> Tensor:
    return torch.randn(B, 80, generator=torch.Generator().manual_seed(1))


PPG = signal()


def matrix(model: xMAE, name: str) -> nn.Parameter:
    return model.get_parameter(f"ppg_path.{name}")


@torch.no_grad()
def forward(model: xMAE) -> Tensor:
    mask = random_masking(2, 4, 0.5, generator=torch.Generator().manual_seed(2))
    out = model(PPG, PPG.flip(0), ids_keep_ecg=mask.ids_keep, ids_restore_ecg=mask.ids_restore)
    return torch.cat([out["ppg_embedding"].flatten(), out["ecg_reconstructed"].flatten()])


def embed(model: xMAE) -> Tensor:
    return model.embed(PPG)


CALLS = (embed, forward)


def plainly(call, model: xMAE) -> Tensor:
    """What `call` gives of the weights that are there now, by a model that never was frozen or packed."""
    return call(copy.deepcopy(model))


def negate(model, weight):
    with torch.no_grad():
        weight.neg_()
