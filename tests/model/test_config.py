"""Configuration: defaults, the dictionary form, and errors that name the key."""

from __future__ import annotations

import json
from dataclasses import fields

import numpy as np
import pytest

from xmae_fast import build_model_from_cfg, xMAE
from xmae_fast.config import LagCfg, ModelCfg, cfg_from_dict

PUBLISHED = {
    "sampling_freq": 100, "seg_len": 10, "source": "ppg+ecg",
    "model_params": {"latent_dim": 256, "d_model": 256, "nhead": 8, "depth_ecg": 1, "depth_ppg": 2, "depth_bridge": 1,
                     "stem_ch": 32, "dropout": 0.1, "use_cross_bridge": True, "patch_len": 40},
}  # fmt: skip


def test_dataclass_defaults_are_the_published_ones_in_their_order():
    published = (1000, 40, 512, 8, 1, 2, 1, 32, 0.1, 384, True, "ppg+ecg", "unet", True, True)
    assert ModelCfg() == ModelCfg(*published)
    assert ModelCfg().lag is None


def test_dictionary_defaults_differ_from_the_dataclass():
    cfg = cfg_from_dict({})
    assert (cfg.depth_ecg, cfg.depth_ppg, cfg.depth_bridge, cfg.d_model, cfg.proj_dim) == (6, 6, 2, 512, 384)


def test_published_dictionary():
    cfg = cfg_from_dict(PUBLISHED | {"batch_size": 512, "lr": 3e-4})  # training keys are somebody else's
    assert cfg == ModelCfg(d_model=256, proj_dim=256)
    assert cfg.num_patches == 25
    assert cfg.patch_seconds == 0.4


@pytest.mark.parametrize("lag", [None, "gaussian", "table", "window(0.1, 0.6)"])
def test_round_trip_through_plain_values(lag):
    cfg = ModelCfg(d_model=64, lag=lag, sampling_freq=125, seq_len=1250, patch_len=50)
    assert cfg_from_dict(cfg.to_dict()) == cfg


@pytest.mark.parametrize(
    ("value", "want"),
    [
        ("none", None),
        (None, None),
        ({"kind": "none"}, None),
        ("Window(-0.2,1)", LagCfg("window", -0.2, 1.0)),
        ({"kind": "window", "min_s": 0, "max_s": 1}, LagCfg("window", 0, 1)),
        (LagCfg("table"), LagCfg("table")),
    ],
)
def test_lag_forms(value, want):
    assert LagCfg.parse(value) == want
    assert cfg_from_dict({"model_params": {"lag": value}}).lag == want


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"patch_len": 30}, "patch_len: expected a divisor of seq_len = 1000, got 30"),
        ({"patch_len": 0}, "patch_len: expected a positive whole number, got 0"),
        ({"nhead": 7}, "nhead: expected a divisor of d_model = 512, got 7"),
        ({"d_model": 2.5}, "d_model: expected a positive whole number, got 2.5"),
        ({"depth_ppg": -1}, "depth_ppg: expected a whole number >= 0, got -1"),
        ({"dropout": 1.1}, r"dropout: expected a number in \[0, 1\], got 1.1"),
        ({"dropout": "0.1"}, r"dropout: expected a number in \[0, 1\], got '0.1'"),
        ({"nhead": True}, "nhead: expected a positive whole number, got True"),
        ({"source": "eeg"}, "source: expected one of 'ppg\\+ecg', 'ppg', 'ecg', got 'eeg'"),
        ({"stem_type": "resnet"}, "stem_type: expected one of 'unet', got 'resnet'"),
        ({"use_cross_bridge": 1}, "use_cross_bridge: expected True or False, got 1"),
        ({"sampling_freq": 0}, "sampling_freq: expected a positive number of Hz, got 0"),
        ({"lag": "sometimes"}, "lag: expected 'none' or one of 'window', 'gaussian', 'table', got 'sometimes'"),
        ({"lag": "window(1)"}, "lag: expected"),
        ({"lag": "window(a, b)"}, r"lag: expected 'window\(min_s, max_s\)' with two numbers"),
        ({"lag": "window(2, 1)"}, "lag.min_s: expected at most lag.max_s = 1.0, got 2.0"),
        ({"lag": {"kind": "gaussian", "min_s": 0}}, "lag.min_s, lag.max_s: expected none for kind 'gaussian'"),
        ({"lag": {"min_s": 0}}, "lag.kind: expected one of"),
        ({"lag": {"kind": "window", "from": 0}}, "lag: expected the keys kind, min_s, max_s"),
        ({"lag": "gaussian", "use_cross_bridge": False}, "lag: expected None without a bridge"),
    ],
)
def test_bad_values_name_the_field(changes, message):
    with pytest.raises(ValueError, match=message):
        ModelCfg(**changes)


