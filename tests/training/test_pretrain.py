"""Runs of some steps, end to end: command line, run folder, ablations."""

from __future__ import annotations

import json
import math
from importlib.metadata import version
from importlib.util import find_spec
from itertools import count
from types import SimpleNamespace

import pytest
import torch

from tests.training.conftest import TINY, rows
from xmae_fast import load_checkpoint, xMAE
from xmae_fast.cli import main
from xmae_fast.config import cfg_from_dict
from xmae_fast.ops import masks_from_seed
from xmae_fast.training import GraphedStep, adamw, control, loop, pretrain, train_cfg_from_dict, validation_loss
from xmae_fast.training.feed import make_feed
from xmae_fast.training.parameters import freeze_untrained
from xmae_fast.training.run_folder import RunFolder

pytest.importorskip("lightning")
yaml = pytest.importorskip("yaml")


def test_from_the_command_line(cfg, tmp_path, capsys):
    config, runs = tmp_path / "tiny.yaml", tmp_path / "runs"
    config.write_text(yaml.safe_dump(cfg | {"keep_every": 1}))
    arguments = ["pretrain", "-c", str(config), "-e", "first", "--runs", str(runs), "--set", "lr=2e-3"]
    has_tensorboard = find_spec("tensorboard") is not None
    assert main([*arguments, "--set", "tensorboard=true"]) == 0
    told = capsys.readouterr().err
    assert "44 segments of 11 subjects to train on, 4 of 1 to validate; 10 steps of 8 on 1 x cpu" in told
    assert "the model is on cpu, CUDA graphs need a CUDA device" in told
    assert "epoch 1 step 6 (55%): loss" in told
    assert "finished: 10 steps" in told

    folder = runs / "first"
    assert {path.name for path in (folder / "checkpoints").iterdir()} == {
        "last.ckpt", "best.ckpt", "epoch-001.ckpt", "epoch-002.ckpt"
    }  # fmt: skip
    assert bool(list((folder / "tensorboard").glob("events.*"))) == has_tensorboard
    assert ("tensorboard is not installed" in told) != has_tensorboard
    assert yaml.safe_load((folder / "config.yaml").read_text())["lr"] == 2e-3
    about = json.loads((folder / "run.json").read_text())
    assert about["packages"]["torch"] == version("torch")
    assert about["data"]["train"]["subjects"] == 11
    assert [shard["segments"] for shard in about["data"]["train"]["shards"]] == [30, 22]
    assert about["result"]["status"] == "finished"
    assert [row[0] for row in rows(folder, "step")] == ["2", "4", "5", "6", "8", "10", "10"]
    val_losses = [float(row[0]) for row in rows(folder, "val_loss") if row[0]]
    assert about["result"]["best_val_loss"] == min(val_losses)
    assert all(0 < float(row[0]) < math.inf for row in rows(folder, "segments_per_s") if row[0])

    model = load_checkpoint(folder / "checkpoints" / "last.ckpt")
    assert model.cfg == cfg_from_dict(cfg)
    assert model.embed(torch.zeros(1, 500)).shape == (1, 8)

    assert main(arguments) == 2
    assert "is finished, after 10 steps; --resume goes on, --overwrite removes it first" in capsys.readouterr().err
    assert main([*arguments, "--overwrite", "--set", "max_steps=1", "--quiet"]) == 0
    assert capsys.readouterr().err == ""
    assert [row[0] for row in rows(folder, "step")] == ["1", "1"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 45}, "batch_size: expected at most the 44 training segments, got 45"),
        ({"accumulate": 3}, "batch_size: expected a multiple of 3 (processes x accumulate = 1 x 3)"),
        ({"seg_len": 10}, "seg_len: expected that of the shards, 500 samples in data, got 1000"),
        ({"sampling_freq": 50, "seg_len": 10}, "sampling_freq: expected that of the shards, 100 Hz, got 50"),
        ({"impl": "cuda"}, "impl='cuda' was asked for token_gather"),
        ({"data": ["none.h5"]}, "none.h5"),
    ],
)
def test_what_does_not_fit_is_one_line(cfg, refusal, changes, message):
    assert message in refusal(cfg | changes)


