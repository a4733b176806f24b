"""A tiny model of five-second segments at 100 Hz, PPG to record, and shards to embed."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import xmae_fast
from tests.data.layouts import write_packed

pytest.importorskip("scipy")
CFG = xmae_fast.ModelCfg(
    seq_len=500, patch_len=50, d_model=16, nhead=2, depth_ecg=1, depth_ppg=1, depth_bridge=1, stem_ch=4, proj_dim=8
)


@pytest.fixture
def model() -> xmae_fast.xMAE:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    return xmae_fast.xMAE(CFG).eval()


def pulses(seconds: float, fs: float, rate: float = 72, seed: int = 0, noise: float = 0.02) -> np.ndarray:
    """A PPG [T] of about `rate` pulses a minute, with a slow wander and noise, in no particular unit."""
    rng = np.random.default_rng(seed)
    time = np.arange(round(seconds * fs)) / fs
    phase = np.cumsum(rate / 60 / fs * (1 + 0.05 * np.sin(2 * np.pi * 0.1 * time + rng.uniform(0, 6))))
    beat = phase % 1
    width = np.where(beat < 0.2, 0.07, 0.16)  # it rises faster than it falls
    wave = np.exp(-(((beat - 0.2) / width) ** 2)) + 0.3 * np.exp(-(((beat - 0.55) / 0.12) ** 2))
    wander = 0.5 * np.sin(2 * np.pi * 0.2 * time + rng.uniform(0, 6))
    return 2000 + 300 * (wave + wander + noise * rng.normal(size=len(time)))


@pytest.fixture(scope="session")
def packed(tmp_path_factory):
    """A packed shard of 90 segments of 500 samples, two to a subject."""
    rng = np.random.default_rng(5)
    ppg = np.stack([pulses(5, 100, rng.uniform(50, 110), seed) for seed in range(90)])
    ppg = ppg - ppg.min(1, keepdims=True)
    signals = np.stack([2 * ppg / ppg.max(1, keepdims=True) - 1, rng.normal(size=ppg.shape)])
    return write_packed(tmp_path_factory.mktemp("packed") / "shard.h5", signals)
