"""Gradients that processes exchange. The other process is pretended; tests/training/test_processes.py has real ones."""

from __future__ import annotations

import copy

import pytest
import torch

from tests.training.test_step import CFG, B, batches, model, pretend_cuda  # noqa: F401 - fixtures
from xmae_fast.training import GradientArena, GraphedStep, adamw
from xmae_fast.training.gradients import share_weights
from xmae_fast.training.truth import SCALES, TruthHead

if not torch.distributed.is_available():
    pytest.skip("this torch has no torch.distributed", allow_module_level=True)


@pytest.fixture
def as_two(monkeypatch):
    """all_reduce as if another process had given the same; what was sent is kept."""
    sent: list[torch.Tensor] = []

    def all_reduce(x):
        sent.append(x.clone())
        x.mul_(2)

    monkeypatch.setattr(torch.distributed, "all_reduce", all_reduce)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    monkeypatch.setattr(torch.distributed, "get_backend", lambda: "gloo")
    return sent


def parameters() -> list[torch.Tensor]:
    torch.manual_seed(0)
    made = [torch.randn(3, 4), torch.randn(5).double(), torch.randn(2, 1, 2), torch.randn(())]
    return [x.requires_grad_() for x in made]


def test_the_mean_over_processes_in_one_exchange(monkeypatch):
    """By one all_reduce for each dtype; values, shapes and strides are those of each gradient."""
    own, other = parameters(), parameters()
    for number, (x, y) in enumerate(zip(own, other, strict=True)):
        x.grad, y.grad = torch.randn_like(x), torch.randn_like(y) + number
    own[0].grad = own[0].grad.t().contiguous().t()  # as some backwards leave it
    expected = [(x.grad + y.grad) / 2 for x, y in zip(own, other, strict=True)]
    theirs, exchanges = GradientArena(other), []
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda x: exchanges.append(x.clone()))
    theirs.average()
    halves = {x.dtype: x for x in exchanges}
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda x: x.add_(halves[x.dtype]))
    GradientArena(own).average()
    assert len(exchanges) == 2
    for x, mean in zip(own, expected, strict=True):
        torch.testing.assert_close(x.grad, mean)


def test_a_parameter_without_gradient_keeps_none(as_two):
    own = parameters()
    own[0].grad, own[2].grad = torch.ones_like(own[0]), torch.ones_like(own[2])
    arena = GradientArena(own)
    arena.flat[torch.float32].fill_(float("nan"))  # of a step before
    arena.average()
    assert own[1].grad is None
    assert own[3].grad is None
    assert torch.equal(own[0].grad, torch.ones(3, 4))
    assert all(sent.isfinite().all() for sent in as_two)


@pytest.mark.parametrize("micro_batches", [1, 2])
def test_steps_with_an_exchange(model, batches, pretend_cuda, as_two, micro_batches):  # noqa: F811
    """Where the other process has the same gradients, they are those of one process; captured as well as eager, with
    those of the head that tells the truth, and once a step however many parts it has."""
    steps, head = [], TruthHead(CFG.proj_dim)
    for exchanged in (False, True, True):
        core, own = copy.deepcopy(model), copy.deepcopy(head)
        trained = [*core.parameters(), *own.parameters()]
        options = {"arena": GradientArena(trained)} if exchanged else {}
        options |= {"truth": own, "truth_weight": 0.3, "micro_batches": micro_batches}
        steps.append(GraphedStep(core, adamw(trained), **options))
    alone, eager, captured = *steps[:2], pretend_cuda(steps[2])
    for ppg, ecg in batches[:6]:
        truth = torch.cat([torch.arange(B)[:, None] % 6, torch.randn(B, len(SCALES))], 1).float()
        losses = [step(ppg, ecg, truth) for step in (alone, eager, captured)]
        assert torch.equal(losses[0], losses[1])
        assert torch.equal(losses[0], losses[2])
    assert len(as_two) == 12
    for one, *others in zip(*([*step.core.parameters(), *step.truth.parameters()] for step in steps), strict=True):
        assert all(torch.equal(one, other) for other in others)


def test_says_whether_the_exchange_is_captured(model, as_two, monkeypatch):  # noqa: F811
    """A CPU cannot capture anything, so its device is pretended where the reason is found."""
    optimizer = adamw(model.parameters())
    for group in optimizer.param_groups:
        group["capturable"] = True
    step = GraphedStep(model, optimizer, arena=GradientArena(model.parameters()), world_size=2)
    assert "the model is on cpu" in step.reason
    step.device = torch.device("cuda")
    assert step._why_eager(True) == "the processes communicate by gloo, which is not captured"
    monkeypatch.setattr(torch.distributed, "get_backend", lambda: "nccl")
    assert step._why_eager(True) == ""
    step.arena = None
    assert "does not exchange" in step._why_eager(True)


def test_rank_zero_gives_its_weights(monkeypatch):
    sent = []

    def broadcast(x, source):
        assert source == 0
        sent.append(x)
        x.fill_(1)

    monkeypatch.setattr(torch.distributed, "broadcast", broadcast)
    tensors = [torch.zeros(3, 4).t(), torch.zeros(2, dtype=torch.int64), torch.zeros(())]
    share_weights(tensors)
    assert len(sent) == 2
    assert all((x == 1).all() for x in tensors)
