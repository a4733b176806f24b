"""A frozen model computes what any other would, whatever happens to its weights, and leaves nothing frozen behind."""

from __future__ import annotations

import copy
import gc
import io
import pickle
import threading
import weakref

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.utils.prune import l1_unstructured, remove

from xmae_fast import ModelCfg, random_masking, xMAE
from xmae_fast.backend import MODEL_OPS
from xmae_fast.model.frozen import frozen
from xmae_fast.ops import _frozen

CFG = {"seq_len": 80, "patch_len": 20, "d_model": 48, "nhead": 4, "proj_dim": 16, "stem_ch": 8}
MATRICES = (
    "stem.enc1.1.fuse.0.weight", "stem.enc3.0.branches.2.0.weight", "stem.lat2.weight", "stem.head.0.weight",
    "patcher.proj.weight", "encoder.blocks.0.attn.in_proj_weight", "encoder.blocks.1.attn.out_proj.weight",
    "encoder.blocks.0.mlp.0.weight", "encoder.blocks.1.mlp.2.weight",
)  # fmt: skip

NOT_FORWARD = ("bridger.ppg2ecg.", "ecg_path.proj.", "ppg_path.dec_blk.", "ppg_path.decoder.")  # does not read these


@pytest.fixture(autouse=True)
def _built(need_impl):
    for op in MODEL_OPS:
        need_impl(op, "cpu")
    yield
    gc.collect()
    assert not _frozen._versions
    assert not _frozen._holds


def make_model(seed: int = 0, **options) -> xMAE:
    torch.manual_seed(seed)
    return xMAE(ModelCfg(**CFG, **options), impl="cpu").eval()


def signal(B: int = 2) -> Tensor:
    return torch.randn(B, 80, generator=torch.Generator().manual_seed(1))


PPG = signal()


def matrix(model: xMAE, name: str) -> nn.Parameter:
    return model.get_parameter(f"ppg_path.{name}")


@torch.no_grad()
def forward(model: xMAE) -> Tensor:
    mask = random_masking(2, 4, 0.5, generator=torch.Generator().manual_seed(2))
    out = model(PPG, PPG.flip(0), ids_keep_ecg=mask.ids_keep, ids_restore_ecg=mask.ids_restore)
    return torch.cat([out["ppg_embedding"].flatten(), out["ecg_reconstructed"].flatten()])


def embed(model: xMAE) -> Tensor:
    return model.embed(PPG)


CALLS = (embed, forward)


def plainly(call, model: xMAE) -> Tensor:
    """What `call` gives of the weights that are there now, by a model that never was frozen or packed."""
    return call(copy.deepcopy(model))


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


def negate(model, weight):
    with torch.no_grad():
        weight.neg_()


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


def copied(model):
    return copy.deepcopy(model)


def copied_by_reference(model):
    return copy.copy(model)


def pickled(model):
    return pickle.loads(pickle.dumps(model))


def saved(model):
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


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