def test_folders_that_are_no_runs_are_left_alone(cfg, tmp_path):
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "thesis.tex").touch()
    with pytest.raises(FileExistsError, match="expected the folder of a run, it holds 'thesis.tex'"):
        pretrain(cfg, "x", runs=tmp_path, overwrite=True)
    with pytest.raises(FileNotFoundError, match="resume: expected a run to go on with"):
        pretrain(cfg, "y", runs=tmp_path, resume=True)
    with pytest.raises(ValueError, match="name: expected the name of a folder"):
        pretrain(cfg, "../y", runs=tmp_path)
    with pytest.raises(ValueError, match="at most one of them"):
        pretrain(cfg, "y", runs=tmp_path, resume=True, overwrite=True)


ABLATIONS = {
    "unimodal": {"model_params": TINY | {"use_cross_bridge": False}},
    "ecg alone": {"source": "ecg"},
    "window": {"model_params": TINY | {"lag": "window(0.0, 1.0)"}},
    "gaussian": {"model_params": TINY | {"lag": "gaussian"}},
    "table": {"model_params": TINY | {"lag": "table"}},
    "scatter": {"mask_mode": "scatter", "mask_ratio_ecg": 0.5, "mask_ratio_ppg": 0.2},
    "reversed": {"swap_signals": True},
    "curriculum": {"use_cl": True, "curriculum": {"start_below": 9, "min_epochs": 0, "improvement": 0}},
    "weights": {"mwm_ecg": 2.0, "accumulate": 2, "augment": "published", "shuffle": "blocks"},
    "bf16": {"precision": "bf16"},
}


@pytest.mark.parametrize("name", ABLATIONS)
def test_ablations(cfg, tmp_path, name):
    result = pretrain(cfg | {"epochs": 1, "max_steps": 2} | ABLATIONS[name], "x", runs=tmp_path, quiet=True)
    assert (result.status, result.steps) == ("finished", 2)
    assert math.isfinite(result.val_loss)
    load_checkpoint(result.best)


def test_swapped_signals(cfg):
    choices = (train_cfg_from_dict(cfg | {"swap_signals": swap}) for swap in (False, True))
    plain, swapped = (make_feed(choice, torch.device("cpu"), 0, 1) for choice in choices)
    (ppg, ecg), (first, second) = next(plain.training()), next(swapped.training())
    assert torch.equal(ppg, second)
    assert torch.equal(ecg, first)


@pytest.mark.parametrize(
    ("source", "changes"),
    [("ppg+ecg", {}), ("ppg+ecg", {"use_cross_bridge": False}), ("ppg+ecg", {"lag": "gaussian"}), ("ecg", {})],
)
def test_exactly_the_parameters_without_gradient_are_frozen(source, changes):
    torch.manual_seed(0)
    cfg = cfg_from_dict({"seg_len": 5, "source": source, "model_params": TINY | changes})
    model = xMAE(cfg).train()
    GraphedStep(model, torch.optim.SGD(model.parameters(), lr=0.0))(*torch.randn(2, 4, 500))
    without = {name for name, p in model.named_parameters() if p.grad is None}
    trained = freeze_untrained(model)
    assert {name for name, p in model.named_parameters() if not p.requires_grad} == without
    assert len(trained) + len(without) == len(list(model.parameters()))


def test_the_published_model_trains_the_published_share():
    model = xMAE(cfg_from_dict({"model_params": {"latent_dim": 256, "d_model": 256, "depth_ecg": 1, "depth_ppg": 2,
                                                 "depth_bridge": 1}}))  # fmt: skip
    assert sum(p.numel() for p in freeze_untrained(model)) == pytest.approx(5.02e6, rel=1e-3)


