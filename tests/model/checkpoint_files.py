"""A tiny model, its published dictionary form, and files of its weights."""

from __future__ import annotations

import torch

from xmae_fast import ModelCfg, xMAE

CFG = ModelCfg(seq_len=200, patch_len=20, d_model=16, nhead=2, proj_dim=8, stem_ch=4, depth_ppg=1)
PARAMS = {"patch_len": 20, "d_model": 16, "nhead": 2, "latent_dim": 8, "stem_ch": 4, "depth_ecg": 1, "depth_ppg": 1,
          "depth_bridge": 1}  # fmt: skip
PUBLISHED = {"sampling_freq": 100, "seg_len": 2, "source": "PPG+ECG", "model_params": PARAMS}


def made(seed: int) -> xMAE:
    torch.manual_seed(seed)
    model = xMAE(CFG)
    for buffer in model.buffers():
        if buffer.is_floating_point():
            buffer.uniform_(0.5, 1.5)
    return model


def assert_same(loaded: xMAE, model: xMAE) -> None:
    assert loaded.cfg == model.cfg
    want = model.state_dict()
    assert list(loaded.state_dict()) == list(want)
    assert all(torch.equal(value, want[key]) for key, value in loaded.state_dict().items())


def saved(content, path, **options):
    torch.save(content, path, **options)
    return path


def with_prefix(state, prefix):
    return {prefix + key: value for key, value in state.items()}
