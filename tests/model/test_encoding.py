"""Stems of both paths in one call of an operator, as on a GPU; here the operator's reference plays the kernels."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from xmae_fast import ModelCfg, backend, ops, random_masking, xMAE
from xmae_fast.model import path as paths

CFG = ModelCfg(seq_len=100, patch_len=10, d_model=16, nhead=2, stem_ch=4, proj_dim=8, depth_ppg=1, dropout=0.0)


def made() -> xMAE:
    torch.manual_seed(0)
    return xMAE(CFG).train()


def results(model: xMAE, hidden: float = 0.5) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    ids = {}
    for name, ratio in (("ppg", hidden), ("ecg", 0.7)):
        mask = random_masking(3, 10, ratio)
        ids |= {f"ids_keep_{name}": mask.ids_keep, f"ids_restore_{name}": mask.ids_restore}
    found = model(torch.randn(3, 100), torch.randn(3, 1, 100), **ids)
    found["ecg_reconstructed"].square().mean().backward()
    return found | {name: x.grad for name, x in model.named_parameters() if x.grad is not None}


@pytest.fixture
def joint(monkeypatch) -> list[bool]:
    """The `training` of each call that took both stems."""
    calls = []

    def conv_stems(xs, params, *, training, impl):
        calls.append(training)
        return tuple(ops.conv_stem(x, stem, training=training) for x, stem in zip(xs, params, strict=True))

    class OnGpu:
        """The backend, which says that a kernel for GPUs serves the stems."""

        resolve = staticmethod(lambda op, *_: "triton")

        def __getattr__(self, name):
            return getattr(backend, name)

    monkeypatch.setattr(paths, "backend", OnGpu())
    monkeypatch.setattr(ops, "conv_stems", conv_stems)
    return calls


def test_together_is_as_each_alone(joint, monkeypatch):
    together = results(made())
    assert joint == [True]
    monkeypatch.undo()
    alone = results(made())
    assert joint == [True]
    assert together.keys() == alone.keys()
    assert all(torch.equal(together[key], alone[key]) for key in alone)


def replace(model: xMAE) -> None:
    class Stem(type(model.ppg_path.stem)):
        def forward(self, x):
            return 2 * super().forward(x)

    stem = Stem(1, 4)
    stem.load_state_dict(model.ppg_path.stem.state_dict())
    model.ppg_path.stem = stem


def own_tokens(model: xMAE) -> None:
    tokens = model.ecg_path.visible_tokens_from_wave
    model.ecg_path.visible_tokens_from_wave = lambda *arguments: tokens(*arguments)


ALTERATIONS = {
    "another stem": replace,
    "a hook on a stem": lambda model: model.ecg_path.stem.register_forward_hook(lambda *_: None),
    "a hook within": lambda model: model.ppg_path.stem.head.register_forward_hook(lambda *_: None),
    "another layer": lambda model: setattr(model.ecg_path.stem.head[1], "eps", 1e-3),
    "one in evaluation": lambda model: model.ppg_path.stem.eval(),
    "its own method": own_tokens,
    "another choice": lambda model: setattr(model.ecg_path.stem, "impl", "reference"),
    "another path": lambda model: setattr(model, "ppg_path", nn.ModuleDict({"inner": model.ppg_path})),
}


@pytest.mark.parametrize("alteration", ALTERATIONS)
def test_not_together(joint, alteration):
    model = made()
    ALTERATIONS[alteration](model)
    if alteration == "another path":
        model.ppg_path.visible_tokens_from_wave = model.ppg_path["inner"].visible_tokens_from_wave
        model.ppg_path.embedding = model.ppg_path["inner"].embedding
    results(model)
    assert joint == []


def test_not_together_without_visible_patches(joint):
    results(made(), hidden=1.0)
    assert joint == []


@pytest.mark.parametrize("impl", ["reference", "auto"])
@pytest.mark.parametrize("lag", ["window(0.0, 0.3)", "gaussian", "table", None])
def test_no_visible_ppg_leaves_the_bridge_without_keys(lag, impl):
    """Every query then attends to nothing, with a lag as without."""
    torch.manual_seed(0)
    model = xMAE(ModelCfg(**(CFG.to_dict() | {"lag": lag})), impl=impl)
    plain = xMAE(CFG, impl="reference")
    plain.load_state_dict({key: x for key, x in model.state_dict().items() if ".lag." not in key})
    got, want = (results(each, hidden=1.0)["ecg_reconstructed"] for each in (model, plain))
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)
