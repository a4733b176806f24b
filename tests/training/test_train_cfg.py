"""The configuration of a run: published form, other names, overrides, and what is refused."""

from __future__ import annotations

import pytest

from tests.training.conftest import TINY
from xmae_fast import ModelCfg
from xmae_fast._configs import config_names
from xmae_fast._yaml import with_overrides
from xmae_fast.cli import main
from xmae_fast.training import TrainCfg, read_train_cfg, train_cfg_from_dict

pytest.importorskip("yaml")


def test_the_published_values_are_the_defaults():
    cfg = TrainCfg(["x.h5"])
    published = {
        "mask_ratio_ppg": 0, "mask_ratio_ecg": 0.8, "mask_mode": "anchor", "mwm_ecg": 1, "lr": 3e-4,
        "weight_decay": 0.01, "betas": [0.9, 0.95], "warmup": 0.1, "batch_size": 512, "epochs": 37, "patience": 17,
        "seed": 77, "quality": 0.9, "sampling_freq": 100, "seg_len": 10, "source": "ppg+ecg", "sync_batchnorm": False,
    }  # fmt: skip
    assert {key: getattr(cfg, key) for key in published} == published


def test_shipped_configurations():
    published = read_train_cfg("xmae")
    assert published.model_cfg() == ModelCfg(d_model=256, proj_dim=256)
    assert published == TrainCfg(published.data, model_params=published.model_params)
    small = read_train_cfg("xmae_small")
    assert small.max_minutes == 10
    assert small.model_cfg().d_model < 256


