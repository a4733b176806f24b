"""The model as a user meets it: its results, when it gives them, and what it refuses. test_golden checks values."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys

import pytest
import torch

import xmae_fast
from xmae_fast import ModelCfg, build_model_from_cfg, explain, masked_mse, ops, random_masking, xMAE

TINY = {"seq_len": 200, "patch_len": 20, "d_model": 16, "nhead": 2, "proj_dim": 8, "stem_ch": 4, "dropout": 0.1}
B, L, N = 3, 200, 10


def tiny(**changes) -> xMAE:
    torch.manual_seed(0)
    return xMAE(ModelCfg(**(TINY | changes)))


def batch(ratio: float = 0.8):
    mask = random_masking(B, N, ratio)
    ids = {"ids_keep_ecg": mask.ids_keep, "ids_restore_ecg": mask.ids_restore}
    return torch.randn(B, L), torch.randn(B, L), ids


def test_public_names():
    names = {
        "ModelCfg", "xMAE", "build_model_from_cfg", "load_checkpoint", "save_checkpoint", "random_masking", "PatchMask",
        "masked_mse", "available", "explain", "ops", "from_pretrained", "Recipe", "Embedder", "embed_files",
        "read_embeddings", "reconstruct", "pretrained_models", "PretrainedModel", "__version__",
    }  # fmt: skip
    assert set(xmae_fast.__all__) == names
    assert all(hasattr(xmae_fast, name) for name in names)


@pytest.mark.parametrize("source", ["ppg+ecg", "ppg", "ecg"])
@pytest.mark.parametrize("bridge", [True, False])
@pytest.mark.parametrize("given", ["both", "ppg", "ecg"])
@pytest.mark.parametrize("training", [False, True])
def test_what_is_returned(source, bridge, given, training):
    model = tiny(source=source, use_cross_bridge=bridge).train(training)
    ppg, ecg, ids = batch()
    signals = {"both": (ppg, ecg), "ppg": (ppg, None), "ecg": (None, ecg)}[given]
    uses_ppg, uses_ecg = "ppg" in source and given != "ecg", "ecg" in source and given != "ppg"
    if not uses_ppg and not uses_ecg:
        with pytest.raises(ValueError, match="ppg, ecg: expected at least one signal"):
            model(*signals, **ids)
        return
    results = model(*signals, **ids)
    expected = ({"ppg_embedding"} if uses_ppg else set()) | (
        {"ecg_reconstructed", "seq_mask_used_ecg"} if uses_ecg else set()
    )
    assert set(results) == expected
    if uses_ppg:
        assert results["ppg_embedding"].shape == (B, 8)
        assert set(model(*signals, **ids, return_recon=False)) == {"ppg_embedding"}
    if uses_ecg:
        assert results["ecg_reconstructed"].shape == (B, 1, L)
        assert (results["seq_mask_used_ecg"].view(B, N, 20).mean(-1).sum(1) == 8).all()
        assert set(model(*signals, **ids, return_embeddings=False)) == {"ecg_reconstructed", "seq_mask_used_ecg"}
    assert model(*signals, **ids, return_embeddings=False, return_recon=False) == {}
    assert all(torch.isfinite(value).all() for value in results.values())


def test_cfg_decides_what_is_returned_by_default():
    model = tiny(return_embeddings=False)
    ppg, ecg, _ = batch()
    assert set(model(ppg, ecg)) == {"ecg_reconstructed", "seq_mask_used_ecg"}
    assert "ppg_embedding" in model(ppg, ecg, return_embeddings=True)


@pytest.mark.parametrize("bridge", [True, False])
@pytest.mark.parametrize("ratio", [0.0, 0.5, 1.0])
def test_every_share_of_visible_patches_trains(ratio, bridge):
    model = tiny(use_cross_bridge=bridge).train()
    ppg, ecg, ids = batch(ratio)
    results = model(ppg, ecg, **ids)
    loss = masked_mse(results["ecg_reconstructed"], ecg, results["seq_mask_used_ecg"])
    assert torch.isfinite(loss)
    assert (loss == 0) == (ratio == 0)
    loss.backward()
    assert torch.isfinite(model.ecg_path.decoder.deconv.weight.grad).all()


@pytest.mark.parametrize("bridge", [True, False])
def test_identity_ids_equal_no_ids(bridge):
    model = tiny(use_cross_bridge=bridge).eval()
    ppg, ecg, _ = batch()
    every = torch.arange(N).expand(B, N)
    ids = {f"ids_{kind}_{signal}": every for kind in ("keep", "restore") for signal in ("ppg", "ecg")}
    with_ids, without = model(ppg, ecg, **ids), model(ppg, ecg)
    for key in without:
        torch.testing.assert_close(with_ids[key], without[key])


@pytest.mark.parametrize(("seq_len", "patch_len"), [(7, 7), (12, 4), (1000, 10), (30, 1)])
def test_other_lengths(seq_len, patch_len):
    model = tiny(seq_len=seq_len, patch_len=patch_len, depth_ecg=0, depth_ppg=1, depth_bridge=0).eval()
    results = model(torch.randn(2, seq_len), torch.randn(2, seq_len))
    assert results["ecg_reconstructed"].shape == (2, 1, seq_len)


def test_signals_with_a_channel_axis_or_odd_strides():
    model = tiny().eval()
    ppg, ecg, ids = batch()
    want = model(ppg, ecg, **ids)
    strided = torch.stack([ppg, ecg], dim=-1)  # columns of one array, as in a record
    for arguments in ((ppg[:, None], ecg[:, None]), (strided[..., 0], strided[..., 1])):
        got = model(*arguments, **ids)
        for key in want:
            torch.testing.assert_close(got[key], want[key])


def test_empty_batch():
    model = tiny().eval()
    results = model(torch.zeros(0, L), torch.zeros(0, L))
    assert results["ppg_embedding"].shape == (0, 8)
    assert results["ecg_reconstructed"].shape == (0, 1, L)


def test_embed_is_the_evaluation_embedding_and_changes_nothing():
    model = tiny().eval()
    ppg, _, _ = batch()
    with torch.no_grad():
        want = model(ppg)["ppg_embedding"]
    # With gradients the BatchNorms are not folded into the weights: the same to rounding.
    torch.testing.assert_close(model(ppg)["ppg_embedding"].detach(), want, rtol=1e-5, atol=1e-6)
    model.train()
    before = copy.deepcopy(model.state_dict())
    got = model.embed(ppg)
    assert torch.equal(got, want)
    assert not got.requires_grad
    assert model.training
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    with pytest.raises(ValueError, match="embed: expected a model with a PPG encoder"):
        tiny(source="ecg").embed(ppg)


def test_dropout_only_in_training():
    model = tiny()
    ppg, ecg, ids = batch()
    assert torch.equal(model.eval()(ppg, ecg, **ids)["ecg_reconstructed"], model(ppg, ecg, **ids)["ecg_reconstructed"])
    model.train()
    assert not torch.equal(model(ppg, ecg, **ids)["ecg_reconstructed"], model(ppg, ecg, **ids)["ecg_reconstructed"])


def test_the_unused_get_no_gradient():
    model = tiny().train()
    ppg, ecg, ids = batch()
    model(ppg, ecg, **ids)["ecg_reconstructed"].square().sum().backward()
    without = {name for name, p in model.named_parameters() if p.grad is None}
    unused = (
        "mask_token",
        "bridger.ppg2ecg",
        "ppg_path.proj",
        "ppg_path.dec_blk",
        "ppg_path.decoder",
        "ppg_path.mask_loc_table",
        "ecg_path.proj",
    )
    assert without == {name for name, _ in model.named_parameters() if name.startswith(unused)}


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("lag", [None, "gaussian"])
def test_compiles_without_graph_breaks(training, lag):
    torch.compiler.reset()
    model = tiny(lag=lag, dropout=0.0).train(training)
    twin = copy.deepcopy(model)
    ppg, ecg, ids = batch()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    got, want = compiled(ppg, ecg, **ids), twin(ppg, ecg, **ids)
    for key in want:
        torch.testing.assert_close(got[key], want[key], rtol=1e-4, atol=1e-5)
    if training:
        for results in (got, want):
            masked_mse(results["ecg_reconstructed"], ecg, results["seq_mask_used_ecg"]).backward()
        name = "ecg_path.patcher.proj.weight"
        torch.testing.assert_close(model.get_parameter(name).grad, twin.get_parameter(name).grad, rtol=1e-3, atol=1e-4)


def test_embed_compiles_without_graph_breaks():
    torch.compiler.reset()
    model = tiny()
    ppg, _, _ = batch()
    compiled = torch.compile(model.embed, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(ppg), model.embed(ppg))


def test_bf16_autocast():
    model = tiny().train()
    ppg, ecg, ids = batch()
    with torch.autocast("cpu", torch.bfloat16):
        results = model(ppg, ecg, **ids)
        loss = masked_mse(results["ecg_reconstructed"], ecg, results["seq_mask_used_ecg"])
    loss.backward()
    assert torch.isfinite(loss)


def test_data_and_evaluation_come_with_the_package():
    code = "import xmae_fast; print(xmae_fast.data.simulate, xmae_fast.evaluation.lag_profile)"
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True).stdout


def test_frozen_parts_stay_frozen():
    """eval() on a part, or on all BatchNorms, holds for that part as it does for any module."""
    ppg, ecg, ids = batch()
    for freeze in (lambda model: model.ppg_path, lambda model: model.ppg_path.stem):
        model = tiny(dropout=0.0).train()
        freeze(model).eval()
        before = {name: x.clone() for name, x in model.named_buffers()}
        model(ppg, ecg, **ids)
        changed = {name.split(".")[0] for name, x in model.named_buffers() if not torch.equal(x, before[name])}
        assert changed == {"ecg_path"}
    model.ppg_path.stem.enc1.train()  # a part of the stem: it runs as modules
    twin = copy.deepcopy(model)
    twin.impl = "reference"
    got, want = (each(ppg, ecg, **ids)["ecg_reconstructed"] for each in (model, twin))
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(dict(model.named_buffers()), dict(twin.named_buffers()), rtol=1e-4, atol=1e-5)
    assert "ppg_path.stem.down1.1: its mode" in explain(model) or "ppg_path.stem.enc1.0" in explain(model)


def test_dropout_rates_are_those_of_the_modules():
    model = tiny().train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        if isinstance(module, torch.nn.MultiheadAttention):
            module.dropout = 0.0
    ppg, ecg, ids = batch()
    outputs = [model(ppg, ecg, **ids)["ecg_reconstructed"] for _ in range(2)]
    assert torch.equal(*outputs)
    model.ecg_path.dec_blk.mlp[3].p = 0.5
    assert not torch.equal(model(ppg, ecg, **ids)["ecg_reconstructed"], outputs[0])


def test_the_configuration_is_the_models_own():
    cfg = ModelCfg(**TINY)
    model = xMAE(cfg)
    cfg.seq_len, cfg.lag = 100, "gaussian"
    assert model.cfg == ModelCfg(**TINY)


def test_copies_and_pickles():
    model = tiny().eval()
    ppg, _, _ = batch()
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(twin.embed(ppg), model.embed(ppg))


def test_explain():
    text = explain()
    assert all(op in text for op in xmae_fast.available())
    assert explain("random_masking", impl="reference").startswith("random_masking: reference")
    assert explain(ops.random_masking).startswith("random_masking: ")
    assert "nothing can run: impl='cuda'" in explain("conv_stem", impl="cuda", device="cuda")
    with pytest.raises(ValueError, match="explain: expected an operator .*, got 'convolution'"):
        explain("convolution")


def test_build_from_dictionary():
    cfg = {
        "sampling_freq": 100,
        "seg_len": 2,
        "source": "PPG+ECG",
        "model_params": {"d_model": 16, "nhead": 2, "patch_len": 20},
    }
    model = build_model_from_cfg(cfg, impl="reference")
    assert model.cfg.seq_len == 200
    assert model.cfg.proj_dim == 384
    assert len(model.ppg_path.encoder.blocks) == 6
    assert model.impl == "reference"


def test_masked_mse_means_over_masked_samples_only():
    prediction, target = torch.tensor([[1.0, 5.0, 2.0]]), torch.tensor([[0.0, 0.0, 0.0]])
    assert masked_mse(prediction, target, torch.tensor([[1.0, 0.0, 1.0]])) == 2.5
    assert masked_mse(prediction[:, None], target, torch.tensor([[[True, False, True]]])) == 2.5
    assert masked_mse(prediction, target, torch.zeros(1, 3)) == 0
    with pytest.raises(ValueError, match=r"target: expected shape \[B=1, L=3\], got \[1, 4\]"):
        masked_mse(prediction, torch.zeros(1, 4), torch.ones(1, 3))
    with pytest.raises(ValueError, match=r"mask: expected shape \[B=1, L=3\], got \[2, 3\]"):
        masked_mse(prediction, target, torch.ones(2, 3))
