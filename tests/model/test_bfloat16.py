"""A model in bfloat16 on the CPU: under autocast, converted, compiled, refused by the operating system."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.ops.instruction_sets import BF16_SETS, on_bf16
from xmae_fast import Embedder, ModelCfg, backend, explain, random_masking, xMAE
from xmae_fast.embedding.precision import autocast_of
from xmae_fast.model.outputs import encode
from xmae_fast.testing import relative_error
from xmae_fast.training.config import train_cfg_from_dict

CFG = {"seq_len": 200, "patch_len": 20, "d_model": 48, "nhead": 4, "proj_dim": 16, "stem_ch": 8, "dropout": 0.1}
SEEDS = range(4)  # of the batches whose largest error counts


@pytest.fixture(autouse=True)
def _built(need_impl):
    for op in backend.MODEL_OPS:
        need_impl(op, "cpu")


@pytest.fixture(params=BF16_SETS)
def bf16(request):
    """Runs the test once on the bfloat16 kernels of each instruction set; skipped where this processor lacks it."""
    with on_bf16(request.param):
        yield request.param


def make_model(impl: str = "auto", dtype: torch.dtype = torch.float32, **changes) -> xMAE:
    torch.manual_seed(0)
    model = xMAE(ModelCfg(**(CFG | changes)), impl=impl)
    with torch.no_grad():
        for name, x in model.named_buffers():  # seasoned: BatchNorms have statistics of their own
            if name.endswith("running_var"):
                x.uniform_(0.5, 1.5)
            elif name.endswith("running_mean"):
                x.normal_(0, 0.1)
    return model.eval().to(dtype)


def batch(seed: int, B: int = 3):
    draws = torch.Generator().manual_seed(seed)
    mask = random_masking(B, 10, 0.6, generator=draws)
    ppg, ecg = (torch.rand(B, 200, generator=draws) * 2 - 1 for _ in range(2))
    return ppg, ecg, {"ids_keep_ecg": mask.ids_keep, "ids_restore_ecg": mask.ids_restore}


def autocast(on: bool = True, dtype: torch.dtype = torch.bfloat16):
    return torch.autocast("cpu", dtype, enabled=on)


@torch.no_grad()
def results(model: xMAE, seed: int) -> dict[str, torch.Tensor]:
    """All that inference computes, in the dtype of the model."""
    ppg, ecg, ids = batch(seed)
    dtype = model.mask_token.dtype
    out = model(ppg.to(dtype), ecg.to(dtype), **ids, return_embeddings=True, return_recon=True, return_loss=True)
    return out | {"embed": model.embed(ppg.to(dtype))}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_result_is_as_exact_as_stock_bfloat16(dtype, bf16):
    """Under autocast, and of a converted model, whose weights are the rounded ones."""
    ours, stock = make_model(dtype=dtype), make_model("reference", dtype)
    exact = make_model("reference", dtype).double()
    errors: dict[str, list[float]] = {}
    allowed: dict[str, list[float]] = {}
    for seed in SEEDS:
        ppg, ecg, ids = batch(seed)
        x, y = ppg.to(dtype).double(), ecg.to(dtype).double()
        with torch.no_grad():
            want = exact(x, y, **ids, return_embeddings=True, return_recon=True, return_loss=True)
            want |= {"embed": exact.embed(x)}
        with autocast(dtype == torch.float32):
            for model, into in ((ours, errors), (stock, allowed)):
                for name, value in results(model, seed).items():
                    into.setdefault(name, []).append(relative_error(value, want[name]))
    assert errors.keys() == allowed.keys() > {"embed", "loss", "ecg_reconstructed", "ppg_embedding"}
    for name in errors:
        assert max(errors[name]) <= 2 * max(allowed[name]), name


def test_embeddings_point_where_those_of_float32_point(bf16):
    model, ppg = make_model(), batch(5, 20)[0]
    want = model.embed(ppg)
    with autocast():
        got = model.embed(ppg).float()
    assert torch.cosine_similarity(got, want).min() >= 0.9999
    assert not torch.equal(got, want)


def test_a_training_step_in_bfloat16():
    """With gradients wanted, float32 kernels compute under autocast, and plain PyTorch a converted model."""
    ppg, ecg, ids = batch(0)
    for dtype in (torch.float32, torch.bfloat16):
        model = make_model(dtype=dtype).train()
        with autocast(dtype == torch.float32):
            loss = model(ppg.to(dtype), ecg.to(dtype), **ids, return_loss=True)["loss"]
        loss.backward()
        gradients = [x.grad for x in model.parameters() if x.grad is not None]
        assert len(gradients) > 100
        assert all(x.isfinite().all() for x in gradients)


@pytest.mark.parametrize("weights", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("signal", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kernels", ["auto", "none"])
def test_mixed_dtypes_under_autocast(weights, signal, kernels):
    model, (ppg, ecg, ids) = make_model(dtype=weights), batch(0)
    with backend.use_cpu_bfloat16(kernels):
        with autocast():
            assert model.embed(ppg.to(signal)).isfinite().all()
            for training in (False, True):
                out = model.train(training)(ppg.to(signal), ecg.to(signal), **ids, return_loss=True)
                out["loss"].float().backward()
                assert out["loss"].isfinite()
        if weights == torch.float32:
            with autocast(dtype=torch.float16):
                assert model.embed(ppg.to(signal)).isfinite().all()


def test_autocast_to_float16_stays_in_float32():
    model, ppg = make_model(), batch(0)[0]
    want = encode(model, ppg, "tokens")
    with autocast(dtype=torch.float16):
        assert torch.equal(encode(model, ppg, "tokens"), want)
        assert f"float32 by {backend.cpu_kernels()}" in explain(model)
        assert "under autocast to torch.float16 too" in explain(model)


def test_errors_name_what_to_do():
    model, (ppg, ecg, ids) = make_model("cpu", torch.bfloat16), batch(0)
    with pytest.raises(TypeError, match=r"ppg: expected dtype torch.bfloat16, that of the model, got torch.float32"):
        model.embed(ppg)
    with pytest.raises(backend.BackendError, match=r"without gradients, got torch.bfloat16; impl='reference' takes it"):
        model(ppg.bfloat16(), ecg.bfloat16(), **ids, return_loss=True)
    with backend.use_cpu_bfloat16("none"):
        with pytest.raises(backend.BackendError, match="conv_stem: it computes in torch.float32"):
            model.embed(ppg.bfloat16())
        model.impl = "auto"
        assert model.embed(ppg.bfloat16()).isfinite().all()


def test_compiles_without_a_graph_break(bf16):
    model, ppg = make_model(), batch(0)[0]

    def embed(x):
        with autocast():
            return model.embed(x)

    torch.compiler.reset()
    assert torch.equal(torch.compile(embed, fullgraph=True, backend="aot_eager")(ppg), embed(ppg))
    torch.compiler.reset()
    with autocast():
        compiled = torch.compile(model.embed, fullgraph=True, backend="aot_eager")
        assert torch.equal(compiled(ppg), model.embed(ppg))


def test_explain_tells_precision_and_instructions(bf16):
    model = make_model()
    float32 = f"float32 by {backend.cpu_kernels()}"
    assert f"conv_stem: cpu (impl='auto', cpu), {float32}, bfloat16 by {bf16} when asked for" in explain(model)
    assert f"waveform_loss: cpu (impl='auto', cpu), {float32};" in explain(model)
    with autocast():
        for text in (explain(model), explain("conv_stem")):
            assert f"bfloat16 by {bf16} now, under autocast" in text
    model.bfloat16()
    lines = {line.split(":")[0].strip(): line for line in explain(model).splitlines()[1:]}
    assert f"cpu (impl='auto', cpu), bfloat16 by {bf16}, reference where gradients are wanted" in lines["feed_forward"]
    assert "waveform_loss: reference" in lines["waveform_loss"]
    assert "cpu not: it computes in torch.float32" in lines["waveform_loss"]


def test_explain_says_why_not():
    with backend.use_cpu_bfloat16("none"):
        why = backend.cpu_bfloat16_reason() or "they were switched off"
        assert f"bfloat16 not: {why}" in explain("conv_stem")
        assert f"and bfloat16 not: {why}" in explain(make_model(dtype=torch.bfloat16))
        with autocast():
            assert f"under autocast too, bfloat16 not: {why}" in explain("conv_stem")


REFUSED = """
import torch
from tests.ops.refusing import refuse_amx
refuse_amx()
from tests.model.test_bfloat16 import autocast, batch, make_model
from xmae_fast import backend, explain
from xmae_fast.model.outputs import encode
model, ppg = make_model(), batch(0)[0]
want = encode(model, ppg, "tokens")
with autocast():
    got = encode(model, ppg, "tokens")
    text = explain(model)
