"""Weights that change, however little and by whatever means, are what the CPU kernels' next call computes with."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

from tests.golden_cases import seeded_state
from xmae_fast import ModelCfg, random_masking, xMAE
from xmae_fast.backend import MODEL_OPS, release_cpu_memory

TINY = {"seq_len": 80, "patch_len": 20, "d_model": 48, "nhead": 4, "proj_dim": 16, "stem_ch": 8}
# The published one in all its widths and depths; of two patches, because it runs some thousand times.
PUBLISHED = {"seq_len": 80, "patch_len": 40, "d_model": 256, "nhead": 8, "depth_ppg": 2, "proj_dim": 256, "stem_ch": 32}
# What embed does not read, and what forward with a visible part of the ECG does not.
NOT_EMBED = (
    "ecg_path.", "bridger.", "mask_token", "ppg_path.dec_blk.", "ppg_path.decoder.", "ppg_path.mask_loc_table.",
)  # fmt: skip
NOT_FORWARD = (
    "bridger.ppg2ecg.", "mask_token", "ecg_path.proj.", "ppg_path.dec_blk.", "ppg_path.decoder.",
    "ppg_path.mask_loc_table.",
)  # fmt: skip


@pytest.fixture(autouse=True)
def _built(need_impl):
    for op in MODEL_OPS:
        need_impl(op, "cpu")


def make_model(cfg: dict, impl: str = "cpu") -> xMAE:
    model = xMAE(ModelCfg(**cfg), impl=impl).eval()
    model.load_state_dict(seeded_state(model, 3))
    return model


def tensors_of(model: xMAE, unused: tuple[str, ...]) -> dict[str, Tensor]:
    """Float parameters and buffers by name, without those that are not read."""
    named = dict(model.named_parameters()) | dict(model.named_buffers())
    return {name: x for name, x in named.items() if x.is_floating_point() and not name.startswith(unused)}


def make_batch(cfg: dict, B: int = 1) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    draws = torch.Generator().manual_seed(1)
    mask = random_masking(B, cfg["seq_len"] // cfg["patch_len"], 0.5, generator=draws)
    ids = {"ids_keep_ecg": mask.ids_keep, "ids_restore_ecg": mask.ids_restore}
    return torch.randn(B, cfg["seq_len"], generator=draws), torch.randn(B, cfg["seq_len"], generator=draws), ids


@torch.no_grad()
def forward(model: xMAE, cfg: dict) -> Tensor:
    ppg, ecg, ids = make_batch(cfg)
    out = model(ppg, ecg, **ids)
    return torch.cat([out["ppg_embedding"].flatten(), out["ecg_reconstructed"].flatten()])


def fresh(call) -> Tensor:
    """The result of `call` when nothing is packed."""
    release_cpu_memory()
    return call()


def equal_bits(a: Tensor, b: Tensor) -> bool:
    return torch.equal(a.view(torch.int32), b.view(torch.int32))


def change_signs(name: str, x: Tensor) -> None:
    """In place through .data: no version counter moves, and all that changes is top bits, mostly an even number."""
    x.data.copy_(x.roll(1, 0) if name.endswith("running_var") else -x)


@pytest.fixture(scope="module")
def published():
    """The published model's embedding by plain PyTorch, and after each change of a tensor that embed reads."""
    plain, ppg = make_model(PUBLISHED, "reference"), make_batch(PUBLISHED)[0]
    outputs = {"": plain.embed(ppg)}
    for name, x in tensors_of(plain, NOT_EMBED).items():
        change_signs(name, x)
        outputs[name] = plain.embed(ppg)
    return outputs


def test_each_tensor_of_the_published_model(kernels, published):
    """Change one tensor after another; none is put back."""
    model, ppg = make_model(PUBLISHED), make_batch(PUBLISHED)[0]
    tensors, last = tensors_of(model, NOT_EMBED), published[""]
    assert ["", *tensors] == list(published)
    assert len(tensors) > 151
    for name, x in tensors.items():
        change_signs(name, x)
        got, want = model.embed(ppg), published[name]
        error, step = (got - want).norm() / want.norm(), (want - last).norm() / want.norm()
        assert error < 1e-5 < 1e-4 < step, (name, error, step)
        last = want


def test_each_tensor_of_a_forward():
    """Change one tensor after another and put none back: each shows at once, and in the end nothing stale is left."""
    model = make_model(TINY)
    last, unseen = forward(model, TINY), []
    for name, x in tensors_of(model, NOT_FORWARD).items():
        change_signs(name, x)
        now = forward(model, TINY)
        if equal_bits(now, last):
            unseen.append(name)
        last = now
    assert not unseen
    assert torch.isfinite(last).all()
    assert equal_bits(last, fresh(lambda: forward(model, TINY)))


def rows_of(x: Tensor) -> Tensor:
    return x.data.view(x.shape[0], -1)


def negate(x):
    x.data.neg_()


def negate_a_row(x):
    rows_of(x)[1].neg_()


def negate_two(distance):
    def change(x):
        x.data.view(-1)[[3, 3 + distance]] *= -1

    change.__name__ = f"negate_two_{distance}_apart"
    return change


def swap_two(x):
    flat = x.data.view(-1)
    flat[[5, 69]] = flat[[69, 5]]


