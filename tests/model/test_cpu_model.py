"""The stem's C++ kernels and the whole model on them, in what the tests of every implementation do not ask."""

from __future__ import annotations

import multiprocessing
import sys
import threading
import time

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from xmae_fast import ModelCfg, masked_mse, random_masking, xMAE
from xmae_fast.backend import MODEL_OPS, BackendError, cpu_kernels, use_cpu_kernels
from xmae_fast.ops import conv_stem
from xmae_fast.ops.cases import Maker
from xmae_fast.ops.conv_stem import params as stem_params
from xmae_fast.ops.conv_stem.cases import CASES
from xmae_fast.testing import named_tensors

CFG = {"seq_len": 200, "patch_len": 20, "d_model": 48, "nhead": 4, "proj_dim": 16, "stem_ch": 8, "dropout": 0.1}


@pytest.fixture(autouse=True)
def _built(need_impl):
    for op in MODEL_OPS:
        need_impl(op, "cpu")


def make_model(training: bool = False, **changes) -> xMAE:
    torch.manual_seed(0)
    return xMAE(ModelCfg(**(CFG | changes)), impl="cpu").train(training)


def make_batch(B: int):
    draws = torch.Generator().manual_seed(1)
    mask = random_masking(B, 10, 0.8, generator=draws)
    ids = {"ids_keep_ecg": mask.ids_keep, "ids_restore_ecg": mask.ids_restore}
    return torch.randn(B, 200, generator=draws), torch.randn(B, 200, generator=draws), ids


def training_step(model: xMAE, B: int) -> list[torch.Tensor]:
    """Loss, gradients and buffers of one step, dropout drawn from seed 5."""
    ppg, ecg, ids = make_batch(B)
    torch.manual_seed(5)
    out = model(ppg, ecg, **ids, return_embeddings=False)
    loss = masked_mse(out["ecg_reconstructed"], ecg, out["seq_mask_used_ecg"], impl="cpu")
    loss.backward()
    gradients = [x.grad for x in model.parameters() if x.grad is not None]
    return [loss.detach(), *gradients, *(x.clone() for x in model.buffers())]


