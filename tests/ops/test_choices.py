"""`impl=` of a model: one implementation for all operators, or another one for single operators."""

from __future__ import annotations

import pytest
import torch

from xmae_fast import ModelCfg, explain, ops, xMAE
from xmae_fast.backend import MODEL_OPS, OPS, BackendError, check_choice, choice_of
from xmae_fast.training import train_cfg_from_dict

CFG = {"seq_len": 200, "patch_len": 20, "d_model": 16, "nhead": 2, "proj_dim": 8, "stem_ch": 4}
WRONG = ("fast", "fast, conv_stem=auto", "auto, conv_stem", "auto, stem=cuda", "auto, conv_stem=fast", "auto,", "")


def tiny(impl: str = "auto") -> xMAE:
    torch.manual_seed(0)
    return xMAE(ModelCfg(**CFG), impl=impl).eval()


def test_impl_can_be_read_and_set():
    model = tiny()
    assert model.impl == "auto"
    model.impl = "reference"
    assert "impl='reference'" in explain(model)
    for impl in ("cuda", "auto, patch_embed=cuda"):
        with pytest.raises(BackendError, match="impl='cuda' was asked for .*, but"):
            model.impl = impl
    assert model.impl == "reference"


@pytest.mark.parametrize("impl", WRONG)
def test_what_is_no_choice(impl):
    with pytest.raises(ValueError, match="impl: expected 'auto' or one of .*'auto, conv_stem=cuda'.*, got "):
        xMAE(ModelCfg(**CFG), impl=impl)
    with pytest.raises(ValueError, match="impl: expected 'auto' or one of"):
        train_cfg_from_dict({"data": ["x.h5"], "impl": impl})


def test_no_string_is_no_choice():
    with pytest.raises(ValueError, match="impl: expected 'auto' or one of .*, got None"):
        xMAE(ModelCfg(**CFG), impl=None)


def test_choices_for_single_operators():
    for impl, chosen in {
        "auto": dict.fromkeys(OPS, "auto"),
        "cpu,conv_stem = cuda": dict.fromkeys(OPS, "cpu") | {"conv_stem": "cuda"},
        "auto, patch_embed=triton, conv_stem=cpu, patch_embed=cpu": dict.fromkeys(OPS, "auto")
        | {"conv_stem": "cpu", "patch_embed": "cpu"},
    }.items():
        check_choice(impl)
        assert {op: choice_of(impl, op) for op in OPS} == chosen
        assert train_cfg_from_dict({"data": ["x.h5"], "impl": impl}).impl == impl


def test_a_model_with_one_operator_in_plain_pytorch(need_impl):
    for op in MODEL_OPS:
        need_impl(op, "cpu")
    mixed, reference, auto = tiny("auto, conv_stem=reference"), tiny("reference"), tiny()
    lines = explain(mixed).splitlines()[1:]
    assert [line.split()[1] for line in lines] == ["reference" if "conv_stem:" in line else "cpu" for line in lines]
    x, stem = torch.randn(2, 1, 200), mixed.ppg_path.stem.params()
    with torch.no_grad():
        features = [ops.conv_stem(x, stem, training=False, impl=one.impl) for one in (mixed, reference, auto)]
        assert torch.equal(features[0], features[1])
        assert not torch.equal(features[0], features[2])
        torch.testing.assert_close(mixed.embed(x), reference.embed(x), rtol=1e-4, atol=1e-5)
