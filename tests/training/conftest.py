"""Simulated shards and a tiny configuration, for runs of some steps."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch

from xmae_fast.data import SimulationCfg, simulate

TINY = {"patch_len": 50, "d_model": 16, "nhead": 2, "depth_ecg": 1, "depth_ppg": 1, "depth_bridge": 1, "stem_ch": 4,
        "latent_dim": 8, "dropout": 0.1}  # fmt: skip


@pytest.fixture(scope="session")
def shards(tmp_path_factory) -> Path:
    """Shards with 52 segments of 5 s of 13 subjects: 11 subjects (44 segments) train, 1 validates, 1 is for tests."""
    folder = tmp_path_factory.mktemp("shards")
    simulate(13, 4, seed=5, cfg=SimulationCfg(seg_len=5)).write_shards(folder, segments_per_shard=30)
    return folder


@pytest.fixture
def cfg(shards) -> dict:
    """A run of two epochs of five steps."""
    torch.set_num_threads(1)  # for models this small, threads cost more time than they save
    return {
        "data": [str(shards)], "seg_len": 5, "model_params": dict(TINY), "quality": 0, "batch_size": 8, "epochs": 2,
        "lr": 1e-3, "log_every": 2, "tensorboard": False, "accelerator": "cpu",
    }  # fmt: skip


def rows(folder: Path, *columns: str) -> list[tuple[str, ...]]:
    """The cells of these columns of a run's metrics.csv, as they are written."""
    with open(folder / "metrics.csv", newline="") as file:
        return [tuple(row[name] for name in columns) for row in csv.DictReader(file)]