def test_data_in_the_memory_of_the_device_give_the_same_run(cfg, tmp_path):
    cfg = cfg | {"augment": True, "max_steps": 7}
    pretrain(cfg, "read", runs=tmp_path, quiet=True)
    pretrain(cfg | {"resident": True}, "resident", runs=tmp_path, quiet=True)
    weights = [xMAE.from_pretrained(tmp_path / name).state_dict() for name in ("read", "resident")]
    assert all(torch.equal(x, weights[1][name]) for name, x in weights[0].items())
    with pytest.raises(ValueError, match="resident: expected false for a simulation"):
        train_cfg_from_dict(cfg | {"data": "simulation:", "resident": True})


def test_the_curriculum_reaches_the_run(cfg, tmp_path):
    course = {"curriculum": {"schedule": [[0, 0.5], [4, 0.9]], "interpolation": "steps"}}
    pretrain(cfg | course, "a", runs=tmp_path, quiet=True)
    assert [row[0] for row in rows(tmp_path / "a", "mask_ratio")] == ["0.5", "0.5", "0.8", "0.9", "0.9", "0.9", "0.8"]


def test_early_stopping_and_the_best_checkpoint(cfg, tmp_path, monkeypatch):
    losses = [0.3, 0.2, 0.25, 0.21, 0.1]
    monkeypatch.setattr(loop, "validation_loss", lambda *_, **__: losses.pop(0))
    result = pretrain(cfg | {"batch_size": 44, "patience": 2, "epochs": 9}, "b", runs=tmp_path, quiet=True)
    assert (result.status, result.epochs, result.val_loss, result.best_val_loss) == ("early stopping", 4, 0.21, 0.2)
    steps = [torch.load(path, weights_only=True)["global_step"] for path in (result.best, result.last)]
    assert steps == [2, 4]


def test_time_is_a_limit(cfg, tmp_path, monkeypatch):
    ticks = count()
    monkeypatch.setattr(control, "time", SimpleNamespace(perf_counter=lambda: next(ticks)))
    result = pretrain(cfg | {"max_minutes": 1, "epochs": 10**6, "log_every": 1}, "a", runs=tmp_path, quiet=True)
    assert result.status == "out of time"
    assert 60 <= result.elapsed_s < 80
    rates = [float(row[0]) for row in rows(tmp_path / "a", "lr") if row[0]]
    assert max(rates) > 0.9e-3
    assert rates[-1] < 0.1e-3  # the rate has come down, though only a millionth of the epochs has passed
    assert result.last.is_file()


def test_validation_has_the_same_masks_each_time(cfg):
    torch.manual_seed(0)
    model = xMAE(cfg_from_dict(cfg)).train()
    batches = [tuple(torch.randn(2, 6, 500)), tuple(torch.randn(2, 3, 500))]
    first = validation_loss(model, batches)
    assert validation_loss(model, batches) == first
    assert validation_loss(model, batches, seed=1) != first
    assert model.training
    model.eval()
    total = 0.0
    for number, (ppg, ecg) in enumerate(batches):
        mask = masks_from_seed(torch.tensor([77, 2 * number]), len(ecg), 10, 8, "anchor")
        ids = {"ids_keep_ecg": mask.ids_keep, "ids_restore_ecg": mask.ids_restore}
        total += len(ecg) * model(ppg, ecg, **ids, return_loss=True)["loss"].item()
    assert first == pytest.approx(total / 9, rel=1e-6)


def test_rows_of_several_processes_have_the_masks_of_the_whole(cfg):
    """The mean of two ranks' gradients is the gradient of one process, without statistics of batches and dropout."""
    torch.manual_seed(0)
    model = xMAE(cfg_from_dict(cfg | {"model_params": TINY | {"dropout": 0.0}})).eval()
    ppg, ecg = torch.randn(2, 8, 500)
    gradients = []
    for rank, world in ((0, 1), (0, 2), (1, 2)):
        place = {"rank": rank, "world_size": world}
        step = GraphedStep(model, torch.optim.SGD(model.parameters(), lr=0.0), mode="scatter", **place)
        step(ppg[rank::world], ecg[rank::world])
        gradients.append([p.grad for p in model.parameters() if p.grad is not None])
    for whole, first, second in zip(*gradients, strict=True):
        torch.testing.assert_close((first + second) / 2, whole, rtol=1e-4, atol=1e-6)


