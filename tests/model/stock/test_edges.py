"""Behaviour at the edges: unusual ids, signals and configurations give what the published model gives."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from tests.model.stock.pair import IMPLEMENTATIONS, N, batch, build, create, ids, names, run


def together(which: str, dtype: torch.dtype = torch.float64, *, changes: dict | None = None, **inputs):
    """Results of the model and of the control for the same inputs in evaluation."""
    with torch.no_grad():
        return tuple(build(kind, dtype=dtype, **(changes or {}))(**inputs) for kind in (which, "stock"))


@pytest.mark.parametrize("which", IMPLEMENTATIONS)
def test_ids_keep_alone_means_all_patches(which):
    inputs = batch(torch.float64)
    for name in ("ppg", "ecg"):
        some = {key: x for key, x in inputs.items() if key != f"ids_restore_{name}"}
        got, want = together(which, **some)
        torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-10)
        without = {key: x for key, x in some.items() if key != f"ids_keep_{name}"}
        torch.testing.assert_close(got, together(which, **without)[0], rtol=1e-10, atol=1e-10)
    assert got["seq_mask_used_ecg"].sum() == 0


@pytest.mark.parametrize("bridge", [True, False])
@pytest.mark.parametrize("which", IMPLEMENTATIONS)
def test_int32_ids(which, bridge):
    inputs = batch(torch.float64)
    short = {key: x.int() if key.startswith("ids") else x for key, x in inputs.items()}
    got, want = together(which, changes={"use_cross_bridge": bridge}, **short)
    torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-10)
    single = {key: x.float() if x.is_floating_point() else x for key, x in short.items()}
    got, want = together(which, torch.float32, changes={"use_cross_bridge": bridge}, **single)
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("bridge", [True, False])
@pytest.mark.parametrize("visible", [0, N])
@pytest.mark.parametrize("which", IMPLEMENTATIONS)
def test_no_and_all_ecg_patches(which, visible, bridge):
    inputs = batch(torch.float64)
    keep, restore = ids(visible, torch.Generator().manual_seed(7))
    got, want = together(
        which, changes={"use_cross_bridge": bridge}, **(inputs | {"ids_keep_ecg": keep, "ids_restore_ecg": restore})
    )
    torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("which", IMPLEMENTATIONS)
def test_no_embedding_without_a_visible_ppg_patch(which, training):
    keep, restore = ids(0, torch.Generator().manual_seed(7))
    inputs = batch() | {"ids_keep_ppg": keep, "ids_restore_ppg": restore}
    for bridge in (True, False):
        results = build(which, training=training, use_cross_bridge=bridge)(**inputs)
        assert set(results) == {"ecg_reconstructed", "seq_mask_used_ecg"}
    only = {key: x for key, x in inputs.items() if "ppg" in key}
    assert build(which, source="ppg")(**only) == {}


@pytest.mark.parametrize("which", IMPLEMENTATIONS)
def test_dropout_of_everything_is_allowed(which):
    changes = {"dropout": 1.0}
    got, want = together(which, changes=changes, **batch(torch.float64))
    torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-10)
    results = build(which, training=True, dtype=torch.float64, **changes)(**batch(torch.float64))
    wanted = build("stock", training=True, dtype=torch.float64, **changes)(**batch(torch.float64))
    torch.testing.assert_close(results, wanted, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("which", IMPLEMENTATIONS)
def test_a_stem_of_one_channel_has_no_skip_weights(which):
    model = create(which, stem_ch=1)
    for path in (model.ppg_path, model.ecg_path):
        assert type(path.stem.skip) is nn.Identity
        assert type(path.stem.skip_bn) is nn.Identity
    for training in (False, True):
        got, want = (run(build(kind, training=training, stem_ch=1), training=training) for kind in (which, "stock"))
        torch.testing.assert_close(got.results, want.results, rtol=1e-4, atol=1e-4)
        assert list(got.gradients) == list(want.gradients)


@pytest.mark.parametrize("which", IMPLEMENTATIONS)
def test_signals_with_and_without_a_channel(which):
    inputs = batch(torch.float64)
    wide = {key: x[:, None] if x.is_floating_point() else x for key, x in inputs.items()}
    got, want = together(which, **wide)
    torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(got, together(which, **inputs)[0], rtol=0, atol=0)


@pytest.mark.parametrize("which", IMPLEMENTATIONS)
def test_one_signal_alone(which):
    inputs = batch(torch.float64)
    for name in ("ppg", "ecg"):
        got, want = together(which, **{key: x for key, x in inputs.items() if name in key})
        torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-10)


CONFIGURATIONS = [
    {},
    {"sampling_freq": 50, "seg_len": 2, "model_params": {"patch_len": 20}},
    {"sampling_freq": "50", "seg_len": "4", "model_params": {"patch_len": "20", "d_model": "32", "nhead": "4"}},
    {"sampling_freq": np.int64(50), "seg_len": np.float32(2.0), "model_params": {"dropout": "0.25", "patch_len": 10}},
    {"sampling_freq": 50.9, "seg_len": 2.9, "model_params": {"patch_len": 10, "d_model": np.int32(64)}},
    {"source": None, "model_params": {"use_cross_bridge": 0, "latent_dim": np.int64(7)}},
    {"source": "PPG", "model_params": {"stem_ch": 4.0, "foreign": 1, "mlp_ratio": 3}},
    {"source": "ecg", "lr": 3e-4, "model_params": {"depth_ecg": np.float64(1), "use_cross_bridge": np.bool_(True)}},
]  # fmt: skip


@pytest.mark.parametrize("cfg", CONFIGURATIONS, ids=str)
@pytest.mark.parametrize("which", IMPLEMENTATIONS)
def test_configurations(which, cfg):
    small = {"d_model": 32, "nhead": 4, "depth_ppg": 1, "depth_ecg": 1, "depth_bridge": 1}
    cfg = cfg | {"model_params": small | cfg.get("model_params", {})}
    before = copy.deepcopy(cfg)
    got, want = (names(kind).build_model_from_cfg(cfg) for kind in (which, "stock"))
    assert cfg == before
    for key, value in vars(want.cfg).items():
        assert getattr(got.cfg, key) == value, key
        assert type(getattr(got.cfg, key)) is type(value), key
    assert {key: x.shape for key, x in got.state_dict().items()} == {
        key: x.shape for key, x in want.state_dict().items()
    }