def test_configurations_go_by_name(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert config_names() == ["xmae", "xmae_sim_base", "xmae_sim_small", "xmae_small"]
    small = read_train_cfg("xmae_small", ["data=x.h5"])
    assert read_train_cfg("configs/xmae_small.yaml", ["data=x.h5"]) == small  # where the sources had it once
    known = "'xmae', 'xmae_sim_base', 'xmae_sim_small', 'xmae_small' of this package"
    for wrong in ("xmae_smal", "xmae_small.yaml", "runs/xmae_small", "configs/xmae_smal.yaml"):
        with pytest.raises(FileNotFoundError, match=f"expected a YAML file, or {known}, got '{wrong}', which does not"):
            read_train_cfg(wrong)
    (tmp_path / "folder").mkdir()
    with pytest.raises(FileNotFoundError, match="got 'folder', which is a folder"):
        read_train_cfg("folder")
    (tmp_path / "xmae_small").write_text("data: mine.h5\n")  # what is on disk comes first
    assert read_train_cfg("xmae_small").data == ["mine.h5"]
    assert main(["pretrain", "-c", "xmae_smal", "-e", "first"]) == 2
    assert known in capsys.readouterr().err


def test_there_and_back():
    cfg = train_cfg_from_dict({"data": "a.h5", "model_params": TINY, "curriculum": {"schedule": [[0, 0.5], [9, 0.8]]}})
    assert cfg.data == ["a.h5"]
    assert train_cfg_from_dict(cfg.to_dict()) == cfg


def test_other_names_are_understood():
    cfg = train_cfg_from_dict({"data_dir": ["a"], "learning_rate": 1e-3, "max_epochs": 3, "mask_ratio": 0.5})
    assert (cfg.data, cfg.lr, cfg.epochs, cfg.mask_ratio_ecg) == (["a"], 1e-3, 3, 0.5)


def test_empty_values_are_defaults_but_where_null_means_nothing():
    cfg = train_cfg_from_dict({"data": "a", "lr": None, "augment": None, "patience": None})
    assert (cfg.lr, cfg.augment, cfg.patience) == (3e-4, True, None)


def test_a_file_and_overrides(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("data: a.h5\nlr: 3e-4\nmodel_params: {d_model: 64}\nunused:\n")
    with pytest.raises(ValueError, match="unknown key 'unused'"):
        read_train_cfg(path)
    path.write_text("data: a.h5\nlr: 3e-4\nmodel_params: {d_model: 64}\n")
    overrides = ["lr=2e-3", "model_params.lag=window(0.0, 0.8)", "data=*.h5", "betas=[0.8, 0.9]", "max_steps=null"]
    cfg = read_train_cfg(path, overrides)
    assert (cfg.lr, cfg.data, cfg.betas, cfg.max_steps) == (2e-3, ["*.h5"], [0.8, 0.9], None)
    assert cfg.model_params == {"d_model": 64, "lag": "window(0.0, 0.8)"}
    assert cfg.model_cfg().lag.max_s == 0.8
    assert read_train_cfg(path).lr == 3e-4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"learning_rat": 1}, r"unknown key 'learning_rat' \(did you mean 'learning_rate'\?\)"),
        ({"zzz": 1}, "unknown key 'zzz'; known keys are data, "),
        ({"lr": 1, "learning_rate": 2}, "lr: expected once, got it under two names"),
        ({"model_params": {"d_modle": 1}}, r"model_params: unknown key 'd_modle' \(did you mean 'd_model'\?\)"),
        ({"model_params": {"patch_len": 7}}, "patch_len: expected a divisor of seq_len = 1000, got 7"),
        ({"source": "ppg"}, "source: expected 'ppg\\+ecg' or 'ecg'"),
        ({"lr": "fast"}, "lr: expected a positive number, got 'fast'"),
        ({"lr": True}, "lr: expected a positive number, got True"),
        ({"epochs": 0}, "epochs: expected a whole number >= 1, got 0"),
        ({"batch_size": 8.0}, "batch_size: expected a whole number >= 1, got 8.0"),
        ({"mask_ratio_ecg": 80}, "mask_ratio_ecg: expected a number in \\[0, 1\\], got 80"),
        ({"mask_mode": "anker"}, "mask_mode: expected one of 'scatter'"),
        ({"augment": 1}, "augment: expected one of True, False, 'published', got 1"),
        ({"augment": "published", "val_data": "b"}, "augment: 'published' belongs to the split"),
        ({"betas": [0.9]}, "betas: expected two numbers"),
        ({"quality": "high"}, "quality: expected a number or a pair"),
        ({"layout": {"colums": []}}, r"layout: unknown key 'colums' \(did you mean 'columns'\?\)"),
        ({"curriculum": {"lader": [0.8]}}, "curriculum: unknown key 'lader'"),
        ({"precision": "fp16"}, "precision: expected one of 'auto', 'bf16', 'float32', got 'fp16'"),
        ({"devices": 0}, "devices: expected a whole number >= 1 or 'auto', got 0"),
        ({"data": []}, "data: expected files, folders, patterns"),
        ({"data": {"a": 1}}, "data: expected a list of files"),
    ],
)
def test_what_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        train_cfg_from_dict({"data": "a.h5"} | changes)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("lr", "--set: expected key=value or key.key=value, got 'lr'"),
        ("=3", "--set: expected key=value"),
        ("a..b=3", "--set: expected key=value"),
        ("lr.x=3", "--set lr.x: expected a mapping under 'lr', got 1"),
    ],
)
def test_bad_overrides(override, message):
    with pytest.raises(ValueError, match=message):
        with_overrides({"lr": 1}, [override])


def test_bad_files(tmp_path):
    with pytest.raises(FileNotFoundError, match="config: expected a YAML file"):
        read_train_cfg(tmp_path / "none.yaml")
    path = tmp_path / "a.yaml"
    for text, message in (("a: [", "expected YAML"), ("- a", "expected a mapping of keys to values, got list")):
        path.write_text(text)
        with pytest.raises(ValueError, match=message):
            read_train_cfg(path)
    with pytest.raises(TypeError, match="cfg: expected a dictionary, got list"):
        train_cfg_from_dict([])
