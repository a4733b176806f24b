"""Whatever changes the weights of a frozen model, it follows."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.utils.prune import l1_unstructured, remove

from tests.model.frozen.conftest import (
    CALLS,
    MATRICES,
    PPG,
    embed,
    forward,
    make_model,
    matrix,
    negate,
    plainly,
)
from xmae_fast import random_masking


def copy_into(model, weight):
    with torch.no_grad():
        weight.copy_(weight * 2)


def load(model, weight):
    model.load_state_dict({name: x * 0.5 if x.dim() > 1 else x for name, x in model.state_dict().items()})


def assign(model, weight):
    state = {name: x * 0.5 if x.dim() > 1 else x.clone() for name, x in model.state_dict().items()}
    model.load_state_dict(state, assign=True)
    embed(model)
    forward(model)
    for x in state.values():  # they share the counters of the parameters that were made of them
        x.mul_(2)


def exchange(model, weight):
    weight.data = weight.data * -1


def replace(model, weight):
    for module in model.modules():
        for name, parameter in list(module._parameters.items()):
            if parameter is weight:
                setattr(module, name, nn.Parameter(weight.detach() * -1))


def replace_over_the_same_memory(model, weight):
    for module in model.modules():
        for name, parameter in list(module._parameters.items()):
            if parameter is weight:
                setattr(module, name, nn.Parameter(weight.data))
                embed(model)
                forward(model)
                with torch.no_grad():
                    getattr(module, name).neg_()


def step(kind, **options):
    def change(model, weight):
        optimiser = kind(model.parameters(), **options)
        model.train()
        mask = random_masking(2, 4, 0.5)
        out = model(PPG, PPG.flip(0), ids_keep_ecg=mask.ids_keep, ids_restore_ecg=mask.ids_restore, return_loss=True)
        out["loss"].backward()
        optimiser.step()
        model.eval()

    change.__name__ = f"step_of_{kind.__name__}_{'_'.join(options)}"
    return change


def statistics(model, weight):
    """The modules' BatchNorm writes its running statistics without counting them."""
    model.impl = "reference"
    with torch.no_grad():
        model.train().ppg_path.encode(PPG[:, None] + 3)
    model.eval()
    model.impl = "cpu"


def half_and_back(model, weight):
    model.half()
    model.float()
    negate(model, weight)


def share(model, weight):
    model.share_memory()
    negate(model, weight)


def prune(model, weight):
    model.impl = "auto"
    l1_unstructured(model.ppg_path.patcher.proj, "weight", 0.5)
    embed(model)
    remove(model.ppg_path.patcher.proj, "weight")
    model.impl = "cpu"
    negate(model, model.ppg_path.patcher.proj.weight)


def swap(model, weight):
    torch.utils.swap_tensors(weight, nn.Parameter(weight.detach() * -1))


CHANGES = (
    negate, copy_into, load, assign, exchange, replace, replace_over_the_same_memory, step(torch.optim.SGD, lr=0.1),
    step(torch.optim.AdamW, lr=0.1, fused=True), step(torch.optim.Adam, lr=0.1, foreach=True), statistics,
    half_and_back, share, prune, swap,
)  # fmt: skip


@pytest.mark.parametrize("name", MATRICES[3:6])
@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_changes(change, name):
    model = make_model().freeze()
    before = [call(model) for call in CALLS]
    for _ in range(2):
        change(model, matrix(model, name))
        after = [call(model) for call in CALLS]
        assert model.is_frozen
        for call, was, now in zip(CALLS, before, after, strict=True):
            assert not torch.equal(now, was)
            assert torch.equal(now, plainly(call, model))
            assert torch.equal(now, call(model))
        before = after
    weight = matrix(model, name)
    negate(model, weight)
    for call in CALLS:
        assert torch.equal(call(model), plainly(call, model))


def test_parts_alone_follow_too():
    model = make_model().freeze()
    path = model.ppg_path
    with torch.no_grad():
        first = path.encode(PPG[:, None], inference=True)
        negate(model, matrix(model, "encoder.blocks.1.mlp.2.weight"))
        second = path.encode(PPG[:, None], inference=True)
        assert not torch.equal(second, first)
        tokens = path.stem(PPG[:, None])
        negate(model, matrix(model, "stem.lat2.weight"))
        assert not torch.equal(path.stem(PPG[:, None]), tokens)
        path.stem.impl = "reference"
        torch.testing.assert_close(path.stem(PPG[:, None]), path._modules["stem"](PPG[:, None]))


def test_a_hook_that_changes_weights_in_the_middle_of_a_call():
    model = make_model().freeze()
    before = forward(model)
    weight = model.ecg_path.encoder.blocks[0].mlp[0].weight
    handle = model.ecg_path.stem.register_forward_hook(lambda *_: negate(model, weight))
    once, twice = forward(model), forward(model)
    handle.remove()
    assert not torch.equal(once, before)
    torch.testing.assert_close(twice, before)  # negated again
    assert torch.equal(forward(model), before)
