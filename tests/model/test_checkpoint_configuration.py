"""The configuration of a checkpoint: from the file, from the shapes, against a given one; another segment length."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.golden_cases import FOLDER
from xmae_fast import ModelCfg, from_pretrained, load_checkpoint, save_checkpoint, xMAE
from xmae_fast.model.checkpoint import CheckpointError

CFG = ModelCfg(seq_len=200, patch_len=20, d_model=16, nhead=2, proj_dim=8, stem_ch=4)
PARAMS = {"patch_len": 20, "d_model": 16, "nhead": 2, "latent_dim": 8, "stem_ch": 4, "depth_ecg": 1, "depth_ppg": 2,
          "depth_bridge": 1}  # fmt: skip


def saved(tmp_path, cfg=CFG, prefix="", **content):
    """A model and a file of its weights, which are all different from what a new model has."""
    torch.manual_seed(0)
    model = xMAE(cfg)
    state = {prefix + key: value for key, value in model.state_dict().items()}
    torch.save({"state_dict": state} | content if content else state, tmp_path / "x.ckpt")
    return model, tmp_path / "x.ckpt"


def same_weights(loaded, model) -> bool:
    theirs = model.state_dict()
    return all(torch.equal(value, theirs[key]) for key, value in loaded.state_dict().items())


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "changes",
    [
        {"depth_ecg": 3, "depth_ppg": 0, "depth_bridge": 2, "patch_len": 10, "dropout": 0.25},
        {"source": "ppg", "depth_ppg": 3, "stem_ch": 1},
        {"source": "ecg", "nhead": 4, "depth_ecg": 2},
        {"use_cross_bridge": False, "seq_len": 300, "depth_bridge": 1},
        {"lag": "gaussian", "sampling_freq": 50},
        {"lag": "table"},
    ],
)
def test_shapes_tell_all_but_heads_and_dropout(tmp_path, changes):
    cfg = replace(CFG, **changes)
    model, path = saved(tmp_path, cfg)
    with_lag = cfg.lag is not None  # its biases show the heads
    arguments = "dropout=0.1" if with_lag else "nhead=8, dropout=0.1"
    missing = "dropout" if with_lag else "nhead and dropout"
    message = rf"because x.ckpt does not hold one, got None; its weights tell all but {missing}: call "
    with pytest.raises(CheckpointError, match=rf"{message}load_checkpoint\('.*x.ckpt', {arguments}\)"):
        load_checkpoint(path)
    given = {} if with_lag else {"nhead": cfg.nhead}
    if cfg.sampling_freq != 100:
        given["sampling_freq"] = cfg.sampling_freq
    loaded = load_checkpoint(path, dropout=cfg.dropout, **given)
    blind = {name: getattr(ModelCfg(), name) for name in ("depth_ecg", "depth_ppg") if name[6:] not in cfg.source}
    assert loaded.cfg == replace(cfg, **blind)
    assert same_weights(loaded, model)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"nhead": 2}, CheckpointError, r"all but dropout: call load_checkpoint\('.*', nhead=2, dropout=0.1\)"),
        ({"nhead": 3, "dropout": 0.1}, ValueError, "nhead: expected a divisor of d_model = 16, got 3"),
        ({"nhead": 2, "dropout": 2}, ValueError, r"dropout: expected a number in \[0, 1\], got 2"),
        ({"nhead": 2, "cfg": CFG}, ValueError, "nhead: expected None with cfg, got 2"),
        ({"resize_positions": True}, ValueError, "cfg: expected the configuration with the new length"),
        ({"cfg": "x.yaml"}, TypeError, "cfg: expected a dictionary, got str"),
    ],
)
def test_arguments(tmp_path, given, error, message):
    _, path = saved(tmp_path)
    with pytest.raises(error, match=message):
        load_checkpoint(path, **given)


def test_shapes_that_contradict_each_other_tell_nothing(tmp_path):
    model, path = saved(tmp_path)
    state = model.state_dict()
    state["ppg_path.pos"] = state["ppg_path.pos"][:, 1:]
    torch.save(state, path)
    with pytest.raises(CheckpointError, match=r"does not hold one, got None; call load_checkpoint\('.*', cfg\)"):
        load_checkpoint(path)


@pytest.mark.parametrize(
    ("changes", "lines"),
    [
        ({"d_model": 32, "proj_dim": 4},
         [r"d_model: expected 16 \(from the weights: mask_token has shape \[1, 1, 16\]\), got 32",
          r"proj_dim: expected 8 \(from the weights: ppg_path.proj.1.weight has shape \[8, 16\]\), got 4"]),
        ({"depth_ppg": 3, "stem_ch": 8},
         [r"depth_ppg: expected 2 \(from the weights: 2 blocks ppg_path.encoder.blocks.\*\), got 3",
          r"stem_ch: expected 4 \(from the weights: ppg_path.patcher.proj.weight has shape \[16, 4, 20\]\), got 8"]),
        ({"patch_len": 10}, [r"patch_len: expected 20 \(from the weights"]),
        ({"use_cross_bridge": False}, [r"use_cross_bridge: expected True \(from the weights: keys bridger"]),
        ({"depth_bridge": 2}, ["depth_bridge: expected 1 .*, got 2"]),
        ({"source": "ecg"}, [r"source: expected 'ppg\+ecg' \(from the weights: keys ppg_path.\*, ecg_path.\*\), got"]),
        ({"seq_len": 400},
         [r"seq_len: expected 200 \(from the weights: 10 patches, ppg_path.pos has shape .*\), got 400",
          r"load_checkpoint\('.*x.ckpt', cfg, resize_positions=True\) stretches"]),
    ],
)  # fmt: skip
def test_a_configuration_that_the_weights_contradict(tmp_path, changes, lines):
    _, path = saved(tmp_path)
    with pytest.raises(CheckpointError, match=r"x.ckpt: cfg is not that of the weights:\n") as error:
        load_checkpoint(path, replace(CFG, **changes))
    for line in lines:
        assert error.match(line)
    assert ("resize_positions" in str(error.value)) == ("seq_len" in changes)


def test_a_lag_that_the_weights_contradict(tmp_path):
    _, path = saved(tmp_path, replace(CFG, lag="gaussian"))
    with pytest.raises(CheckpointError, match=r"lag: expected .*gaussian.*bridger.ecg2ppg.0.lag.center\), got None"):
        load_checkpoint(path, CFG)
    model, path = saved(tmp_path)
    with pytest.raises(CheckpointError, match="missing bridger.ecg2ppg.0.lag.table"):
        load_checkpoint(path, replace(CFG, lag="table"))
    with pytest.warns(UserWarning, match="kept initial values of missing ones\n  missing bridger.ecg2ppg.0.lag.table"):
        loaded = load_checkpoint(path, replace(CFG, lag="table"), strict=False)
    assert not loaded.state_dict()["bridger.ecg2ppg.0.lag.table"].any()
    assert torch.equal(loaded.mask_token, model.mask_token)


def test_stored_configurations(tmp_path):
    published = {"sampling_freq": 100, "seg_len": 2, "model_params": PARAMS}
    wrong = published | {"model_params": PARAMS | {"d_model": 32}}
    _, path = saved(tmp_path, hyper_parameters=wrong)
    message = r"configuration under 'hyper_parameters' is not that of the weights:\n  d_model: expected 16 .*, got 32"
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(path)
    assert load_checkpoint(path, CFG).cfg == CFG
    _, path = saved(tmp_path, hyper_parameters={"cfg": published}, config=wrong)
    assert load_checkpoint(path).cfg == CFG  # only one of them fits
    eight = published | {"model_params": PARAMS | {"nhead": 8}}
    _, path = saved(tmp_path, hyper_parameters={"cfg": published}, config=eight)
    with pytest.raises(CheckpointError, match="got different ones under config, hyper_parameters.cfg"):
        load_checkpoint(path)
    _, path = saved(tmp_path, hyper_parameters=published | {"model_params": PARAMS | {"d_model": "${d}"}})
    message = r"a configuration under 'hyper_parameters': d_model: expected a whole number, got '\$.*x.ckpt', cfg\)"
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(path)
    assert load_checkpoint(path, CFG).cfg == CFG
    _, path = saved(tmp_path, xmae_fast_cfg="{}}")
    with pytest.raises(CheckpointError, match="expected a configuration in JSON under 'xmae_fast_cfg', got '{}}'"):
        load_checkpoint(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"nhead": 4}, r"nhead: .*x.ckpt was saved with 2 \(under 'hyper_parameters'\), cfg has 4, which is taken"),
        ({"lag": "window(0, 1)"}, r"lag: .*x.ckpt was saved with None .*, cfg has LagCfg\(kind='window'"),
        ({"sampling_freq": 50}, "sampling_freq: .*x.ckpt was saved with 100 .*, cfg has 50, which is taken"),
    ],
)
def test_a_configuration_other_than_the_stored_one_is_said(tmp_path, changes, message):
    model, path = saved(tmp_path, hyper_parameters={"seg_len": 2, "model_params": PARAMS})
    with pytest.warns(UserWarning, match=message):
        loaded = load_checkpoint(path, replace(CFG, **changes))
    assert same_weights(loaded, model)
    assert loaded.cfg == replace(CFG, **changes)


@pytest.mark.filterwarnings("error")
def test_arguments_beside_a_stored_configuration(tmp_path):
    _, path = saved(tmp_path, hyper_parameters={"seg_len": 2, "model_params": PARAMS})
    assert load_checkpoint(path, nhead=2, dropout=0.1, sampling_freq=100).cfg == CFG
    with pytest.raises(ValueError, match="nhead: expected None or 2, as the file has it under 'hyper_.*got 4"):
        load_checkpoint(path, nhead=4)
    assert load_checkpoint(path, replace(CFG, dropout=0.0, return_recon=False)).cfg.dropout == 0.0


def stretched(rows: np.ndarray, patches: int) -> np.ndarray:
    """[N, D] -> [patches, D] by the definition: linear between the patches' centres, constant outside of them."""
    old, new = ((np.arange(n) + 0.5) / n for n in (len(rows), patches))
    return np.stack([np.interp(new, old, column) for column in rows.T], axis=1)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("patches", [30, 4, 10])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_positions_of_another_length(tmp_path, patches, dtype):
    model, path = saved(tmp_path)
    torch.save(model.to(dtype).state_dict(), path)
    cfg = replace(CFG, seq_len=20 * patches)
    loaded = load_checkpoint(path, cfg, resize_positions=True)
    assert loaded.cfg == cfg
    assert loaded.mask_token.dtype == dtype
    state = model.state_dict()
    resized = {f"{path}_path.{key}" for path in ("ppg", "ecg") for key in ("pos", "mask_loc_table.weight")}
    for key, value in loaded.state_dict().items():
        if key in resized:
            old, new = (x.double().numpy().reshape(-1, CFG.d_model) for x in (state[key], value))
            np.testing.assert_allclose(new, stretched(old, patches), rtol=torch.finfo(dtype).eps, atol=1e-15)
        else:
            assert torch.equal(value, state[key])
    if dtype == torch.float32:
        out = loaded(torch.rand(2, cfg.seq_len), torch.rand(2, cfg.seq_len))
        assert out["ecg_reconstructed"].shape == (2, 1, cfg.seq_len)
    if patches == CFG.num_patches:
        assert same_weights(loaded, model)


