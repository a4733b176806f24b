"""Training steps and embeddings on a GPU: captured, without synchronisation, and with other tools of PyTorch."""

from __future__ import annotations

import copy
import os

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from xmae_fast import ModelCfg, backend, masked_mse, random_masking, xMAE
from xmae_fast import _graphs as graphs
from xmae_fast.training import GradientArena, GraphedStep, adamw

pytestmark = pytest.mark.gpu
CFG = ModelCfg(d_model=256, proj_dim=256, dropout=0.1)
B = 32


@pytest.fixture(autouse=True)
def _usable(need_impl):
    for op in ("random_masking", *backend.MODEL_OPS):
        need_impl(op, "triton")


@pytest.fixture
def model() -> xMAE:
    torch.manual_seed(0)
    return xMAE(CFG, impl="triton").cuda().train()


@pytest.fixture
def batches() -> list[tuple[torch.Tensor, torch.Tensor]]:
    torch.manual_seed(1)
    return [tuple(torch.randn(2, B, CFG.seq_len, device="cuda")) for _ in range(10)]


def make_step(model: xMAE, **options) -> GraphedStep:
    model = copy.deepcopy(model)
    return GraphedStep(model, adamw(model.parameters()), autocast=torch.bfloat16, **options)


def loss_of(model, ppg, ecg, ids):
    out = model(ppg, ecg, **ids, return_embeddings=False)
    return masked_mse(out["ecg_reconstructed"], ecg, out["seq_mask_used_ecg"])


def make_ids(seed: int = 3):
    mask = random_masking(B, CFG.num_patches, 0.8, generator=torch.Generator().manual_seed(seed), device="cuda")
    return {"ids_keep_ecg": mask.ids_keep, "ids_restore_ecg": mask.ids_restore}


def test_replays_equal_eager_steps(model, batches):
    eager, graphed = make_step(model, graph=False), make_step(model)
    assert not graphed.reason
    for number, (ppg, ecg) in enumerate(batches):
        for step in (eager, graphed):
            step.mask_ratio = 0.8 if number < 6 else 0.6
            step.optimizer.param_groups[0]["lr"].fill_(1e-3 / (1 + number))
        assert torch.equal(eager(ppg, ecg), graphed(ppg, ecg)), number
    assert not graphed.reason
    for (name, x), y in zip(eager.core.state_dict().items(), graphed.core.state_dict().values(), strict=True):
        assert torch.equal(x, y), name


def test_nothing_is_synchronised(model, batches):
    step = make_step(model, graph=False)
    step(*batches[0])
    torch.cuda.set_sync_debug_mode("error")
    try:
        step(*batches[1])
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_loss_falls_on_one_batch(model, batches):
    step = make_step(model)
    losses = torch.stack([step(*batches[0]) for _ in range(60)])
    assert losses[-10:].mean() < 0.9 * losses[:10].mean()


def test_agrees_with_the_reference_in_bfloat16(model, batches):
    """The errors of loss and gradients to float64 are at most twice those of plain PyTorch under the same autocast."""
    ids, (ppg, ecg) = make_ids(), batches[0]
    for module in model.modules():
        if isinstance(getattr(module, "dropout", None), float):
            module.dropout = 0.0

    def gradients(impl, dtype, autocast):
        copied = copy.deepcopy(model).to(dtype)
        copied.impl = impl
        with torch.autocast("cuda", torch.bfloat16, enabled=autocast):
            loss = loss_of(copied, ppg.to(dtype), ecg.to(dtype), ids)
        loss.backward()
        return torch.cat([x.grad.flatten().double() for x in copied.parameters() if x.grad is not None]), loss.double()

    want, want_loss = gradients("reference", torch.float64, False)
    plain, plain_loss = gradients("reference", torch.float32, True)
    ours, our_loss = gradients("triton", torch.float32, True)
    assert (ours - want).norm() <= 2 * (plain - want).norm()
    assert (our_loss - want_loss).abs() <= 2 * (plain_loss - want_loss).abs() + 1e-2 * want_loss


def test_embedding_by_graph_equals_eager(model):
    model.eval()
    for rows in (1, 3, 64):
        for _ in range(graphs.WARM_UP + 2):
            ppg = torch.randn(rows, CFG.seq_len, device="cuda")
            got = model.embed(ppg)
            with torch.no_grad():
                torch.testing.assert_close(got, model._embed(ppg[:, None]), rtol=1e-4, atol=1e-5)


def test_gradient_checkpointing(model, batches):
    ids, (ppg, ecg) = make_ids(), batches[0]
    model.eval()  # without dropout, for which a second forward would draw other seeds

    def gradient(run):
        model.zero_grad()
        run().backward()
        return torch.cat([x.grad.flatten() for x in model.parameters() if x.grad is not None])

    plain = gradient(lambda: loss_of(model, ppg, ecg, ids))
    again = gradient(lambda: checkpoint(loss_of, model, ppg, ecg, ids, use_reentrant=False))
    assert torch.equal(plain, again)


def test_compiles_without_graph_breaks(model, batches):
    ids, (ppg, ecg) = make_ids(), batches[0]
    model.eval()
    compiled = torch.compile(loss_of, fullgraph=True)
    torch.testing.assert_close(compiled(model, ppg, ecg, ids), loss_of(model, ppg, ecg, ids), rtol=1e-4, atol=1e-5)


def test_deterministic_algorithms(model, batches):
    torch.use_deterministic_algorithms(True)
    try:
        first, second = ([step(*batch) for batch in batches[:5]] for step in (make_step(model), make_step(model)))
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_a_captured_step_exchanges_gradients(model, batches):
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="29512", RANK="0", WORLD_SIZE="1")
    torch.distributed.init_process_group("nccl")
    try:
        core = copy.deepcopy(model)
        arena = GradientArena(core.parameters())
        step = GraphedStep(core, adamw(core.parameters()), autocast=torch.bfloat16, arena=arena)
        alone = make_step(model, graph=False)
        for batch in batches:
            torch.testing.assert_close(step(*batch), alone(*batch), rtol=1e-4, atol=1e-5)
        assert not step.reason
        assert all(run.replay is not None for run in step._runs.values())
    finally:
        torch.distributed.destroy_process_group()


def test_distributed_data_parallel_of_one(model, batches):
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="29511", RANK="0", WORLD_SIZE="1")
    torch.distributed.init_process_group("nccl")
    try:
        wrapped = torch.nn.parallel.DistributedDataParallel(copy.deepcopy(model), find_unused_parameters=True)
        step = GraphedStep(wrapped, adamw(wrapped.parameters()), autocast=torch.bfloat16)
        alone = make_step(model, graph=False)
        assert "DistributedDataParallel" in step.reason
        for batch in batches[:3]:
            torch.testing.assert_close(step(*batch), alone(*batch), rtol=1e-4, atol=1e-5)
    finally:
        torch.distributed.destroy_process_group()
