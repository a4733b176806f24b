"""Copies, shared weights, moves, deletion, threads: nothing frozen is left behind, and nothing is mistaken."""

from __future__ import annotations

import gc
import threading
import weakref

import pytest
import torch

from tests.model.copies import copied, copied_by_reference, pickled, saved
from tests.model.frozen.conftest import (
    PPG,
    embed,
    make_model,
    matrix,
    negate,
    plainly,
)
from xmae_fast import xMAE
from xmae_fast.model.frozen import frozen
from xmae_fast.ops import _frozen


@pytest.mark.parametrize("make", [copied, copied_by_reference, pickled, saved])
def test_copies_are_not_frozen(make):
    model = make_model().freeze()
    want = embed(model)
    other = make(model).eval()
    assert model.is_frozen
    assert not other.is_frozen
    assert torch.equal(embed(other), want)
    negate(other, matrix(other, "patcher.proj.weight"))
    changed = embed(other)
    assert not torch.equal(changed, want)
    assert torch.equal(embed(model), changed if make is copied_by_reference else want)
    if make is not copied_by_reference:
        matrix(other, "patcher.proj.weight").data.neg_()
        assert torch.equal(embed(other), want)
    del model
    gc.collect()
    assert not _frozen._versions
    matrix(other, "encoder.blocks.0.mlp.0.weight").data.neg_()
    assert torch.equal(embed(other), plainly(embed, other))


def test_two_frozen_models_share_weights():
    first, second = make_model(), make_model(1)
    second.ppg_path.encoder = first.ppg_path.encoder
    first.freeze()
    second.freeze()
    before = embed(first), embed(second)
    weight = matrix(first, "encoder.blocks.0.mlp.0.weight")
    negate(first, weight)
    assert torch.equal(embed(second), plainly(embed, second))
    assert torch.equal(embed(first), plainly(embed, first))
    first.unfreeze()
    changed = embed(second)
    weight.data.neg_()
    assert torch.equal(embed(second), changed)  # still frozen
    second.unfreeze()
    assert torch.equal(embed(first), before[0])
    assert torch.equal(embed(second), before[1])


def test_a_frozen_model_that_is_deleted():
    model = make_model().freeze()
    embed(model)
    seen = weakref.ref(model)
    del model
    assert seen() is None  # at once: nobody else holds it
    assert not _frozen._versions


def test_models_that_come_and_go_at_the_same_addresses():
    places = set()
    reused = 0
    for seed in range(20):
        model = make_model(seed).freeze()
        mine = {x.data_ptr() for x in model.parameters()}
        reused += len(mine & places)
        places |= mine
        for _ in range(2):
            assert torch.equal(embed(model), plainly(embed, model))
        del model
    assert reused > 100


@pytest.mark.parametrize("move", [xMAE.double, xMAE.half, xMAE.float, lambda model: model.to("meta")])
def test_weights_that_move(move):
    model = make_model().freeze()
    embed(model)
    move(model)
    assert model.is_frozen
    weight = matrix(model, "patcher.proj.weight")
    packed = weight.dtype == torch.float32 and weight.device.type == "cpu"  # by kernels
    assert (id(weight) in _frozen._versions) == packed
    assert set(_frozen._versions) <= {id(x) for x in model.parameters()}
    assert bool(_frozen._versions) == packed


def test_weights_without_counters():
    with torch.inference_mode():
        model = make_model()
    with pytest.raises(RuntimeError, match=r"freeze: expected weights that count their changes"):
        model.freeze()
    assert not model.is_frozen
    with frozen(model):
        before = embed(model)
    with torch.inference_mode():
        matrix(model, "patcher.proj.weight").neg_()
    assert not torch.equal(embed(model), before)
    other = make_model().freeze()
    with torch.inference_mode():
        other.double().float()
    assert other.is_frozen == bool(_frozen._versions)


def test_freezing_for_a_while():
    model = make_model()
    with frozen(model):
        before = embed(model)
        matrix(model, "patcher.proj.weight").data.neg_()
        assert torch.equal(embed(model), before)
        assert not model.is_frozen
    assert not torch.equal(embed(model), before)
    model.freeze()
    with frozen(model):
        assert model.is_frozen
    assert model.is_frozen
    with pytest.raises(ZeroDivisionError), frozen(model.unfreeze()):
        raise ZeroDivisionError
    assert not _frozen._versions


def test_a_compiled_model_follows_and_has_no_breaks():
    model = make_model().freeze()
    torch.compiler.reset()
    compiled = torch.compile(model.embed, backend="aot_eager", fullgraph=True)
    weight = matrix(model, "encoder.blocks.0.mlp.0.weight")
    first = compiled(PPG)
    assert torch.equal(first, embed(model))
    weight.data.neg_()  # a graph reads all weights
    second = compiled(PPG)
    assert not torch.equal(second, first)
    assert torch.equal(second, plainly(embed, model))
    negate(model, weight)
    assert torch.equal(compiled(PPG), first)
    assert torch.equal(embed(model), first)
    torch.compiler.reset()


def test_other_implementations_do_not_mind():
    model = make_model()
    model.impl = "reference"
    before = embed(model.freeze())
    matrix(model, "patcher.proj.weight").data.neg_()
    assert not torch.equal(embed(model), before)


def test_threads_that_compute_while_one_trains():
    model = make_model().freeze()
    weight, errors, done = matrix(model, "patcher.proj.weight"), [], threading.Event()
    two = embed(model), None
    negate(model, weight)
    two = two[0], embed(model)

    def compute() -> None:
        while not done.is_set():
            with reading:
                got = embed(model)
                want = two[positive[0]]
            if not torch.equal(got, want):
                errors.append(positive[0])

    reading, positive = threading.Lock(), [1]
    threads = [threading.Thread(target=compute) for _ in range(2)]
    for thread in threads:
        thread.start()
    for round in range(60):
        with reading:
            negate(model, weight)
            positive[0] = 1 - positive[0]
        if round % 7 == 0:
            model.unfreeze() if model.is_frozen else model.freeze()
    done.set()
    for thread in threads:
        thread.join()
    assert not errors