@pytest.mark.parametrize(("lag", "fits"), [("gaussian", True), ("window(0.1, 0.6)", True), ("table", False)])
def test_lag_biases_of_another_length(tmp_path, lag, fits):
    model, path = saved(tmp_path, replace(CFG, lag=lag))
    cfg = replace(CFG, lag=lag, seq_len=600)
    if fits:
        loaded = load_checkpoint(path, cfg, resize_positions=True).bridger.ecg2ppg[0].lag
        middle = slice(20, 39)  # the same lags in seconds, of 59 and of 19
        torch.testing.assert_close(loaded()[:, middle], model.bridger.ecg2ppg[0].lag(), rtol=1e-5, atol=1e-5)
    else:
        message = r"resize_positions: .*x.ckpt has a lag table, one bias for each lag of 10 patches.*no meaning for 30"
        with pytest.raises(CheckpointError, match=message):
            load_checkpoint(path, cfg, resize_positions=True)


def test_a_resized_pretrained_folder_takes_the_new_length(tmp_path):
    model, _ = saved(tmp_path)
    model.save_pretrained(tmp_path / "folder")
    loaded = from_pretrained(tmp_path / "folder", cfg=replace(CFG, seq_len=600), resize_positions=True)
    assert (loaded.preprocessing.segment_s, loaded.cfg.seq_len) == (6, 600)
    with pytest.raises(CheckpointError, match="resize_positions=True"):
        from_pretrained(tmp_path / "folder", cfg=replace(CFG, seq_len=600))
    (tmp_path / "folder" / "model.safetensors").rename(tmp_path / "folder" / "weights.safetensors")
    with pytest.raises(FileNotFoundError, match=r"has neither; from_pretrained\('.*weights.safetensors'\) takes"):
        from_pretrained(tmp_path / "folder")