@pytest.mark.parametrize(
    ("cfg", "error", "message"),
    [
        ({"model_param": {"d_model": 256}}, ValueError, r"cfg: unknown key 'model_param' \(did you mean"),
        ({"sampling_freqency": 125}, ValueError, r"cfg: unknown key 'sampling_freqency' \(did you mean"),
        ({"d_model": 32, "nhead": 4}, ValueError, "cfg: expected 'd_model' under 'model_params', got it at the top"),
        ({"model_params": [1]}, TypeError, "model_params: expected a dictionary, got list"),
        ("cfg.yaml", TypeError, "cfg: expected a dictionary, got str"),
        ({"seg_len": "10 s"}, ValueError, "seg_len: expected a whole number, got '10 s'"),
        ({"seg_len": float("nan")}, ValueError, "seg_len: expected a whole number, got nan"),
        ({"seg_len": -10}, ValueError, "seg_len: expected at least 1 second, got -10"),
        ({"sampling_freq": None}, ValueError, "sampling_freq: expected a whole number, got None"),
        ({"sampling_freq": 0}, ValueError, "sampling_freq: expected at least 1 Hz, got 0"),
        ({"model_params": {"d_model": "${width}"}}, ValueError, "d_model: expected a whole number, got '\\$"),
        ({"model_params": {"nhead": True}}, ValueError, "nhead: expected a whole number, got True"),
        ({"model_params": {"dropout": "some"}}, ValueError, "dropout: expected a number, got 'some'"),
        ({"model_params": {"use_cross_bridge": "False"}}, ValueError, "use_cross_bridge: expected True or False, not"),
        ({"model_params": {"use_cross_bridge": ""}}, ValueError, "use_cross_bridge: expected True or False, not a"),
        ({"model_params": {"use_cross_bridge": [1]}}, ValueError, "use_cross_bridge: expected True or False, got"),
        ({"source": 3}, ValueError, "source: expected one of"),
        (ModelCfg().to_dict() | {"depth": 3}, ValueError, "cfg: unknown key 'depth'"),
    ],
)
def test_bad_dictionaries(cfg, error, message):
    with pytest.raises(error, match=message):
        cfg_from_dict(cfg)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "cfg",
    [
        {"sampling_freq": "100", "seg_len": "10", "model_params": {"d_model": "256", "latent_dim": "256"}},
        {"sampling_freq": np.float32(100), "seg_len": np.int64(10),
         "model_params": {"d_model": np.int32(256), "latent_dim": np.float64(256.0)}},
    ],
)  # fmt: skip
def test_numbers_as_texts_and_of_numpy(cfg):
    cfg = cfg_from_dict(cfg | {"source": None})
    assert cfg == ModelCfg(d_model=256, proj_dim=256, depth_ecg=6, depth_ppg=6, depth_bridge=2)
    assert {type(value) for value in cfg.to_dict().values()} == {int, float, bool, str, type(None)}
    json.dumps(cfg.to_dict())


@pytest.mark.parametrize(
    ("value", "want"),
    [("true", True), (" Yes", True), ("1", True), (0, False), (2, True), (np.bool_(False), False), (np.int64(1), True)],
)
@pytest.mark.filterwarnings("error")
def test_truth_values(value, want):
    assert cfg_from_dict({"model_params": {"use_cross_bridge": value}}).use_cross_bridge is want


