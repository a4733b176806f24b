"""What is changed after a model has run is noticed, however it is changed; the control is changed in the same way."""

from __future__ import annotations

from collections import OrderedDict

import pytest
import torch
from torch import nn
from torch.autograd import forward_ad

from tests.model.stock.pair import batch, build, check_equal, create, run
from xmae_fast.backend import BackendError
from xmae_fast.model import TransformerEncoderBlock
from xmae_fast.model.outputs import encode


def hooks_in_a_new_dictionary(model):
    conv = model.ppg_path.stem.smooth1[0]
    conv._forward_hooks = OrderedDict()  # how code removes all hooks
    conv.register_forward_hook(lambda module, arguments, out: 2 * out)


def inner_method_of_an_instance(model):
    conv = model.ppg_path.stem.smooth1[0]
    conv._conv_forward = lambda x, weight, bias: 2 * nn.functional.conv1d(x, weight, bias, padding=1)


def layer_moved_to_the_next_part(model):
    stem = model.ppg_path.stem
    stem.smooth1.insert(0, stem.smooth2.pop(2))


def norms_that_share_statistics(model):
    stem = model.ppg_path.stem
    stem.smooth1[1] = stem.enc1[0].fuse[1]


def another_width(model):
    block = model.ppg_path.stem.enc1[0]
    block.branches[0] = build_like(block.branches[0], 1, 7, 3)
    block.fuse = build_like(block.fuse, 29, 32, 1)


def build_like(part, c_in, c_out, k):
    torch.manual_seed(4)
    made = type(part)(c_in, c_out, k)
    return made.to(part[0].weight.dtype).train(part.training)


def own_helper(model):
    path, tokens = model.ppg_path, model.ppg_path.visible_tokens_from_wave
    path.visible_tokens_from_wave = lambda *arguments: 0.5 * tokens(*arguments)


def own_decoder(model):
    path, decode = model.ecg_path, model.ecg_path.decode_full_wave
    path.decode_full_wave = lambda *arguments: 0.5 * decode(*arguments)


CHANGES = (
    hooks_in_a_new_dictionary, inner_method_of_an_instance, layer_moved_to_the_next_part, norms_that_share_statistics,
    another_width, own_helper, own_decoder,
)  # fmt: skip


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("which", ["auto", "reference"])
@pytest.mark.parametrize("change", CHANGES)
def test_the_change_is_what_runs(change, which, training):
    got, want = (run(build(kind, change, training=training), training=training) for kind in (which, "stock"))
    check_equal(got, want)


def test_a_method_patched_on_a_class(monkeypatch):
    model, control = build("auto"), build("stock")
    inner = nn.Conv1d._conv_forward
    monkeypatch.setattr(nn.Conv1d, "_conv_forward", lambda self, *arguments: 1.5 * inner(self, *arguments))
    check_equal(run(model, training=False), run(control, training=False))


def test_embeddings_follow_assigned_weights():
    model, other = build("auto"), build("reference")
    state = {name: -x if x.dim() > 1 else x.clone() for name, x in model.state_dict().items()}
    ppg = batch()["ppg"]
    model.embed(ppg)
    model.load_state_dict(state, assign=True)
    other.load_state_dict(state)
    torch.testing.assert_close(model.embed(ppg), other.embed(ppg), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("later", ["eps", "forward"])
def test_a_compiled_model_follows(later):
    torch.compiler.reset()
    model, twin, ppg = build("auto"), build("reference"), batch()["ppg"]
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        before = compiled(ppg)["ppg_embedding"]
        for each in (model, twin):
            if later == "eps":
                each.ppg_path.stem.head[1].eps = 0.5
            else:
                each.ppg_path.stem.head[2].forward = torch.relu
        after, want = compiled(ppg)["ppg_embedding"], twin(ppg)["ppg_embedding"]
    torch.testing.assert_close(after, want, rtol=1e-4, atol=1e-4)
    assert (after - before).abs().max() > 1e-2


def test_second_derivatives_are_refused_or_right():
    ppg = batch()["ppg"].requires_grad_()
    with pytest.raises(BackendError, match="impl='reference' can"):
        torch.autograd.grad(build("auto").ppg_path.stem(ppg[:, None]).sum(), ppg, create_graph=True)
    model = build("reference").ppg_path.stem
    (gradient,) = torch.autograd.grad(model(ppg[:, None]).square().sum(), ppg, create_graph=True)
    assert torch.autograd.grad(gradient.square().sum(), ppg)[0].abs().sum() > 0


def test_forward_mode():
    ppg = batch()["ppg"][:, None]
    tangents = []
    for which in ("auto", "stock"):
        with forward_ad.dual_level():
            out = build(which).ppg_path.stem(forward_ad.make_dual(ppg, torch.ones_like(ppg)))
            tangents.append(forward_ad.unpack_dual(out).tangent)
    torch.testing.assert_close(*tangents, rtol=1e-4, atol=1e-4)


def test_a_dispatch_mode_sees_the_operations():
    from torch.utils._python_dispatch import TorchDispatchMode

    class Names(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            seen.add(str(func))
            return func(*args, **(kwargs or {}))

    seen: set[str] = set()
    with torch.no_grad(), Names():
        build("auto").ppg_path.stem(batch()["ppg"][:, None])
    assert "aten.convolution.default" in seen


def test_later_parts_are_told_of_impl():
    model = create("auto")
    model.impl = "reference"
    model.ppg_path.encoder.blocks.append(TransformerEncoderBlock(32, 4))
    model(batch()["ppg"])
    assert model.ppg_path.encoder.blocks[-1].impl == "reference"


@pytest.mark.parametrize("output", ["pooled", "projected", "tokens"])
def test_kernels_by_name_refuse_a_foreign_block_in_every_output(output, need_impl):
    need_impl("conv_stem", "cpu")
    model = create("cpu").eval()
    model.ppg_path.encoder.blocks[0] = nn.Identity()
    with pytest.raises(BackendError, match=r"ppg_path\.encoder\.blocks\.0: it is a Identity"):
        encode(model, batch()["ppg"], output)


def test_fake_tensors_with_ids():
    from torch._subclasses import FakeTensorMode

    model = build("reference")
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        results = model(**{name: mode.from_tensor(x) for name, x in batch().items()})
    assert results["ecg_reconstructed"].shape == (3, 1, 100)