@pytest.mark.filterwarnings("error")
def test_published_files_and_ours_have_the_same_keys_in_the_same_order(tmp_path):
    """A public file: its keys, order, shapes and configuration, into a model; what it saves again has the same."""
    published = json.loads((FOLDER / "state_dict.json").read_text())
    torch.manual_seed(0)
    weights = {
        f"model.{key}": torch.tensor(3) if key.endswith("num_batches_tracked") else torch.rand(shape)
        for key, shape in published.items()
    }
    hyper_parameters = {
        "sampling_freq": 100, "seg_len": 10, "source": "ppg+ecg", "batch_size": 512, "use_cl": True,
        "model_params": {"latent_dim": 256, "d_model": 256, "nhead": 8, "depth_ecg": 1, "depth_ppg": 2, "stem_ch": 32,
                         "depth_bridge": 1, "dropout": 0.1, "use_cross_bridge": True, "patch_len": 40},
    }  # fmt: skip
    torch.save({"state_dict": weights, "hyper_parameters": hyper_parameters}, tmp_path / "public.ckpt")
    model = load_checkpoint(tmp_path / "public.ckpt")
    assert model.cfg == ModelCfg(d_model=256, proj_dim=256)
    assert list(model.state_dict()) == list(published)
    save_checkpoint(model, tmp_path / "ours.ckpt")
    ours = torch.load(tmp_path / "ours.ckpt", weights_only=True)["state_dict"]
    assert list(ours) == list(weights)
    assert all(torch.equal(value, ours[key]) for key, value in weights.items())
    torch.save(weights, tmp_path / "flat.ckpt")
    flat = load_checkpoint(tmp_path / "flat.ckpt", nhead=8, dropout=0.1)
    assert flat.cfg == model.cfg
    assert same_weights(flat, model)
