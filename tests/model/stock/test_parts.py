"""One seed gives one model, and every part, helper and attribute that published code uses is there and computes."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.model.stock import model as stock
from tests.model.stock.pair import IMPLEMENTATIONS, TINY, B, L, N, batch, build, create, ids, names

OWN = ("auto", "reference")
PUBLISHED_NAMES = {
    "ModelCfg", "ConvBNAct", "InceptionBlock1D", "UNetHalfInceptionStem1D", "PatchEmbed1D", "TransformerEncoderBlock",
    "TransformerDecoderLite", "TransformerEncoder", "CrossAttentionBlock", "WaveformDecoder", "SinglePath", "Bridger",
    "xMAE", "build_model_from_cfg", "torch", "nn", "F", "dataclass", "Optional", "Dict", "Tuple",
}  # fmt: skip


@pytest.mark.parametrize("module", ["tests.model.stock.model", "xmae_fast.model"])
def test_star_import(module):
    seen: dict[str, object] = {}
    exec(f"from {module} import *", seen)
    assert set(seen) - {"__builtins__"} == PUBLISHED_NAMES
    assert seen["torch"] is torch
    assert seen["nn"] is nn
    assert seen["F"] is torch.nn.functional
    assert seen["xMAE"](seen["ModelCfg"](**TINY)).n_patches == N


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"source": "ppg"},
        {"source": "ecg"},
        {"use_cross_bridge": False},
        {"stem_ch": 1},
        {"depth_bridge": 2, "depth_ecg": 3, "depth_ppg": 0, "dropout": 0.3},
    ],
    ids=str,
)
@pytest.mark.parametrize("which", IMPLEMENTATIONS)
def test_one_seed_one_model(which, changes):
    torch.manual_seed(77)
    want, after = create("stock", **changes).state_dict(), torch.rand(3)
    torch.manual_seed(77)
    got = create(which, **changes).state_dict()
    assert torch.equal(torch.rand(3), after)
    assert list(got) == list(want)
    assert [key for key in want if not torch.equal(got[key], want[key])] == []


@pytest.mark.parametrize("which", IMPLEMENTATIONS)
def test_modules_stand_where_they_do_in_the_published_model(which):
    """Names and stock classes of all modules, in their order; code finds layers by walking over them."""
    want = dict(create("stock").named_modules())
    got = dict(create(which).named_modules())
    assert list(got) == list(want)
    for name, module in want.items():
        if type(module).__module__.startswith("torch."):
            assert type(got[name]) is type(module), name
            assert got[name].extra_repr() == module.extra_repr(), name
        else:
            assert type(got[name]).__name__ == type(module).__name__, name


@pytest.mark.parametrize("which", IMPLEMENTATIONS)
def test_classes_by_themselves(which):
    """Blocks that code makes by themselves."""
    x = torch.randn(2, 3, 40)
    for name, arguments in (("ConvBNAct", (3, 8, 5, 2)), ("InceptionBlock1D", (3, 10))):
        torch.manual_seed(4)
        want = getattr(stock, name)(*arguments)
        torch.manual_seed(4)
        got = getattr(names(which), name)(*arguments)
        assert list(got.state_dict()) == list(want.state_dict())
        torch.testing.assert_close(got(x), want(x))
        torch.testing.assert_close(got.eval()(x), want.eval()(x))
    assert isinstance(create(which).ppg_path.stem, names(which).UNetHalfInceptionStem1D)


PARTS = {
    "ppg_path.stem": [(B, 1, L)],
    "ecg_path.stem.enc1": [(B, 1, 37)],
    "ecg_path.stem.enc2.1": [(B, 64, 9)],
    "ppg_path.stem.enc1.0.branches.2": [(B, 1, 13)],
    "ppg_path.stem.down1": [(B, 32, 11)],
    "ppg_path.patcher": [(B, 8, L)],
    "ppg_path.encoder": [(B, 7, 32)],
    "ppg_path.encoder.blocks.1": [(B, 4, 32)],
    "ecg_path.dec_blk": [(B, N, 32)],
    "ecg_path.decoder": [(B, N, 32)],
    "ppg_path.proj": [(B, 32)],
    "bridger": [(B, 7, 32), (B, N, 32)],
    "bridger.ecg2ppg.0": [(B, N, 32), (B, 7, 32)],
    "bridger.ppg2ecg.0": [(B, 7, 32), (B, N, 32)],
}


def part_outcome(which: str, name: str, training: bool, dtype: torch.dtype):
    """Results of a part called by itself, gradients of inputs and parameters, and its buffers."""
    part = build(which, training=training, dtype=dtype).get_submodule(name)
    generator = torch.Generator().manual_seed(5)
    inputs = [torch.randn(shape, generator=generator).to(dtype).requires_grad_() for shape in PARTS[name]]
    outputs = part(*inputs)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    sum((out * torch.linspace(-1, 1, out.shape[-1], dtype=dtype)).sum() for out in outputs).backward()
    gradients = [x.grad for x in inputs] + [p.grad for p in part.parameters()]
    with torch.no_grad():
        without = part.eval()(*inputs)
    return outputs, gradients, list(part.buffers()), without


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", PARTS)
@pytest.mark.parametrize("which", IMPLEMENTATIONS)
def test_parts_compute(which, name, training):
    want = part_outcome("stock", name, training, torch.float64)
    torch.testing.assert_close(
        part_outcome(which, name, training, torch.float64), want, rtol=1e-9, atol=1e-9, equal_nan=True
    )
    got = part_outcome(which, name, training, torch.float32)
    torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-3, check_dtype=False)


@pytest.mark.parametrize("length", [2, 3, 5, 8, 33])
@pytest.mark.parametrize("which", IMPLEMENTATIONS)
def test_the_stem_takes_any_length(which, length):
    x = torch.randn(2, 1, length)
    with torch.no_grad():
        want = build("stock").ppg_path.stem(x)
        torch.testing.assert_close(build(which).ppg_path.stem(x), want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("which", IMPLEMENTATIONS)
def test_bridger(which):
    model, control = (build(kind, dtype=torch.float64, depth_bridge=2).bridger for kind in (which, "stock"))
    ppg, ecg, queries = (torch.randn(B, n, 32, dtype=torch.float64) for n in (7, 4, N))
    for alpha in (1.0, 0.3):
        for options in ({}, {"q_ecg_override": queries}):
            got, want = model(ppg, ecg, alpha, **options), control(ppg, ecg, alpha, **options)
            torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-10)
            assert got[0] is ppg
    for alpha in (0.0, -1.0):
        assert model(ppg, ecg, alpha, q_ecg_override=queries)[1] is queries
        assert model(ppg, ecg, alpha=alpha)[1] is ecg
    assert model(None, ecg)[1] is ecg
    assert model(None, ecg, q_ecg_override=queries)[1] is queries


@pytest.mark.parametrize("which", IMPLEMENTATIONS)
def test_attributes(which):
    model = create(which)
    for key, value in (TINY | {"source": "ppg+ecg", "stem_type": "unet", "use_cross_bridge": True}).items():
        assert getattr(model.cfg, key) == value
    assert (model.source, model.n_patches, model.patch_len) == ("ppg+ecg", N, L // N)
    for path in (model.ppg_path, model.ecg_path):
        assert (path.seq_len, path.patch_len, path.n_patches, path.d_model) == (L, L // N, N, 32)
    assert create(which, use_cross_bridge=False).bridger is None
    only_ppg, only_ecg = create(which, source="ppg"), create(which, source="ecg")
    assert only_ppg.ecg_path is None
    assert only_ppg.bridger is None
    assert only_ecg.ppg_path is None
    assert only_ecg.bridger is None


def test_the_configuration_is_the_published_dataclass():
    own, published = names("auto").ModelCfg(), stock.ModelCfg()
    for key, value in vars(published).items():
        assert getattr(own, key) == value
    assert list(vars(own))[: len(vars(published))] == list(vars(published))


@pytest.mark.parametrize("of", [torch.int64, torch.int32])
@pytest.mark.parametrize("visible", [0, 4, N])
@pytest.mark.parametrize("which", IMPLEMENTATIONS)
def test_helpers(which, visible, of):
    keep, restore = (x.to(of) for x in ids(visible, torch.Generator().manual_seed(6)))
    x = torch.randn(B, 1, L, dtype=torch.float64)
    other, mask_token = torch.randn(B, 7, 32, dtype=torch.float64), torch.randn(1, 1, 32, dtype=torch.float64)
    found = []
    for kind in (which, "stock"):
        path = build(kind, dtype=torch.float64).ecg_path
        with torch.no_grad():
            tokens = path.visible_tokens_from_wave(x, keep)
            queries = path.make_query_tokens_from_pre_encoded(tokens, keep, other)
            found.append(
                [
                    tokens,
                    queries,
                    path.decode_full_wave(tokens, restore, mask_token),
                    path.decode_full_wave(queries, restore, mask_token),
                    path.seqmask_from_ids_restore(restore, visible, path.patch_len),
                    *path._identity_ids(5, x.device),
                    path._ensure_B1L(x[:, 0]),
                    path._ensure_B1L(x),
                ]
            )
    torch.testing.assert_close(found[0], found[1], rtol=1e-10, atol=1e-10)
    assert found[0][0].shape == (B, visible, 32)
    assert found[0][4].dtype == torch.float32
    assert found[0][4].sum() == B * (N - visible) * L // N


@pytest.mark.parametrize("which", IMPLEMENTATIONS)
def test_the_mask_is_float32_whatever_the_model_is(which):
    for dtype in (torch.float64, torch.bfloat16, torch.float16):
        with torch.no_grad():
            results = build(which, dtype=dtype)(**batch(dtype))
        assert results["seq_mask_used_ecg"].dtype == torch.float32
        assert results["ecg_reconstructed"].dtype == dtype