def swap_rows(x):
    rows_of(x)[[0, -1]] = rows_of(x)[[-1, 0]]


def turn_the_rows_round(x):
    x.data.copy_(x.data.flip(0))


def rotate(x):
    x.data.copy_(x.data.view(-1).roll(64).view(x.shape))


def add_and_take_away(x):
    x.data.view(-1)[2] += 0.25
    x.data.view(-1)[66] -= 0.25


def add_and_take_away_bits(x):
    bits = x.data.view(-1).view(torch.int32)
    bits[4] += 1 << 21
    bits[68] -= 1 << 21


def antithetic_rows(x):
    rows_of(x)[0] += rows_of(x)[1]
    rows_of(x)[1] -= rows_of(x)[1].clone() * 2


CHANGES = (
    negate, negate_a_row, negate_two(1), negate_two(16), negate_two(64), negate_two(128), swap_two, swap_rows,
    turn_the_rows_round, rotate, add_and_take_away, add_and_take_away_bits, antithetic_rows,
)  # fmt: skip
CHANGED = (
    "stem.enc1.1.fuse.0.weight", "stem.enc3.0.branches.2.0.weight", "stem.lat2.weight", "stem.head.0.weight",
    "patcher.proj.weight", "encoder.blocks.0.attn.in_proj_weight", "encoder.blocks.1.attn.out_proj.weight",
    "encoder.blocks.0.mlp.0.weight", "encoder.blocks.1.mlp.2.weight",
)  # fmt: skip


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_changes_that_could_cancel(change, kernels):
    model, ppg = make_model(TINY), make_batch(TINY)[0]
    parameters = dict(model.ppg_path.named_parameters())
    first = model.embed(ppg)
    for name in CHANGED:
        before = parameters[name].detach().clone()
        change(parameters[name])
        changed = model.embed(ppg)
        assert not equal_bits(changed, first), name
        assert equal_bits(changed, fresh(lambda: model.embed(ppg))), name
        parameters[name].data.copy_(before)
        assert equal_bits(model.embed(ppg), first), name


def test_tensors_that_change_places(kernels):
    model, ppg = make_model(TINY), make_batch(TINY)[0]
    stem, blocks = model.ppg_path.stem, model.ppg_path.encoder.blocks
    pairs = [
        (stem.enc1[0].fuse[0].weight, stem.enc1[1].fuse[0].weight), (stem.head[1].weight, stem.head[1].bias),
        (stem.head[1].running_mean, stem.skip_bn.running_mean), (blocks[0].mlp[2].weight, blocks[1].mlp[2].weight),
        (blocks[0].attn.in_proj_weight, blocks[1].attn.in_proj_weight),
    ]  # fmt: skip
    for a, b in pairs:
        before = model.embed(ppg)
        copies = a.detach().clone(), b.detach().clone()
        a.data.copy_(copies[1])
        b.data.copy_(copies[0])
        copied = model.embed(ppg)
        a.data, b.data = b.data, a.data  # back, by their addresses
        assert not equal_bits(copied, before)
        assert equal_bits(model.embed(ppg), before)


def negated_state(model: xMAE) -> dict[str, Tensor]:
    state = copy.deepcopy(model.state_dict())
    return {name: -x if x.dim() > 1 else x for name, x in state.items()}


def compiled(call):
    torch.compiler.reset()
    return torch.compile(call, backend="aot_eager", fullgraph=True)


@pytest.mark.parametrize("assign", [False, True], ids=["copied", "assigned"])
def test_a_state_of_negated_weights(assign, kernels):
    model, other, ppg = make_model(TINY), make_model(TINY), make_batch(TINY)[0]
    before = model.embed(ppg), forward(model, TINY)
    model.load_state_dict(negated_state(model), assign=assign)
    other.load_state_dict(negated_state(other))
    after = model.embed(ppg), forward(model, TINY)
    want = fresh(lambda: (other.embed(ppg), forward(other, TINY)))
    assert not any(equal_bits(a, b) for a, b in zip(before, after, strict=True))
    assert all(equal_bits(a, b) for a, b in zip(after, want, strict=True))


def test_a_compiled_model_follows():
    model, ppg = make_model(TINY), make_batch(TINY)[0]
    embed = compiled(model.embed)
    parameters = dict(model.ppg_path.named_parameters())
    first = embed(ppg)
    for change in (negate, negate_two(64)):
        for name in CHANGED[::3]:
            change(parameters[name])
            changed = embed(ppg)
            assert equal_bits(changed, fresh(lambda: model.embed(ppg))), name
            assert not equal_bits(changed, first), name
            change(parameters[name])  # each is its own inverse
            assert equal_bits(embed(ppg), first), name


def test_a_reconstruction_follows():
    model = make_model(TINY)
    first = forward(model, TINY)
    for name in ("ecg_path.dec_blk.mlp.0.weight", "bridger.ecg2ppg.0.attn.in_proj_weight", "ecg_path.stem.lat1.weight"):
        x = dict(model.named_parameters())[name]
        for change in (negate, negate_a_row, negate_two(64)):
            change(x)
            assert not equal_bits(forward(model, TINY), first)
            assert equal_bits(forward(model, TINY), fresh(lambda: forward(model, TINY)))
            change(x)
    assert equal_bits(forward(model, TINY), first)
