"""Synchronised BatchNorm takes the place of the stems' BatchNorms, and nothing else about the model changes."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

import xmae_fast
from xmae_fast import ModelCfg, xMAE
from xmae_fast.training import adamw
from xmae_fast.training.sync_batchnorm import SynchronisedBatchNorm1d, synchronise_batch_norm

CFG = ModelCfg(seq_len=100, patch_len=10, d_model=16, nhead=2, stem_ch=4, proj_dim=8, depth_ppg=1, dropout=0.0)


@pytest.fixture
def model() -> xMAE:
    torch.manual_seed(0)
    return xMAE(CFG)


def norms(model: xMAE) -> list[nn.Module]:
    stems = model.ppg_path.stem, model.ecg_path.stem
    return [module for stem in stems for module in stem.modules() if isinstance(module, nn.BatchNorm1d)]


def test_every_batch_norm_of_the_stems_is_replaced_and_stays_in_its_place(model):
    names = [name for name, _ in model.named_modules()]
    synchronise_batch_norm(model)
    assert [name for name, _ in model.named_modules()] == names
    assert {type(norm) for norm in norms(model)} == {SynchronisedBatchNorm1d}
    assert len(norms(model)) == 60


def test_the_state_dict_has_the_same_keys_and_tensors(model):
    before = model.state_dict(keep_vars=True)
    synchronise_batch_norm(model)
    after = model.state_dict(keep_vars=True)
    assert list(after) == list(before)
    assert all(after[key] is before[key] for key in before)
    fresh = xMAE(CFG)
    fresh.load_state_dict(model.state_dict())  # strict


def test_evaluation_and_modes_stay(model):
    norms(model)[3].eval()
    modes = [module.training for module in model.modules()]
    synchronise_batch_norm(model)
    assert [module.training for module in model.modules()] == modes
    reference = xMAE(CFG, impl="reference").eval()
    reference.load_state_dict(model.state_dict())
    ppg = torch.randn(3, 100)
    torch.testing.assert_close(model.eval().embed(ppg), reference.embed(ppg))


def test_settings_hooks_and_their_handles_stay(model):
    norm, calls = norms(model)[0], []
    norm.eps, norm.momentum = 1e-3, None
    handle = norm.register_forward_hook(lambda module, *_: calls.append(type(module)))
    synchronise_batch_norm(model)
    made = norms(model)[0]
    assert (made.eps, made.momentum) == (1e-3, None)
    model.eval().embed(torch.randn(2, 100))
    assert calls == [SynchronisedBatchNorm1d]
    handle.remove()
    model.embed(torch.randn(2, 100))
    assert calls == [SynchronisedBatchNorm1d]


def test_an_optimiser_made_before_trains_the_same_weights(model):
    optimizer = adamw(model.parameters())
    synchronise_batch_norm(model)
    assert {id(x) for x in optimizer.param_groups[0]["params"]} == {id(x) for x in model.parameters()}


def test_a_shared_layer_stays_shared(model):
    stem = model.ppg_path.stem
    stem.smooth2[1] = stem.enc2[0].fuse[1]
    stem.second_name = stem.skip_bn
    synchronise_batch_norm(model)
    assert stem.second_name is stem.skip_bn
    assert stem.smooth2[1] is stem.enc2[0].fuse[1]
    assert type(stem.smooth2[1]) is SynchronisedBatchNorm1d


def test_another_norm_is_left_alone(model):
    model.ecg_path.stem.head[1] = nn.Identity()
    kept = model.ppg_path.stem.head[1] = nn.SyncBatchNorm(4)
    synchronise_batch_norm(model)
    assert model.ppg_path.stem.head[1] is kept


def test_explain_says_what_runs_as_modules(model):
    synchronise_batch_norm(model)
    wanted = "conv_stem: runs as modules, because of ppg_path.stem.skip_bn: it is a SynchronisedBatchNorm1d"
    assert wanted in xmae_fast.explain(model)


def test_copies_and_pickles(model):
    synchronise_batch_norm(model)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert {type(norm) for norm in norms(other)} == {SynchronisedBatchNorm1d}
        assert norms(other)[0].weight is not norms(model)[0].weight
