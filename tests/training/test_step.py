"""GraphedStep: what a step computes, and that a captured step computes the same; real capturing needs a GPU."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch

from xmae_fast import _graphs as graphs
from xmae_fast import masked_mse, xMAE
from xmae_fast.config import ModelCfg
from xmae_fast.ops import masks_from_seed
from xmae_fast.training import GraphedStep, adamw
from xmae_fast.training.truth import SCALES, TruthHead

B = 4
CFG = ModelCfg(
    seq_len=120, patch_len=20, d_model=32, nhead=4, depth_ecg=1, depth_ppg=1, depth_bridge=1, stem_ch=8, proj_dim=16,
    dropout=0.1,
)  # fmt: skip


@pytest.fixture
def model() -> xMAE:
    torch.manual_seed(1)
    return xMAE(CFG).train()


@pytest.fixture
def batches() -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(2)
    return [tuple(torch.randn(2, B, CFG.seq_len, generator=generator)) for _ in range(9)]


def make_step(model: xMAE, **options) -> GraphedStep:
    model = copy.deepcopy(model)
    return GraphedStep(model, adamw(model.parameters()), **options)


class PretendedReplay:
    """A capture that runs nothing and a replay that runs the function, as a CUDA graph does, but on a CPU."""

    def __init__(self, function, pool):
        self.function = function

    def __call__(self):
        return self.function()


@pytest.fixture
def pretend_cuda(monkeypatch):
    monkeypatch.setattr(graphs, "Replay", PretendedReplay)
    monkeypatch.setattr(graphs, "on_side_stream", lambda function, device: function())

    def captured(step: GraphedStep) -> GraphedStep:
        step.reason = ""
        return step

    return captured


def test_a_step_is_masks_forward_loss_backward_optimizer(batches):
    model = xMAE(replace(CFG, dropout=0.0)).train()
    step = make_step(model, seed=5, mask_ratio=0.5)
    optimizer = adamw(model.parameters())
    sites = step._sites
    for number, (ppg, ecg) in enumerate(batches[:3]):
        seed = torch.tensor([5, number * sites])
        mask = masks_from_seed(seed, B, CFG.num_patches, 3, "anchor")
        out = model(ppg, ecg, ids_keep_ecg=mask.ids_keep, ids_restore_ecg=mask.ids_restore)
        loss = masked_mse(out["ecg_reconstructed"], ecg, out["seq_mask_used_ecg"])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        torch.testing.assert_close(step(ppg, ecg), loss.detach(), rtol=1e-5, atol=1e-6)


def test_captured_steps_equal_eager_ones(model, batches, pretend_cuda):
    eager, captured = make_step(model), pretend_cuda(make_step(model))
    for number, (ppg, ecg) in enumerate(batches):
        for step in (eager, captured):
            step.mask_ratio = 0.5 if number > 5 else 0.8
            step.optimizer.param_groups[0]["lr"] = 1e-3 / (1 + number)
        assert torch.equal(eager(ppg, ecg), captured(ppg, ecg)), number
    assert len(captured._runs) == 2
    for name, x in eager.core.state_dict().items():
        assert torch.equal(x, captured.core.state_dict()[name]), name


def test_captured_steps_tell_the_truth_as_eager_ones_do(model, batches, pretend_cuda):
    """The head is trained, each step has a loss of its own, and the projection of the embedding is trained too."""
    torch.manual_seed(3)
    head, steps = TruthHead(CFG.proj_dim), []
    for _ in range(2):
        core, own = copy.deepcopy(model), copy.deepcopy(head)
        steps.append(GraphedStep(core, adamw([*core.parameters(), *own.parameters()]), truth=own, truth_weight=0.3))
    eager, captured = steps[0], pretend_cuda(steps[1])
    before = eager.core.ppg_path.proj[1].weight.clone()
    told = []
    for number, (ppg, ecg) in enumerate(batches):
        truth = torch.cat([torch.arange(B)[:, None] % 6, torch.randn(B, len(SCALES))], 1).float()
        assert torch.equal(eager(ppg, ecg, truth), captured(ppg, ecg, truth)), number
        assert torch.equal(eager.truth_loss, captured.truth_loss)
        told.append(captured.truth_loss)
    assert len({x.item() for x in told}) == len(told)  # earlier ones are not overwritten
    for one, two in zip(eager.truth.parameters(), captured.truth.parameters(), strict=True):
        assert torch.equal(one, two)
    assert not torch.equal(before, eager.core.ppg_path.proj[1].weight)
    state = captured.state_dict()
    assert torch.equal(state["truth"]["linear.weight"], captured.truth.linear.weight)


def weights_replaced(step):
    step.core.load_state_dict({name: x.clone() for name, x in step.core.state_dict().items()}, assign=True)


def layout_changed(step):
    weight = step.core.bridger.ecg2ppg[0].attn.out_proj.weight
    weight.data = weight.data.t()


def optimizer_resumed(step):
    step.optimizer.load_state_dict(copy.deepcopy(step.optimizer.state_dict()))


def learning_rate_replaced(step):
    step.optimizer.param_groups[0]["lr"] = 1e-5


def weight_decay_changed(step):
    step.optimizer.param_groups[0]["weight_decay"] = 0.3


def parameter_frozen(step):
    step.core.mask_token.requires_grad_(False)


def statistics_frozen(step):
    step.core.ppg_path.stem.eval()


def dropout_changed(step):
    for module in step.core.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.3


def attention_dropout_changed(step):
    step.core.bridger.ecg2ppg[0].attn.dropout = 0.4


def option_changed(step):
    step.mode = "scatter"


CHANGES = (
    weights_replaced, layout_changed, optimizer_resumed, learning_rate_replaced, weight_decay_changed, parameter_frozen,
    statistics_frozen, dropout_changed, attention_dropout_changed, option_changed,
)  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_what_a_capture_cannot_follow_is_captured_again(model, batches, pretend_cuda, change):
    step = pretend_cuda(make_step(model))
    for ppg, ecg in batches[: graphs.WARM_UP + 2]:
        step(ppg, ecg)
    (run,) = step._runs.values()
    first = run.replay
    assert first is not None
    change(step)
    for number, (ppg, ecg) in enumerate(batches[-graphs.WARM_UP :]):
        step(ppg, ecg)
        assert (run.replay, run.eager_steps) == (None, number + 1)
    step(*batches[0])
    assert run.replay not in (None, first)


def test_what_a_capture_follows_is_not_captured_again(model, batches, pretend_cuda):
    step = pretend_cuda(make_step(model))
    for ppg, ecg in batches[: graphs.WARM_UP + 1]:
        step(ppg, ecg)
    (run,) = step._runs.values()
    first = run.replay
    with torch.no_grad():
        step.core.mask_token.mul_(2)
    step.core.load_state_dict(copy.deepcopy(step.core.state_dict()))
    step.seed = 3
    step.core.eval().train()
    step(*batches[-1])
    assert first is run.replay is not None


def test_a_failed_capture_goes_on_eagerly_and_says_so(model, batches, pretend_cuda, monkeypatch):
    def fail(function, pool):
        raise RuntimeError("operation not permitted when stream is capturing")

    eager, captured = make_step(model), pretend_cuda(make_step(model))
    monkeypatch.setattr(graphs, "Replay", fail)
    for ppg, ecg in batches[: graphs.WARM_UP]:
        assert torch.equal(eager(ppg, ecg), captured(ppg, ecg))
    with pytest.warns(UserWarning, match="not permitted"):
        loss = captured(*batches[3])
    assert torch.equal(loss, eager(*batches[3]))
    assert torch.equal(captured(*batches[4]), eager(*batches[4]))
    assert "not permitted" in captured.reason


def test_a_resumed_run_goes_on_as_the_uninterrupted_one(model, batches):
    whole, first = make_step(model), make_step(model)
    for ppg, ecg in batches[:3]:
        whole(ppg, ecg), first(ppg, ecg)
    second = GraphedStep(copy.deepcopy(first.core), adamw([torch.zeros(1)]), seed=1)
    second.optimizer = adamw(second.core.parameters())
    second.optimizer.load_state_dict(copy.deepcopy(first.optimizer.state_dict()))
    second.load_state_dict(first.state_dict())
    for ppg, ecg in batches[3:6]:
        assert torch.equal(whole(ppg, ecg), second(ppg, ecg))


def test_another_seed_draws_other_masks(model, batches):
    first, second = make_step(model), make_step(model)
    second.seed = 78
    assert first.seed == 77
    assert not torch.equal(first(*batches[0]), second(*batches[0]))


def test_micro_batches_accumulate_the_mean_gradient(batches):
    torch.manual_seed(1)
    model = xMAE(replace(CFG, dropout=0.0)).eval()  # with running statistics, so that no part depends on another
    ppg, ecg = batches[0]
    steps = [make_step(model, micro_batches=parts, mask_ratio=1.0) for parts in (1, 2)]
    losses = [step(ppg, ecg) for step in steps]
    torch.testing.assert_close(*losses)
    for (name, x), y in zip(steps[0].core.named_parameters(), steps[1].core.parameters(), strict=True):
        if x.grad is not None:
            torch.testing.assert_close(x.grad, y.grad, rtol=1e-4, atol=1e-6, msg=name)


def test_hidden_ppg(model, batches):
    step = make_step(model, mask_ratio_ppg=0.5)
    assert torch.isfinite(step(*batches[0]))


def test_says_why_it_is_eager(model):
    assert "CUDA device" in make_step(model).reason
    assert make_step(model, graph=False).reason == "graph=False"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "none"}, "mode: expected one of 'scatter'"),
        ({"autocast": torch.float16}, "autocast: expected None or torch.bfloat16, got torch.float16"),
        ({"micro_batches": 0}, "micro_batches: expected a whole number >= 1, got 0"),
    ],
)
def test_bad_arguments(model, options, message):
    with pytest.raises(ValueError, match=message):
        make_step(model, **options)


def test_bad_batches(model, batches):
    ppg, ecg = batches[0]
    with pytest.raises(ValueError, match="expected two signals of one shape"):
        make_step(model)(ppg, ecg[:2])
    with pytest.raises(ValueError, match="multiple of micro_batches = 3, got 4"):
        make_step(model, micro_batches=3)(ppg, ecg)
    with pytest.raises(ValueError, match="mask_ratio: expected a number in"):
        make_step(model, mask_ratio=1.5)(ppg, ecg)
    with pytest.raises(ValueError, match="expected an xMAE with a bridge, got Linear"):
        GraphedStep(torch.nn.Linear(1, 1), adamw([torch.zeros(1)]))
