"""Tools of PyTorch that copy, trace or take apart a model do with the library's what they do with the control."""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from tests.model.stock.alterations import LoRA, replace
from tests.model.stock.pair import IMPLEMENTATIONS, batch, build, check_equal, create, loss_of, run, twins


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("which", IMPLEMENTATIONS)
def test_copies(which, training):
    model, control = twins(which, training=training)
    want = run(control, training=training)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        twin.load_state_dict(build("stock").state_dict())
        check_equal(run(twin, training=training), want)


@pytest.mark.parametrize("which", IMPLEMENTATIONS)
def test_a_whole_model_in_a_file(which):
    model, control = twins(
        which, alter=lambda m: replace(m, "ppg_path.encoder.blocks.0.mlp.0", LoRA(nn.Linear(32, 128)))
    )
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    check_equal(run(torch.load(file, weights_only=False), training=False), run(control, training=False))


@pytest.mark.parametrize("which", IMPLEMENTATIONS)
def test_averaged_models(which):
    """Copies of altered models, and their averages, are as altered as the model."""
    found = []
    for model in twins(which, training=True):
        model.ppg_path.stem.down1[1].eps = 0.5
        average = torch.optim.swa_utils.AveragedModel(model)
        with torch.no_grad():
            for p in model.parameters():
                p *= 1.1
        average.update_parameters(model)
        found.append(run(average.module.eval(), training=False))
    check_equal(*found)


class BothSignals(nn.Module):
    """A module that takes both signals as one argument, as update_bn calls it."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, signals: Tensor) -> dict[str, Tensor]:
        return self.model(signals[0], signals[1])


@pytest.mark.parametrize("which", IMPLEMENTATIONS)
def test_update_bn(which):
    """The statistics are the mean over all batches, not a running one."""
    found = []
    for model in twins(which):
        dtype = next(model.parameters()).dtype
        signals = [torch.stack([batch(dtype, seed=seed)[name] for name in ("ppg", "ecg")]) for seed in range(3)]
        torch.optim.swa_utils.update_bn([(x,) for x in signals], BothSignals(model).eval())
        assert not model.training
        found.append(run(model, training=False))
    check_equal(*found)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("which", IMPLEMENTATIONS)
def test_wrapped_models(which, training):
    for wrap in (nn.DataParallel, torch.compiler.disable, lambda model: lambda **inputs: model(**inputs)):
        model, control = twins(which, training=training)
        check_equal(run(model, training=training, call=wrap(model)), run(control, training=training))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
@pytest.mark.parametrize("which", IMPLEMENTATIONS)
def test_dynamic_quantisation(which):
    found = []
    for kind in (which, "stock"):
        model = torch.ao.quantization.quantize_dynamic(build(kind), {nn.Linear}, dtype=torch.qint8)
        assert type(model.ppg_path.encoder.blocks[0].mlp[0]) is torch.ao.nn.quantized.dynamic.Linear
        with torch.no_grad():
            found.append(model(**batch()))
    torch.testing.assert_close(found[0], found[1], rtol=2e-2, atol=2e-2)
    plain = run(build("stock"), training=False).results
    assert not torch.allclose(plain["ecg_reconstructed"], found[0]["ecg_reconstructed"], rtol=1e-4, atol=1e-4)


@pytest.fixture
def process_group():
    """A group of one process, in which synchronised layers synchronise."""
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("which", IMPLEMENTATIONS)
def test_sync_batch_norm(which, process_group):
    """Evaluation is as before; training on a CPU is refused, as torch refuses it, and not done without the others."""
    model, control = twins(which)
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    check_equal(run(converted, training=False), run(control, training=False))
    with pytest.raises(ValueError, match="SyncBatchNorm"):
        run(converted.train(), training=True)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("which", IMPLEMENTATIONS)
def test_a_sharded_stem(which, training, process_group):
    """FSDP2 keeps weights as distributed tensors, and gathers them by hooks around the part that it is told."""
    model, control = twins(which, training=training)
    mesh = torch.distributed.device_mesh.init_device_mesh("cpu", (1,))
    fully_shard(model.ppg_path.stem, mesh=mesh)
    assert isinstance(model.ppg_path.stem.skip.weight, DTensor)
    got = run(model, training=training)
    gradients = {key: x.full_tensor() if isinstance(x, DTensor) else x for key, x in got.gradients.items()}
    check_equal(got._replace(gradients=gradients), run(control, training=training))


@pytest.mark.parametrize("which", IMPLEMENTATIONS)
def test_sync_batch_norm_of_one_process(which):
    """Without a process group it is an ordinary batch normalisation."""
    model, control = (nn.SyncBatchNorm.convert_sync_batchnorm(each) for each in twins(which, training=True))
    check_equal(run(model, training=True), run(control, training=True))


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("which", IMPLEMENTATIONS)
def test_meta(which, training):
    """Shapes without numbers: on the meta device, and of fake tensors."""
    want = {key: (x.shape, x.dtype) for key, x in run(build("stock"), training=False).results.items()}
    model = build(which, training=training).to("meta")
    results = model(**{key: x.to("meta") for key, x in batch().items()})
    assert {key: (x.shape, x.dtype) for key, x in results.items()} == want
    assert all(x.device.type == "meta" for x in results.values())
    with torch.device("meta"):
        made = create(which).train(training)
    results = made(**{key: x.to("meta") for key, x in batch().items()})
    assert {key: (x.shape, x.dtype) for key, x in results.items()} == want


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("which", IMPLEMENTATIONS)
def test_functional_call(which, training):
    """Weights that are passed are those that count, whatever the model's own are, before and after."""
    model, control = twins(which, training=training)
    own = run(model.eval(), training=False)
    found = []
    for each in (model.train(training), control.train(training)):
        dtype = next(each.parameters()).dtype
        passed = {key: (-1.5 * p).detach().requires_grad_() for key, p in each.named_parameters()}
        passed |= {key: b.clone() for key, b in each.named_buffers()}
        results = functional_call(each, passed, (), batch(dtype))
        loss_of(results, batch(dtype)["ecg"]).backward()
        gradients = {key: x.grad.double() for key, x in passed.items() if x.grad is not None}
        found.append((results, gradients, {key: passed[key] for key, _ in each.named_buffers()}))
    (results, gradients, buffers), (wanted, want_gradients, want_buffers) = found
    torch.testing.assert_close(results, wanted, rtol=1e-4, atol=1e-4, check_dtype=False)
    torch.testing.assert_close(buffers, want_buffers, rtol=1e-4, atol=1e-4, check_dtype=False)
    assert list(gradients) == list(want_gradients)
    far = torch.cat([(gradients[key] - want_gradients[key]).flatten() for key in gradients]).norm()
    assert far < 1e-3 * torch.cat([x.flatten() for x in want_gradients.values()]).norm()
    if not training:
        torch.testing.assert_close(run(model, training=False).results, own.results, rtol=0, atol=0)


