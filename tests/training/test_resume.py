"""A run that was stopped goes on and gives the same bits as one that was not; a loss that is not finite ends a run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from tests.training.conftest import TINY, rows
from xmae_fast.cli import main
from xmae_fast.model.checkpoint import CheckpointError
from xmae_fast.training import PretrainingError, pretrain
from xmae_fast.training.records import Losses, MetricsFile, NonFiniteLoss

pytest.importorskip("lightning")
yaml = pytest.importorskip("yaml")
CURVE = ("step", "epoch", "loss", "val_loss", "lr", "mask_ratio")


def stop_at(step: int):
    """A callback that sends SIGTERM after that step."""

    def callback(steps: int) -> None:
        if steps == step:
            os.kill(os.getpid(), signal.SIGTERM)

    return callback


def same_weights(first, second) -> bool:
    states = [torch.load(path, weights_only=True) for path in (first, second)]
    optimizers = [list(state["optimizer_states"][0]["state"].values()) for state in states]
    a, b = (state["state_dict"] for state in states)
    return all(torch.equal(a[key], b[key]) for key in b) and all(
        torch.equal(x[name], y[name]) for x, y in zip(*optimizers, strict=True) for name in x
    )


@pytest.mark.parametrize(
    ("at", "changes"),
    [
        (3, {"use_cl": True, "curriculum": {"start_below": 9, "min_epochs": 1, "improvement": 0}}),
        (5, {"accumulate": 2}),  # the last step of an epoch
        (7, {"impl": "reference"}),  # whose dropout draws from torch's generator
    ],
)
def test_an_interrupted_run_equals_the_uninterrupted_one(cfg, tmp_path, at, changes):
    cfg |= changes
    whole = pretrain(cfg, "whole", runs=tmp_path, quiet=True)
    before = signal.getsignal(signal.SIGTERM)
    cut = pretrain(cfg, "cut", runs=tmp_path, quiet=True, callback=stop_at(at))
    assert cut.status == "SIGTERM"
    assert cut.steps == (at if at % 5 else at + 1)  # a signal after the last step of an epoch is seen in the next epoch
    assert signal.getsignal(signal.SIGTERM) == before
    torch.manual_seed(0)
    resumed = pretrain(cfg, "cut", runs=tmp_path, quiet=True, resume=True)
    assert (resumed.status, resumed.steps, resumed.epochs) == ("finished", whole.steps, 2)
    assert rows(tmp_path / "cut", *CURVE) == rows(tmp_path / "whole", *CURVE)
    assert (resumed.val_loss, resumed.best_val_loss) == (whole.val_loss, whole.best_val_loss)
    assert same_weights(resumed.last, whole.last)
    assert resumed.elapsed_s > cut.elapsed_s


def test_a_finished_run_may_be_given_more_steps(cfg, tmp_path):
    first = pretrain(cfg | {"max_steps": 3}, "a", runs=tmp_path, quiet=True)
    again = pretrain(cfg | {"max_steps": 3}, "a", runs=tmp_path, quiet=True, resume="auto")
    assert again.steps == 3
    assert again.val_loss == first.val_loss
    assert pretrain(cfg, "a", runs=tmp_path, quiet=True, resume="auto").steps == 10
    with pytest.raises(ValueError, match="seed: the state is of a loader with 77, this one has 78"):
        pretrain(cfg | {"seed": 78}, "a", runs=tmp_path, quiet=True, resume=True)
    with pytest.raises(CheckpointError, match="d_model: the run was begun with 16, the configuration has 32"):
        pretrain(cfg | {"model_params": TINY | {"d_model": 32}}, "a", runs=tmp_path, quiet=True, resume=True)


def test_auto_begins_where_there_is_nothing_to_resume(cfg, tmp_path):
    (tmp_path / "a" / "checkpoints").mkdir(parents=True)
    (tmp_path / "a" / "metrics.csv").write_text("step\n")
    (tmp_path / "a" / "run.json").write_text('{"starts": []}')
    assert pretrain(cfg | {"max_steps": 1}, "a", runs=tmp_path, quiet=True, resume="auto").steps == 1


def test_metrics_of_a_killed_run_are_cut_back_to_its_checkpoint(tmp_path):
    path = tmp_path / "metrics.csv"
    first = MetricsFile(path, None)
    for step in (2, 4, 6):
        first.write({"step": step, "loss": 0.1})
    first.close()
    with open(path, "a") as file:
        file.write("8,0,0.")
    second = MetricsFile(path, 4)
    second.write({"step": 6, "loss": 0.2})
    second.close()
    assert rows(tmp_path, "step", "loss") == [("2", "0.1"), ("4", "0.1"), ("6", "0.2")]


def test_sigterm_from_outside(cfg, tmp_path):
    """The command saves, exits with 143, and --resume goes on."""
    config = tmp_path / "a.yaml"
    config.write_text(yaml.safe_dump(cfg | {"epochs": 10**5, "log_every": 1, "patience": None}))
    arguments = ["pretrain", "-c", str(config), "-e", "a", "--runs", str(tmp_path)]
    process = subprocess.Popen([sys.executable, "-m", "xmae_fast.cli", *arguments], stderr=subprocess.PIPE, text=True)
    metrics, deadline = tmp_path / "a" / "metrics.csv", time.monotonic() + 120
    while not (metrics.is_file() and len(rows(tmp_path / "a", "step")) > 2):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    told = process.communicate(timeout=60)[1]
    assert process.returncode == 143
    assert "SIGTERM: " in told
    steps = torch.load(tmp_path / "a" / "checkpoints" / "last.ckpt", weights_only=True)["global_step"]
    assert main([*arguments, "--resume", "--quiet", "--set", f"max_steps={steps + 2}"]) == 0
    assert rows(tmp_path / "a", "step")[-1] == (str(steps + 2),)


def test_a_loss_that_is_not_finite_ends_the_run(cfg, tmp_path, capsys):
    config = tmp_path / "a.yaml"
    config.write_text(yaml.safe_dump(cfg | {"lr": 1e30, "warmup": 0, "checkpoint_every": 1, "log_every": 4}))
    assert main(["pretrain", "-c", str(config), "-e", "a", "--runs", str(tmp_path), "--quiet"]) == 1
    error = capsys.readouterr().err
    assert "xmae-fast: the loss of step 1, or what it made of the weights, is nan; the batch is in" in error
    found = torch.load(tmp_path / "a" / "nan_batch.pt", weights_only=True)
    assert (found["step"], sorted(found["batches"]), found["seed"]) == (1, [0, 1], 77)
    assert found["batches"][1]["ppg"].shape == found["batches"][1]["ecg"].shape == (8, 500)
    kept = torch.load(tmp_path / "a" / "checkpoints" / "last.ckpt", weights_only=True)
    assert kept["global_step"] == 1
    assert all(x.isfinite().all() for x in kept["state_dict"].values())


def test_the_saved_batch_is_the_one_that_was_trained_on(cfg, tmp_path, monkeypatch):
    from xmae_fast.training import pretraining, step

    seen = []
    real = step.GraphedStep.__call__

    def call(self, ppg, ecg):
        seen.append((ppg.clone(), ecg.clone()))
        loss = real(self, ppg, ecg)
        return loss * float("nan") if self.steps == 7 else loss

    monkeypatch.setattr(step.GraphedStep, "__call__", call)
    with pytest.raises(PretrainingError, match="the loss of step 6,"):
        pretraining.pretrain(cfg | {"log_every": 50, "checkpoint_every": 6}, "a", runs=tmp_path, quiet=True)
    assert torch.load(tmp_path / "a" / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 6
    found = torch.load(tmp_path / "a" / "nan_batch.pt", weights_only=True)["batches"]
    assert sorted(found) == [5, 6]
    for number in (5, 6):
        assert torch.equal(found[number]["ppg"], seen[number][0])
        assert torch.equal(found[number]["ecg"], seen[number][1])
    assert (found[6]["epoch"], found[6]["batch"]) == (1, 1)


def test_losses_name_the_first_bad_step():
    losses = Losses()
    for value in (0.5, 0.25, float("inf"), float("nan")):
        losses.add(torch.tensor(value))
    with pytest.raises(NonFiniteLoss) as found:
        losses.read(next_step=14, world_size=1)
    assert (found.value.step, found.value.value) == (12, float("inf"))