def test_ranks_have_dropouts_of_their_own(cfg):
    torch.manual_seed(0)
    ppg, ecg = torch.randn(2, 4, 500)
    losses = []
    for rank in (0, 1):
        torch.manual_seed(0)
        model = xMAE(cfg_from_dict(cfg)).train()
        # mask ratio 1: all rows are masked alike, so that only dropout differs
        step = GraphedStep(model, adamw(model.parameters()), rank=rank, world_size=2, mask_ratio=1.0)
        losses.append(step(ppg, ecg))
    assert not torch.equal(*losses)


def test_overwriting_leaves_other_files_alone(cfg, tmp_path, monkeypatch):
    """overwrite removes what a run wrote, even with other settings; other files in its folder stay."""
    cfg = cfg | {"max_steps": 1, "keep_every": 1}
    pretrain(cfg, "x", runs=tmp_path, quiet=True)
    folder = tmp_path / "x"
    foreign = ["notes.txt", "checkpoints/thesis.ckpt", "checkpoints/best.ckpt.txt", "tensorboard/mine.csv", "data/a.h5"]
    for name in foreign:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(name)
    (folder / "checkpoints" / "epoch-007.ckpt").touch()
    (folder / "nan_batch_1.pt").touch()
    pretrain(cfg | {"keep_every": 0}, "x", runs=tmp_path, overwrite=True, quiet=True)
    made = ["config.yaml", "run.json", "metrics.csv", "checkpoints/last.ckpt", "checkpoints/best.ckpt"]
    found = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    assert sorted(found) == sorted(foreign + made)
    assert [(folder / name).read_text() for name in foreign] == foreign
    assert len(json.loads((folder / "run.json").read_text())["starts"]) == 1


@pytest.mark.parametrize(
    ("name", "options"),
    [
        (name, options)
        for name in ("config.yaml", "checkpoints/last.ckpt", "run.json", "checkpoints/deep/mine.txt")
        for options in ({"overwrite": True}, {"resume": "auto"})
        if name != "checkpoints/last.ckpt" or options == {"overwrite": True}  # with last.ckpt a run can be resumed
    ],
)
def test_files_under_the_names_of_a_runs_are_left_alone(cfg, tmp_path, name, options):
    (tmp_path / "x" / name).parent.mkdir(parents=True)
    (tmp_path / "x" / name).write_text("lr: 1")
    with pytest.raises(FileExistsError, match=f"expected the folder of a run, it holds '{name}'"):
        pretrain(cfg, "x", runs=tmp_path, quiet=True, **options)
    assert (tmp_path / "x" / name).read_text() == "lr: 1"


def test_a_run_that_was_killed_at_its_beginning_is_known(cfg, tmp_path):
    folder = RunFolder(tmp_path / "x")
    folder.open(False, False)
    folder.write_config(train_cfg_from_dict(cfg))
    folder.close()
    folder.about.unlink()  # earlier versions left the folder like this
    assert folder.open("auto", False) is False
    folder.close()
    assert sorted(path.name for path in folder.path.iterdir()) == ["checkpoints", "run.json"]


def test_two_runs_in_one_folder(cfg, tmp_path):
    """The second run stops with one line, and the first one goes on as if it had not been there."""
    refused = []

    def second(step):
        for options in ({"overwrite": True}, {"resume": "auto"}):
            with pytest.raises(BlockingIOError, match="another process is writing to") as caught:
                pretrain(cfg, "x", runs=tmp_path, quiet=True, **options)
            refused.append(str(caught.value))

    result = pretrain(cfg | {"max_steps": 2}, "x", runs=tmp_path, quiet=True, callback=second)
    assert result.status == "finished"
    assert len(refused) == 4
    assert not any("\n" in line for line in refused)
    assert pretrain(cfg | {"max_steps": 3}, "x", runs=tmp_path, quiet=True, resume=True).status == "finished"
