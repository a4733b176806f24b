"""Configuration: defaults, the dictionary form, and errors that name the key."""

from __future__ import annotations

import pytest

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
        ({"dropout": 1.0}, r"dropout: expected a number in \[0, 1\), got 1.0"),
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
        (
            {"model_params": {"d_modle": 256}},
            ValueError,
            r"model_params: unknown key 'd_modle' \(did you mean 'd_model'\?\)",
        ),
        ({"model_param": {"d_model": 256}}, ValueError, r"cfg: unknown key 'model_param' \(did you mean"),
        ({"sampling_freqency": 125}, ValueError, r"cfg: unknown key 'sampling_freqency' \(did you mean"),
        ({"d_model": 32, "nhead": 4}, ValueError, "cfg: expected 'd_model' under 'model_params', got it at the top"),
        ({"model_params": [1]}, TypeError, "model_params: expected a dictionary, got list"),
        ("cfg.yaml", TypeError, "cfg: expected a dictionary, got str"),
        ({"seg_len": 0.123456}, ValueError, "seg_len: expected a whole number of samples at 100 Hz, got 0.123456"),
        ({"sampling_freq": "100"}, ValueError, "sampling_freq: expected a positive number, got '100'"),
        ({"source": 3}, ValueError, "source: expected one of"),
        (ModelCfg().to_dict() | {"depth": 3}, ValueError, "cfg: unknown key 'depth'"),
    ],
)
def test_bad_dictionaries(cfg, error, message):
    with pytest.raises(error, match=message):
        cfg_from_dict(cfg)