@pytest.mark.parametrize("B", [1, 2, 5, 20])
def test_threads_change_no_bit(B, kernels):
    results = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        ppg, ecg, ids = make_batch(B)
        model = make_model()
        with torch.no_grad():
            # Up to the head, which is torch's own product and rounds differently on two threads.
            tokens = model.ppg_path.encode(ppg[:, None], inference=True)
            inference = [tokens, model(ppg, ecg, **ids)["ecg_reconstructed"]]
        results.append(inference + training_step(make_model(training=True), B))
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_a_step_repeats_bit_for_bit():
    first, second = (training_step(make_model(training=True), 4) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def change_in_place(model):
    with torch.no_grad():
        for x in model.parameters():
            x.mul_(1.5)


def change_unseen_by_autograd(model):
    for x in model.parameters():
        x.data *= 1.25


def change_through_numpy(model):
    for x in model.parameters():
        x.detach().numpy()[...] *= 1.5


def change_statistics(model):
    for x in model.buffers():
        x.data[...] = x * 2 + 1


def change_one_weight(model):
    model.ppg_path.stem.enc3[1].branches[2][0].weight.data.view(-1)[-1] += 1


def change_by_loading(model):
    torch.manual_seed(9)
    model.load_state_dict(xMAE(ModelCfg(**CFG)).state_dict())


CHANGES = (
    change_in_place, change_unseen_by_autograd, change_through_numpy, change_statistics, change_one_weight,
    change_by_loading,
)  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_packed_weights_are_never_stale(change):
    model, plain = make_model(), make_model()
    plain.impl = "reference"
    ppg, _, _ = make_batch(3)
    before = model.embed(ppg)
    change(model)
    change(plain)
    after, want = model.embed(ppg), plain.embed(ppg)
    assert not torch.equal(before, after)
    torch.testing.assert_close(after, want, rtol=1e-4, atol=1e-5)


def test_models_in_turns_do_not_mix():
    models = [make_model(stem_ch=channels) for channels in (4, 8, 12)]
    ppg, _, _ = make_batch(2)
    alone = [model.embed(ppg) for model in models]
    for _ in range(2):
        for model, want in zip(models, alone, strict=True):
            assert torch.equal(model.embed(ppg), want)


def test_frozen_statistics_still_train():
    """BatchNorm in evaluation mode (running statistics), weights with gradients: fine-tuning's usual setting."""
    model, plain = make_model(dropout=0.0), make_model(dropout=0.0)
    plain.impl = "reference"
    ppg, ecg, ids = make_batch(4)
    gradients = []
    for one in (model, plain):
        out = one(ppg, ecg, **ids)
        (out["ecg_reconstructed"].square().mean() + out["ppg_embedding"].square().mean()).backward()
        gradients.append(torch.cat([x.grad.flatten() for x in one.parameters() if x.grad is not None]))
    assert (gradients[0] - gradients[1]).norm() < 1e-5 * gradients[1].norm()


def test_compiles_without_a_graph_break():
    ppg, ecg, ids = make_batch(4)
    model = make_model(dropout=0.0)
    want = model.embed(ppg)
    assert torch.equal(torch.compile(model.embed, fullgraph=True, backend="aot_eager")(ppg), want)

    def loss(model, ppg, ecg, keep, restore):
        out = model(ppg, ecg, ids_keep_ecg=keep, ids_restore_ecg=restore, return_embeddings=False)
        return masked_mse(out["ecg_reconstructed"], ecg, out["seq_mask_used_ecg"], impl="cpu")

    results = []
    for function in (loss, torch.compile(loss, fullgraph=True, backend="aot_eager")):
        model = make_model(training=True, dropout=0.0)
        value = function(model, ppg, ecg, ids["ids_keep_ecg"], ids["ids_restore_ecg"])
        value.backward()
        results.append([value.detach(), *(x.grad for x in model.parameters() if x.grad is not None), *model.buffers()])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("batch_statistics", [False, True])
def test_opcheck_stem(batch_statistics):
    inputs = CASES.make_inputs({"B": 2, "L": 21, "S": 3, "training": True, "widths": (4, 7, 9)}, Maker(0))
    x, weights = inputs["x"], stem_params.flatten(inputs["params"])
    stem = torch.ops.xmae_fast
    torch.library.opcheck(stem.conv_stem_eval.default, (x, weights))
    torch.library.opcheck(stem.conv_stem_train.default, (x, weights, batch_statistics))
    features, statistics, kept = stem.conv_stem_train(x, weights, batch_statistics)
    for want_x in (False, True):
        trained = weights[: stem_params.TRAINED]
        arguments = (torch.randn_like(features), x, trained, statistics, kept, batch_statistics, want_x)
        torch.library.opcheck(stem.conv_stem_backward.default, arguments)


def test_batch_statistics_need_two_values():
    inputs = CASES.make_inputs({"B": 1, "L": 3, "S": 3, "training": True}, Maker(0))
    for impl in ("cpu", "reference"):
        with pytest.raises(ValueError, match="more than (one|1) value per channel"):
            conv_stem(**inputs, impl=impl)


def test_float64_is_the_references():
    inputs = CASES.make_inputs({"B": 2, "L": 8, "S": 3, "training": False}, Maker(0, dtype=torch.float64))
    assert conv_stem(**inputs).dtype == torch.float64
    with pytest.raises(BackendError, match="computes in torch.float32, got torch.float64; impl='reference' takes it"):
        conv_stem(**inputs, impl="cpu")


def test_wrong_weights_are_refused():
    inputs = CASES.make_inputs({"B": 2, "L": 8, "S": 3, "training": False}, Maker(0))
    params = inputs["params"]
    wrong = params._replace(lat1=params.lat1[:, :-1])
    with pytest.raises(RuntimeError, match="conv_stem: expected a 1x1 convolution"):
        conv_stem(inputs["x"], wrong, training=False, impl="cpu")


def test_only_the_gradients_that_are_asked_for():
    inputs = CASES.make_inputs({"B": 2, "L": 40, "S": 3, "training": True, "widths": (8, 8, 8)}, Maker(0))
    inputs["params"].lat2.requires_grad_()
    conv_stem(**inputs, impl="cpu").square().sum().backward()
    assert [name for name, x in named_tensors(inputs) if x.grad is not None] == ["params.lat2"]


def test_unknown_instruction_set():
    before = cpu_kernels()
    with pytest.raises(RuntimeError, match="expected one of auto"), use_cpu_kernels("mmx"):
        pass
    assert cpu_kernels() == before


def test_kernels_release_the_gil():
    model = make_model(seq_len=2000)
    ppg = torch.randn(64, 2000)
    ticks, done = [], threading.Event()

    def count():
        while not done.is_set():
            ticks.append(time.perf_counter())
            time.sleep(0.0005)

    before = sys.getswitchinterval()
    sys.setswitchinterval(1000)  # a thread gets the interpreter only where another lets go of it
    try:
        counter = threading.Thread(target=count)
        counter.start()
        start = time.perf_counter()
        model.embed(ppg)
        end = time.perf_counter()
    finally:
        done.set()
        sys.setswitchinterval(before)
        counter.join()
    assert sum(start < tick < end for tick in ticks) > 2


class Embeddings(Dataset):
    def __len__(self):
        return 6

    def __getitem__(self, i):
        torch.manual_seed(i)
        return make_model().embed(torch.randn(2, 200))


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_in_loader_workers(method):
    want = [Embeddings()[i] for i in range(6)]  # the parent has used its threads before the workers start
    loader = DataLoader(Embeddings(), batch_size=None, num_workers=2, multiprocessing_context=method)
    assert all(torch.equal(a, b) for a, b in zip(loader, want, strict=True))


def _train_in_child(queue):
    torch.set_num_threads(1)
    queue.put([x.numpy() for x in training_step(make_model(training=True), 4)])


def test_training_after_fork():
    want = training_step(make_model(training=True), 4)
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=_train_in_child, args=(queue,))
    child.start()
    got = queue.get(timeout=60)
    child.join()
    assert all(torch.equal(torch.from_numpy(a), b) for a, b in zip(got, want, strict=True))
