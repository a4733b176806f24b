"""xMAE as a model of transformers: the same weights, numbers and folders from both sides."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

import xmae_fast
from xmae_fast.model.outputs import encode
from xmae_fast.model.storage.errors import CheckpointError

SIZES = {"seq_len": 200, "patch_len": 20, "d_model": 16, "nhead": 2, "stem_ch": 4, "proj_dim": 8}


def test_importing_the_package_leaves_transformers_alone():
    code = "import sys, xmae_fast; xmae_fast.Embedder; print('transformers' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_without_transformers_an_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)  # importing it is an error
    monkeypatch.delitem(sys.modules, "xmae_fast.transformers", raising=False)
    with pytest.raises(ImportError, match=r'xmae_fast.transformers needs .*pip install "xmae_fast\[transformers\]"'):
        import xmae_fast.transformers  # noqa: F401


@pytest.fixture
def hf():
    transformers = pytest.importorskip("transformers", minversion="5")
    import xmae_fast.transformers as module

    transformers.utils.logging.disable_progress_bar()
    return module


@pytest.fixture
def auto(hf):
    import transformers

    return transformers.AutoModel


def small(**options) -> xmae_fast.xMAE:
    torch.manual_seed(0)
    model = xmae_fast.xMAE(xmae_fast.ModelCfg(**SIZES, **options)).eval()
    with torch.no_grad():
        for name, buffer in model.named_buffers():  # statistics as after training
            if name.endswith("running_mean"):
                buffer.normal_()
    return model


def same(one: xmae_fast.xMAE, other: xmae_fast.xMAE) -> bool:
    """Whether weights and all buffers are the same, those too that no file holds."""
    pairs = [*zip(one.named_parameters(), other.named_parameters(), strict=True)]
    pairs += [*zip(one.named_buffers(), other.named_buffers(), strict=True)]
    return all(a == b and x.dtype == y.dtype and torch.equal(x, y) for (a, x), (b, y) in pairs)


def check_numbers(wrapped, model, samples: int) -> None:
    ppg = torch.rand(3, samples, generator=torch.Generator().manual_seed(1)).to(model.mask_token.dtype) * 2 - 1
    with torch.no_grad():
        found = wrapped(ppg)
    assert list(found) == ["last_hidden_state", "pooler_output", "ppg_embedding"]
    assert torch.equal(found.last_hidden_state, encode(model, ppg, "tokens"))
    assert torch.equal(found.pooler_output, encode(model, ppg, "pooled"))
    assert torch.equal(found.ppg_embedding, model.embed(ppg))
    assert torch.equal(wrapped(ppg.unsqueeze(1)).pooler_output, wrapped(ppg).pooler_output)
    assert len(wrapped(ppg, return_dict=False)) == 3


@pytest.mark.parametrize("options", [{}, {"lag": "gaussian"}, {"lag": "window(0.1, 0.5)"}, {"lag": "table"},
                                     {"source": "ppg"}, {"use_cross_bridge": False, "sampling_freq": 64}])  # fmt: skip
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_there_and_back(auto, tmp_path, options, dtype):
    model = small(**options).to(dtype)
    model.preprocessing = xmae_fast.Recipe(
        sampling_freq=model.cfg.sampling_freq, segment_s=200 / model.cfg.sampling_freq, high_hz=6.0
    )
    model.save_pretrained(tmp_path / "ours")
    wrapped = auto.from_pretrained(tmp_path / "ours")
    assert (wrapped.training, wrapped.dtype, wrapped.config.hidden_size) == (False, dtype, 16)
    assert same(wrapped.xmae, model)
    assert wrapped.xmae.preprocessing == model.preprocessing
    check_numbers(wrapped, model, 200)
    wrapped.save_pretrained(tmp_path / "theirs")
    keys = load_file(tmp_path / "theirs" / "model.safetensors").keys()
    assert set(keys) == set(model.state_dict())
    back = xmae_fast.from_pretrained(tmp_path / "theirs")
    assert same(back, model)
    assert back.cfg == model.cfg
    assert back.preprocessing == model.preprocessing
    assert (tmp_path / "theirs" / "README.md").read_text(encoding="utf-8").startswith("---\n")
    check_numbers(auto.from_pretrained(tmp_path / "theirs"), model, 200)


@pytest.mark.parametrize("name", sorted(xmae_fast.pretrained_models()))
def test_models_of_the_package(auto, name):
    """Their matrices are float16 in the file and float32 in memory."""
    wrapped = auto.from_pretrained(xmae_fast.pretrained_models()[name].folder)
    model = xmae_fast.from_pretrained(name)
    assert same(wrapped.xmae, model)
    check_numbers(wrapped, model, 1000)
    assert wrapped.xmae.preprocessing == model.preprocessing


def test_shards_and_another_dtype(auto, tmp_path):
    model = small(lag="gaussian")
    model.save_pretrained(tmp_path / "ours")
    wrapped = auto.from_pretrained(tmp_path / "ours")
    wrapped.save_pretrained(tmp_path / "parts", max_shard_size="30KB")
    assert len(list((tmp_path / "parts").glob("*.safetensors"))) > 1
    assert same(xmae_fast.from_pretrained(tmp_path / "parts"), model)
    assert same(auto.from_pretrained(tmp_path / "parts").xmae, model)
    wrapped.save_pretrained(tmp_path / "given", state_dict=wrapped.state_dict())  # as a Trainer does
    assert same(xmae_fast.from_pretrained(tmp_path / "given"), model)
    half = auto.from_pretrained(tmp_path / "ours", dtype=torch.bfloat16)
    assert same(half.xmae, model.bfloat16())


def test_what_does_not_fit_is_an_error(hf, auto, tmp_path):
    model = small()
    model.save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    key = "ppg_path.proj.1.weight"
    save_file({name: value for name, value in state.items() if name != key}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"expected the weights of config.json, got missing xmae.ppg_path.proj.1.weig"):
        auto.from_pretrained(tmp_path)
    _, info = auto.from_pretrained(tmp_path, output_loading_info=True)
    assert info["missing_keys"] == {"xmae." + key}
    save_file({**state, "more": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"got unexpected more"):
        auto.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match="patch_len: expected a divisor of seq_len = 201"):
        hf.XmaeConfig(**SIZES | {"seq_len": 201})
    with pytest.raises(ValueError, match="ppg: expected shape"):
        hf.XmaeModel.from_xmae(model)(torch.zeros(2, 100))
    with pytest.raises(ValueError, match="expected one with a PPG encoder, got source='ecg'"):
        hf.XmaeModel.from_xmae(small(source="ecg"))(torch.zeros(2, 200))
    with pytest.raises(ValueError, match="push_to_hub: expected False"):
        hf.XmaeModel.from_xmae(model).save_pretrained(tmp_path / "x", push_to_hub=True)
    with pytest.raises(ValueError, match="xmae: expected a model of config"):
        hf.XmaeModel(hf.XmaeConfig(), model)


def test_a_config_json_beside_weights_without_one(tmp_path):
    """As transformers writes it: further keys, and none in the weights."""
    model = small(lag="gaussian")
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    about = {"model_type": "xmae", "transformers_version": "5", **model.cfg.to_dict()}
    (tmp_path / "config.json").write_text(json.dumps(about))
    assert xmae_fast.from_pretrained(tmp_path).cfg == model.cfg
    (tmp_path / "config.json").write_text(json.dumps(about | {"d_model": 32}))
    with pytest.raises(
        CheckpointError, match=r"under 'config.json' is not that of the weights:\n  d_model: expected 16"
    ):
        xmae_fast.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(about | {"nhead": 3}))
    with pytest.raises(CheckpointError, match=r"config.json: expected the configuration of an xMAE: nhead: expected"):
        xmae_fast.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(about | {"model_type": "bert"}))
    with pytest.raises(CheckpointError, match="cfg: expected a configuration"):
        xmae_fast.from_pretrained(tmp_path)


def test_wrapping_trains_the_same_weights(hf):
    model = small().train()
    wrapped = hf.XmaeModel.from_xmae(model)
    assert wrapped.xmae is model
    assert wrapped.training
    before = model.ppg_path.pos.detach().clone()
    optimiser = torch.optim.SGD(wrapped.parameters(), lr=0.1)
    wrapped(torch.rand(4, 200)).pooler_output.square().mean().backward()
    optimiser.step()
    assert not torch.equal(model.ppg_path.pos, before)
    assert model.ppg_path.stem.lat1.weight.grad.abs().sum() > 0


def test_pushing_uploads_the_folder_of_xmae(hf, monkeypatch):
    calls = []
    monkeypatch.setattr(
        xmae_fast.xMAE, "push_to_hub", lambda self, repo_id, **options: calls.append((repo_id, options))
    )
    hf.XmaeModel.from_xmae(small()).push_to_hub("me/tiny", private=True)
    assert calls == [("me/tiny", {"private": True})]