@pytest.mark.parametrize("which", IMPLEMENTATIONS)
def test_checkpointed_parts(which):
    """torch.utils.checkpoint around parts that a loop of one's own calls."""
    found = []
    for model in twins(which, training=True):
        path = model.ppg_path
        wave = batch(next(model.parameters()).dtype)["ppg"][:, None]
        tokens = path.patcher(path.stem(wave)) + path.pos
        for block in path.encoder.blocks:
            tokens = checkpoint(block, tokens, use_reentrant=False)
        embedding = path.proj(tokens.mean(1))
        embedding.square().sum().backward()
        found.append((embedding, [path.pos.grad, path.encoder.blocks[0].attn.in_proj_weight.grad]))
    torch.testing.assert_close(found[0], found[1], rtol=1e-3, atol=1e-4, check_dtype=False)


@pytest.mark.parametrize("which", IMPLEMENTATIONS)
def test_several_dtypes_in_one_model(which):
    """A head in float64 on a float32 model, as a user makes it."""
    found = []
    for kind in (which, "stock"):
        model = build(kind)
        model.ppg_path.proj.double()
        model.ppg_path.proj.register_forward_pre_hook(lambda module, arguments: (arguments[0].double(),))
        with torch.no_grad():
            found.append(model(**batch())["ppg_embedding"])
    assert found[0].dtype == torch.float64
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("which", IMPLEMENTATIONS)
def test_parts_of_two_models(which):
    """A part of one model that is put into another one runs there."""
    found = []
    for model in twins(which):
        other = build(which if model.ppg_path.pos.dtype == torch.float32 else "stock", dtype=model.ppg_path.pos.dtype)
        with torch.no_grad():
            for p in other.parameters():
                p *= 1.2
        run(other, training=False)
        model.ppg_path.stem, model.ecg_path.dec_blk = other.ppg_path.stem, other.ecg_path.dec_blk
        found.append(run(model, training=False))
        other.ppg_path.stem.head[1].eps = 0.5
        found.append(run(model, training=False))
    check_equal(found[0], found[2])
    check_equal(found[1], found[3])


@pytest.mark.parametrize("which", IMPLEMENTATIONS)
def test_alterations_are_undone(which):
    """Findings about a part, from before an alteration or during it, do not outlive them."""
    model, control = twins(which)
    before = run(control, training=False)
    norm, block = model.ppg_path.stem.down1[1], model.ecg_path.dec_blk
    activation = block.mlp[1]
    norm.eps, block.mlp[1] = 0.5, nn.ReLU()
    altered = run(model, training=False)
    norm.eps, block.mlp[1] = 1e-5, activation
    check_equal(run(model, training=False), before)
    control.ppg_path.stem.down1[1].eps, control.ecg_path.dec_blk.mlp[1] = 0.5, nn.ReLU()
    check_equal(altered, run(control, training=False))


@pytest.mark.parametrize("which", IMPLEMENTATIONS)
def test_the_model_is_summed_up_by_modules(which):
    """Parameters and outputs as torchinfo and FLOP counters find them: by hooks on leaves."""
    counts, shapes = [], []
    for kind in (which, "stock"):
        model = build(kind)
        seen: list[tuple] = []
        for name, module in model.named_modules():
            if not list(module.children()):
                module.register_forward_hook(
                    lambda m, a, out, name=name, seen=seen: seen.append((name, tuple(out.shape)))
                )
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            model(**batch())
        counts.append(counter.get_total_flops())
        shapes.append(sorted(seen))
    assert shapes[0] == shapes[1]
    assert counts[0] == counts[1] > 0
