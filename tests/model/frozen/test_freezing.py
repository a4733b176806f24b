"""A frozen model computes what any other would; what is seen of a change of its weights and what is not."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

from tests.model.frozen.conftest import (
    MATRICES,
    NOT_FORWARD,
    embed,
    forward,
    make_model,
    matrix,
    plainly,
)
from xmae_fast import xMAE


def test_freezing_and_its_end():
    model = make_model()
    assert not model.is_frozen
    want = embed(model), forward(model)
    assert model.freeze() is model
    assert model.is_frozen
    for _ in range(2):
        assert torch.equal(embed(model), want[0])
        assert torch.equal(forward(model), want[1])
    assert model.freeze().is_frozen
    assert model.unfreeze() is model
    assert not model.is_frozen
    assert not model.unfreeze().is_frozen
    assert torch.equal(embed(model), want[0])


def test_nothing_else_of_the_model_changes(tmp_path):
    model, other = make_model().train(), make_model().train()
    model.freeze()
    assert model.training
    assert all(p.requires_grad for p in model.parameters())
    assert list(model.state_dict()) == list(other.state_dict())
    assert vars(model).keys() == vars(other).keys()
    model.save_pretrained(tmp_path / "frozen" / "mine")
    other.save_pretrained(tmp_path / "other" / "mine")
    for name in ("config.json", "preprocessing.json", "README.md"):
        assert (tmp_path / "frozen" / "mine" / name).read_bytes() == (tmp_path / "other" / "mine" / name).read_bytes()
    mine, others = (load_file(tmp_path / name / "mine" / "model.safetensors") for name in ("frozen", "other"))
    assert mine.keys() == others.keys()
    assert all(torch.equal(x, others[name]) for name, x in mine.items())
    assert not xMAE.from_pretrained(tmp_path / "frozen" / "mine").is_frozen


@pytest.mark.parametrize("name", MATRICES)
def test_what_is_seen_and_what_is_not(name, kernels):
    """A write through .data is not counted: frozen weights are not read for it, but by `freeze` or `unfreeze`."""
    model = make_model().freeze()
    before = embed(model)
    weight = matrix(model, name)
    weight.data.mul_(-1)
    assert torch.equal(embed(model), before)
    after = plainly(embed, model)
    assert not torch.equal(after, before)
    assert torch.equal(embed(model.freeze()), after)
    weight.detach().numpy()[:] *= -1
    assert torch.equal(embed(model), after)
    assert torch.equal(embed(model.unfreeze()), before)
    weight.data.mul_(-1)
    assert torch.equal(embed(model), after)


def test_vectors_are_always_seen():
    """Also those that the packed weights hold: the norms of the stem and their statistics."""
    model = make_model().freeze()
    last, unseen = forward(model), []
    for name, x in [*model.named_parameters(), *model.named_buffers()]:
        if x.dim() == 1 and x.is_floating_point() and not name.startswith(NOT_FORWARD):
            x.data.add_(0.25)
            now = forward(model)
            if torch.equal(now, last):
                unseen.append(name)
            last = now
    assert not unseen
    assert torch.equal(last, plainly(forward, model))
