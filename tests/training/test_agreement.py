"""Two processes of `pretrain` whose shards or settings differ stop before the first step, both with the same line."""

from __future__ import annotations

import json
import os
import shutil

import pytest
import torch

from tests.training.conftest import TINY

pytest.importorskip("lightning")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no torch.distributed"),
]
CASES = {
    "missing": "data: expected the same segments on all ranks, got 44 on rank 0, ",
    "nothing": "paths: rank 1 of 2 cannot open the segments: shard",
    "lr": "lr: expected one value on all ranks, got 0.001 on rank 0, 0.002 on rank 1",
}


def work(folder: str) -> None:
    """What each process does: it runs every case and writes how each one ended."""
    from xmae_fast.training import pretrain

    rank, outcome = int(os.environ["RANK"]), {}
    cfg = {
        "seg_len": 5, "model_params": TINY, "quality": 0, "batch_size": 8, "max_steps": 2, "tensorboard": False,
        "accelerator": "cpu",
    }  # fmt: skip
    for case in CASES:
        data = os.path.join(folder, case if rank and case != "lr" else "own")
        data = os.path.join(folder, "none.h5") if rank and case == "nothing" else data
        try:
            changes = {"data": [data], "lr": 2e-3 if rank and case == "lr" else 1e-3}
            outcome[case] = pretrain(cfg | changes, case, runs=f"{folder}/runs", quiet=True).status
        except ValueError as error:
            outcome[case] = str(error)
    with open(os.path.join(folder, f"{rank}.json"), "w") as file:
        json.dump(outcome, file)


def test_processes_with_other_shards(shards, tmp_path, on_two_processes):
    for name in ("own", "missing"):
        shutil.copytree(shards, tmp_path / name)
    (tmp_path / "missing" / "sim_0001.h5").unlink()
    on_two_processes(work, str(tmp_path))
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2))
    assert first == second
    for case, message in CASES.items():
        assert message in first[case]
        assert "\n" not in first[case]