assert got.dtype == torch.float32 and torch.equal(got, want)
assert backend.cpu_bfloat16() == "", backend.cpu_bfloat16()
assert "AMX: the operating system does not permit it" in text, text
assert "under autocast too, bfloat16 not" in text, text
"""


def test_a_refused_permission_gives_float32():
    if platform.machine() != "x86_64" or not sys.platform.startswith("linux"):
        pytest.skip("AMX is asked for on Linux on x86-64 alone")
    with on_bf16("amx"):
        pass

    run = [sys.executable, "-c", REFUSED]
    done = subprocess.run(
        run, cwd=Path(__file__).parents[2], env=os.environ, capture_output=True, text=True, timeout=300, check=False
    )
    if "the kernel takes no filter" in done.stderr:
        pytest.skip("the kernel takes no filter of system calls")
    assert done.returncode == 0, done.stderr or f"ended by signal {-done.returncode}"


def test_float32_bit_for_bit_where_bfloat16_is_switched_off():
    """The same as after a refused permission, on any processor."""
    model, ppg = make_model(), batch(0)[0]
    want = encode(model, ppg, "tokens")
    with backend.use_cpu_bfloat16("none"), autocast():
        got = encode(model, ppg, "tokens")
    assert got.dtype == torch.float32
    assert torch.equal(got, want)


def test_precision_of_the_embedder():
    model = make_model()
    segments = batch(3, 5)[0].numpy()
    options = {"check": False, "quality": False}
    plain = Embedder(model, **options).segments(segments)
    bfloat16 = Embedder(model, precision="bf16", **options).segments(segments)
    assert plain.dtype == bfloat16.dtype == np.float32
    assert np.array_equal(Embedder(model, precision="float32", **options).segments(segments), plain)
    assert np.array_equal(Embedder(model, autocast=torch.bfloat16, **options).segments(segments), bfloat16)
    both = Embedder(model, autocast=torch.bfloat16, precision="bf16", **options)
    assert np.array_equal(both.segments(segments), bfloat16)
    assert np.array_equal(plain, bfloat16) == (not backend.cpu_bfloat16())  # float32 where no processor does it faster
    with pytest.raises(ValueError, match=r"precision='float32': expected a model in float32 \(model.float\(\)\)"):
        Embedder(make_model(dtype=torch.bfloat16), precision="float32").segments(segments)
    assert np.isfinite(Embedder(make_model(dtype=torch.bfloat16), **options).segments(segments)).all()


def test_what_precision_means_together_with_autocast():
    assert autocast_of(None, None) is None
    assert autocast_of(None, torch.float16) == torch.float16
    assert autocast_of("bf16", None) == autocast_of("bf16", torch.bfloat16) == torch.bfloat16
    assert autocast_of("float32", None) is None
    for precision, dtype in (("bf16", torch.float16), ("float32", torch.bfloat16)):
        with pytest.raises(ValueError, match=f"precision='{precision}' and autocast={dtype} contradict each other"):
            autocast_of(precision, dtype)
    with pytest.raises(ValueError, match="precision: expected one of 'float32', 'bf16' or None, got 'fp16'"):
        autocast_of("fp16", None)


def test_lightnings_names_of_precisions():
    for given, want in (("bf16-mixed", "bf16"), ("32-true", "float32"), ("32", "float32"), (32, "float32")):
        assert train_cfg_from_dict({"data": "a.h5", "precision": given}).precision == want
    for given in ("16-mixed", "bf16-true", True):
        with pytest.raises(ValueError, match="precision: expected one of 'auto', 'bf16', 'float32', got "):
            train_cfg_from_dict({"data": "a.h5", "precision": given})


REAL = os.environ.get("XMAE_FAST_REAL_DATA", "")


@pytest.mark.skipif(not REAL, reason="XMAE_FAST_REAL_DATA names no shard of real data")
def test_real_segments(bf16):
    """Embeddings of real segments in bfloat16 point where those in float32 point."""
    import h5py

    with h5py.File(REAL) as file:
        segments = np.stack([x[:, 1] for subject in file.values() for x in subject.values()]).astype(np.float32)
    model = make_model(seq_len=segments.shape[1], patch_len=40, d_model=128)
    for output in ("pooled", "projected"):
        found = [
            torch.from_numpy(Embedder(model, output=output, precision=name, check=False).segments(segments))
            for name in ("float32", "bf16")
        ]
        assert torch.cosine_similarity(*found).min() >= 0.9999
