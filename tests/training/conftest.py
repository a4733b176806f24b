"""Simulated shards and a tiny configuration, for runs of some steps."""

from __future__ import annotations

import csv
import multiprocessing
import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from xmae_fast.cli import main
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


@pytest.fixture(scope="session")
def on_two_processes() -> Callable[..., None]:
    """Calls a function in two processes as torchrun would, but without it: a server imports what they need once."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["lightning.fabric", "xmae_fast.training.pretraining"])

    def run(function: Callable[..., None], *arguments: object) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        processes = [context.Process(target=_as_rank, args=(rank, port, function, arguments)) for rank in range(2)]
        for process in processes:
            process.start()
        for process in processes:
            process.join(150)
            process.kill()  # if it has not ended
            process.join()
        assert [process.exitcode for process in processes] == [0, 0]

    return run


def _as_rank(rank: int, port: int, function: Callable[..., None], arguments: tuple[object, ...]) -> None:
    torch.set_num_threads(1)
    os.environ |= {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "TORCHELASTIC_RUN_ID": "test",
        "TORCHELASTIC_RESTART_COUNT": "0",
    }  # fmt: skip
    function(*arguments)


def rows(folder: Path, *columns: str) -> list[tuple[str, ...]]:
    """The cells of these columns of a run's metrics.csv, as they are written."""
    with open(folder / "metrics.csv", newline="") as file:
        return [tuple(row[name] for name in columns) for row in csv.DictReader(file)]


@pytest.fixture
def refusal(tmp_path, capsys) -> Callable[[dict], str]:
    """Gives the line with which `xmae-fast pretrain` refuses a configuration."""

    def refused(cfg: dict) -> str:
        import yaml

        config = tmp_path / "tiny.yaml"
        config.write_text(yaml.safe_dump(cfg))
        assert main(["pretrain", "-c", str(config), "-e", "x", "--runs", str(tmp_path / "runs")]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        return error

    return refused
