"""Two processes: the loss curve of one, and a run that survives the death of one of them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from tests.training.conftest import TINY, rows
from xmae_fast.training import pretrain, read_train_cfg
from xmae_fast.training.run_folder import RunFolder

pytest.importorskip("lightning")
yaml = pytest.importorskip("yaml")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no torch.distributed"),
]


@pytest.fixture(scope="module")
def config(shards, tmp_path_factory) -> Path:
    """A run of 6 steps with statistics over all processes, and without dropout, which each process draws for itself."""
    path = tmp_path_factory.mktemp("two") / "two.yaml"
    values = {
        "data": [str(shards)], "seg_len": 5, "model_params": TINY | {"dropout": 0.0}, "quality": 0, "batch_size": 8,
        "max_steps": 6, "lr": 1e-3, "log_every": 1, "checkpoint_every": 2, "tensorboard": False, "accelerator": "cpu",
        "sync_batchnorm": True,
    }  # fmt: skip
    path.write_text(yaml.safe_dump(values))
    return path


def torchrun(*options: str, arguments: tuple[str, ...]) -> subprocess.Popen:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", *options]
    command += ["-m", "xmae_fast.cli", *arguments]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})


def ended(process: subprocess.Popen) -> str:
    """What a process wrote to standard error. If it does not end, it is killed with its workers."""
    try:
        return process.communicate(timeout=150)[1]
    except subprocess.TimeoutExpired:
        for pid in (*workers(process.pid), process.pid):
            os.kill(pid, signal.SIGKILL)
        raise


def pretrain_on_two(config: Path, name: str, *options: str) -> subprocess.Popen:
    arguments = "pretrain", "-c", str(config), "-e", name, "--runs", str(config.parent), "--resume", "auto"
    return torchrun(*options, arguments=arguments)


def curve(folder: Path) -> list[float]:
    return [float(loss or val_loss) for loss, val_loss in rows(folder, "loss", "val_loss")]


@pytest.fixture(scope="module")
def whole(config) -> Path:
    """The folder of an uninterrupted run on two processes."""
    process = pretrain_on_two(config, "whole")
    errors = ended(process)
    assert process.returncode == 0, errors
    return config.parent / "whole"


def test_two_processes_train_on_a_simulation_as_one_does(config):
    """The same segments, masks and truth; the head that tells it has one weight in both processes."""
    pytest.importorskip("scipy")
    values = yaml.safe_load(config.read_text()) | {
        "data": "simulation:3", "simulation": {"segments": 64, "val_segments": 8}, "truth_weight": 0.3,
    }  # fmt: skip
    simulated = config.parent / "simulated.yaml"
    simulated.write_text(yaml.safe_dump(values))
    process = pretrain_on_two(simulated, "simulated_by_two")
    errors = ended(process)
    assert process.returncode == 0, errors
    torch.set_num_threads(1)
    pretrain(read_train_cfg(simulated), "simulated_by_one", runs=config.parent, quiet=True)
    for column in ("loss", "truth_loss", "val_loss"):
        one, two = (
            [float(row[0]) for row in rows(config.parent / f"simulated_by_{name}", column) if row[0]]
            for name in ("one", "two")
        )
        assert len(one) == len(two) > 0
        assert two == pytest.approx(one, rel=1e-4)


def test_two_processes_have_the_loss_curve_of_one(config, whole):
    torch.set_num_threads(1)
    pretrain(read_train_cfg(config), "one", runs=config.parent, quiet=True)
    one, two = curve(config.parent / "one"), curve(whole)
    assert len(one) == len(two) == 8
    # Sums have another order with two processes: a few float32 roundings, which grow in 6 steps of AdamW at 1e-3.
    assert two == pytest.approx(one, rel=1e-4)


def workers(launcher: int) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:  # it has ended meanwhile
                continue
            if parent == launcher:
                found.append(int(entry.name))
    return found


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds processes in /proc")
def test_a_run_survives_the_death_of_a_process(config, whole):
    process = pretrain_on_two(config, "killed", "--max-restarts=1", "--monitor-interval=0.1")
    last = RunFolder(config.parent / "killed").last
    deadline = time.monotonic() + 120
    while not last.is_file():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(max(workers(process.pid)), signal.SIGKILL)
    errors = ended(process)
    assert process.returncode == 0, errors
    starts = yaml.safe_load((config.parent / "killed" / "run.json").read_text())["starts"]
    assert [start["step"] > 0 for start in starts] == [False, True]
    assert curve(config.parent / "killed") == curve(whole)


def exchange() -> None:
    """What each of two processes does for the test below."""
    from xmae_fast.training import sync_batchnorm

    torch.distributed.init_process_group("gloo")
    rank = torch.distributed.get_rank()
    torch.manual_seed(0)
    x, weight, bias = torch.randn(5, 3, 7, dtype=torch.float64), torch.rand(3).double(), torch.rand(3).double()
    pull = torch.randn(5, 3, 7, dtype=torch.float64)
    wanted_x, own = x.clone().requires_grad_(), x[2:] if rank else x[:2]  # of different sizes
    own = own.clone().requires_grad_()
    wanted_statistics = [torch.zeros(3).double(), torch.ones(3).double()]
    wanted = F.batch_norm(wanted_x, *wanted_statistics, weight, bias, True, 0.1, 1e-5)
    norm = sync_batchnorm.SynchronisedBatchNorm1d(3).double()
    norm.weight.data, norm.bias.data = weight, bias
    statistics = [norm.running_mean, norm.running_var]
    got = norm(own)
    (wanted * pull).sum().backward()
    (got * (pull[2:] if rank else pull[:2])).sum().backward()
    mine = slice(2, None) if rank else slice(2)
    torch.testing.assert_close(got, wanted[mine])
    torch.testing.assert_close(own.grad, wanted_x.grad[mine])
    torch.testing.assert_close(statistics, wanted_statistics)
    torch.distributed.destroy_process_group()


def test_synchronised_batch_norm_is_that_of_the_whole_batch(on_two_processes):
    on_two_processes(exchange)
