"""Embedding by graph: padding, buckets and recapture, with a pretended graph; capturing itself needs a GPU."""

from __future__ import annotations

import pytest
import torch

from tests.training.test_step import CFG, PretendedReplay
from xmae_fast import _graphs as graphs
from xmae_fast import xMAE
from xmae_fast.model import embedding_graphs
from xmae_fast.model.outputs import encode


@pytest.fixture
def model(monkeypatch) -> xMAE:
    monkeypatch.setattr(graphs, "Replay", PretendedReplay)
    monkeypatch.setattr(graphs, "on_side_stream", lambda function, device: function())
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: None)
    torch.manual_seed(1)
    return xMAE(CFG).eval()


def embed(model, signal):
    return embedding_graphs.embed(model, signal, model._embed)


def bucket(model):
    (only,) = embedding_graphs._of_model[model].buckets.values()
    return only


@pytest.mark.parametrize("B", [1, 3, 8, 17])
@torch.no_grad()
def test_every_call_gives_the_embeddings_of_its_rows(model, B):
    for number in range(graphs.WARM_UP + 3):
        signal = torch.randn(B, 1, CFG.seq_len, generator=torch.Generator().manual_seed(number))
        torch.testing.assert_close(embed(model, signal), model._embed(signal), rtol=1e-5, atol=1e-6)
    assert bucket(model).replay is not None
    assert bucket(model).rows >= B


@torch.no_grad()
def test_a_result_is_not_overwritten_by_the_next_call(model):
    signals = torch.randn(graphs.WARM_UP + 2, 2, 1, CFG.seq_len)
    results = [embed(model, signal) for signal in signals]
    for signal, result in zip(signals, results, strict=True):
        torch.testing.assert_close(result, model._embed(signal), rtol=1e-5, atol=1e-6)


def replaced(model):
    model.load_state_dict({name: x.clone() for name, x in model.state_dict().items()}, assign=True)


def transposed(model):
    weight = model.ppg_path.encoder.blocks[0].attn.out_proj.weight
    weight.data = weight.data.t()


@pytest.mark.parametrize("move", [replaced, transposed])
@torch.no_grad()
def test_weights_that_moved_are_captured_again(model, move):
    signal = torch.randn(2, 1, CFG.seq_len)
    for _ in range(graphs.WARM_UP + 1):
        embed(model, signal)
    before = bucket(model)
    move(model)
    embed(model, signal)
    assert bucket(model) is not before
    assert bucket(model).replay is None


@torch.no_grad()
def test_outputs_have_graphs_of_their_own(model, monkeypatch):
    """`encode` on a device with graphs: pooled and projected in turn, each captured once."""
    monkeypatch.setattr(embedding_graphs, "usable", lambda model, signal: True)
    signal = torch.randn(3, 1, CFG.seq_len)
    for _ in range(graphs.WARM_UP + 2):
        pooled, projected = (encode(model, signal, output) for output in ("pooled", "projected"))
        torch.testing.assert_close(model.ppg_path.proj(pooled), projected, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(projected, model._embed(signal), rtol=1e-5, atol=1e-6)
    kinds = [key[0] for key, made in embedding_graphs._of_model[model].buckets.items() if made.replay is not None]
    assert sorted(kinds) == ["pooled", "projected"]


def test_cpu_tensors_do_not_go_by_graph(model):
    assert not embedding_graphs.usable(model, torch.zeros(1, 1, CFG.seq_len))
    assert list(embedding_graphs.BUCKETS) == sorted(set(embedding_graphs.BUCKETS))