@pytest.mark.parametrize(
    ("cfg", "field", "want", "message"),
    [
        ({"seg_len": 2.56, "model_params": {"patch_len": 20}}, "seq_len", 200, "seg_len: 2.56 counts as 2, as in the"),
        ({"sampling_freq": 62.5, "seg_len": 20}, "seq_len", 1240, "sampling_freq: 62.5 counts as 62"),
        ({"sampling_freq": 62.5, "seg_len": 20}, "sampling_freq", 62.5, "sampling_freq: 62.5 counts as 62"),
        ({"model_params": {"depth_ecg": 1.9}}, "depth_ecg", 1, "depth_ecg: 1.9 counts as 1"),
        ({"model_params": {"use_cross_bridge": None}}, "use_cross_bridge", False, "use_cross_bridge: None counts as"),
        ({"model_params": {"d_modle": 256}}, "d_model", 512, r"'d_modle' is ignored.*did you mean 'd_model'\?"),
        ({"model_params": {"num_heads": 4}}, "nhead", 8, "'num_heads' is ignored.*did you mean 'nhead'"),
        ({"model_params": {"proj_dim": 8}}, "proj_dim", 384, "'proj_dim' is ignored.*did you mean 'latent_dim'"),
        ({"model_params": {"seq_len": 200}}, "seq_len", 1000, "'seq_len' is ignored.*sampling_freq [*] seg_len"),
        ({"model_params": {"source": "ppg"}}, "source", "ppg+ecg", "'source' is ignored.*beside 'model_params'"),
    ],
)
def test_what_the_published_code_takes_silently_is_said(cfg, field, want, message):
    with pytest.warns(UserWarning, match=message) as said:
        assert getattr(cfg_from_dict(cfg), field) == want
    assert said[0].filename == __file__


@pytest.mark.filterwarnings("error")
def test_foreign_keys_under_model_params_are_ignored():
    foreign = {"name": "xmae", "optimizer": {}, "dropout_path": 0.1, "pretrained": None, 3: 4, "source": "ecg"}
    cfg = PUBLISHED | {"model_params": PUBLISHED["model_params"] | foreign}
    assert cfg_from_dict(cfg) == cfg_from_dict(PUBLISHED)


@pytest.mark.filterwarnings("error")
def test_the_dataclass_takes_numbers_of_numpy():
    cfg = ModelCfg(
        np.int64(200), np.int16(20), d_model=np.uint8(16), nhead=np.int32(2), dropout=np.float64(0.25),
        use_cross_bridge=np.bool_(True), source=np.str_("ppg+ecg"), return_recon=np.False_,
        lag={"kind": "window", "min_s": np.float64(0.25), "max_s": np.int64(1)}, sampling_freq=np.float32(125),
    )  # fmt: skip
    want = ModelCfg(200, 20, 16, 2, dropout=0.25, return_recon=False, lag="window(0.25, 1)", sampling_freq=125)
    assert cfg == want
    assert json.loads(json.dumps(cfg.to_dict())) == want.to_dict()
    assert {type(getattr(cfg, field.name)) for field in fields(cfg)} == {int, float, bool, str, LagCfg}
    assert ModelCfg(source=None).source == "ppg+ecg"


def test_a_model_keeps_its_configuration():
    names = (
        "seq_len", "patch_len", "d_model", "nhead", "depth_ecg", "depth_ppg", "depth_bridge", "stem_ch", "dropout",
        "proj_dim", "use_cross_bridge", "source", "stem_type", "return_embeddings", "return_recon",
    )  # fmt: skip
    assert tuple(field.name for field in fields(ModelCfg))[: len(names)] == names
    given = ModelCfg(200, 20, 16, 2, stem_ch=4, dropout=1.0, proj_dim=8)
    model = xMAE(given)
    given.seq_len, given.return_recon = 400, False
    assert (model.cfg.seq_len, model.cfg.return_recon, model.cfg.dropout) == (200, True, 1.0)
    params = {"patch_len": 20, "d_model": 16, "nhead": 2, "stem_ch": 4, "latent_dim": 8, "dropout": 1}
    given = {"seg_len": 2, "model_params": params}
    model = build_model_from_cfg(given)
    params["nhead"] = 4
    assert (model.cfg.nhead, model.cfg.dropout) == (2, 1.0)
    assert all(getattr(model.cfg, name) is not None for name in names)
