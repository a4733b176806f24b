"""token_gather's kernels: bit for bit those of the oracle where they copy or add once, in every dtype."""

from __future__ import annotations

import pytest
import torch

from tests.ops.interpreted.checks import CONFIGS, check, each, poisoned_memory
from xmae_fast import ops
from xmae_fast.ops._launch import forced_config
from xmae_fast.ops.cases import Case, Maker, cases
from xmae_fast.ops.token_gather import reference
from xmae_fast.ops.token_gather.cases import CASES
from xmae_fast.testing import hostile_layout

# More patches and a wider token than one program takes; more samples than one slice of a sum over the batch.
BIG = cases({"B": 1, "N": 40, "Nk": 34, "P": 70, "D": 130}, {"B": 9, "N": 5, "Nk": 2, "P": 4, "D": 3})
raw = torch.ops.xmae_fast


def make(case: Case, dtype: torch.dtype = torch.float32):
    return CASES.make_inputs(case.sizes, Maker(3, dtype))


@each(CASES, BIG)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_against_the_oracle(case, dtype):
    check(CASES, case, dtype=dtype)


@each(CASES, BIG)
@pytest.mark.parametrize("config", CONFIGS[1:])
def test_other_configurations(case, config):
    check(CASES, case, config=config)


@each(CASES, BIG)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("config", CONFIGS)
def test_results_are_those_of_plain_pytorch_bit_for_bit(case, dtype, config):
    inputs = make(case, dtype)
    with poisoned_memory(), forced_config(config):
        got = CASES.call(hostile_layout(inputs), "triton")
    for ours, want in zip(got, CASES.oracle(inputs), strict=True):
        assert ours.dtype == want.dtype
        assert torch.equal(ours, want)


@each(CASES, BIG)
def test_gradients_that_are_copies_are_exact(case):
    inputs = make(case)
    with poisoned_memory():
        for impl in ("triton", "reference"):
            signal, tokens = (inputs[name].clone().requires_grad_() for name in ("signal", "tokens"))
            waveform, queries, restored, _ = CASES.call({**inputs, "signal": signal, "tokens": tokens}, impl)
            pairs = (waveform, signal), (queries, tokens), (restored, tokens)
            found = [torch.autograd.grad(out, leaf, Maker(4).normal(*out.shape))[0] for out, leaf in pairs]
            if impl == "triton":
                ours = found
    for got, want in zip(ours, found, strict=True):
        assert torch.equal(got, want)


def mixed(tokens_dtype, pos_dtype, mask_dtype):
    x = make(CASES.tests[0])
    return x | {
        "tokens": x["tokens"].to(tokens_dtype),
        "pos": x["pos"].to(pos_dtype),
        "mask_loc": x["mask_loc"].to(mask_dtype),
        "mask_token": x["mask_token"].to(pos_dtype),
    }


@pytest.mark.parametrize("dtypes", [(torch.float32, torch.float16), (torch.float16, torch.float32)])
def test_mixed_dtypes_are_promoted_as_pytorch_does(dtypes):
    x = mixed(*dtypes, torch.float32)
    leaves = {name: x[name].requires_grad_() for name in ("tokens", "pos", "mask_token", "mask_loc")}
    with poisoned_memory(), torch.autocast("cpu", torch.float16):
        got = ops.restore_tokens(x["tokens"], x["ids_restore"], x["mask_token"], x["pos"], impl="triton")
        want = reference.restore_tokens(x["tokens"], x["ids_restore"], x["mask_token"], x["pos"])
        queries = ops.assemble_queries(x["tokens"], x["ids_keep"], x["pos"], x["mask_loc"], impl="triton")
        (got.square().mean() + queries.square().mean()).backward()
    assert got.dtype == queries.dtype == want.dtype
    assert torch.equal(got, want)
    assert all(leaf.grad.dtype == leaf.dtype for leaf in leaves.values())
    wide = {name: leaf.detach().float() for name, leaf in leaves.items()}
    exact = reference.assemble_queries(wide["tokens"], x["ids_keep"], wide["pos"], wide["mask_loc"])
    assert (queries - exact).abs().max() <= 2**-9 * exact.abs().max()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_masked_samples_of_any_dtype(dtype):
    ids_restore = make(CASES.tests[0])["ids_restore"].T.contiguous().T
    got = ops.masked_samples(ids_restore, 5, 7, dtype, impl="triton")
    assert got.dtype == dtype
    assert torch.equal(got, reference.masked_samples(ids_restore, 5, 7, dtype))


def test_foreign_ids_read_no_foreign_memory():
    x = make(CASES.tests[0])
    ids = x["ids_keep"].clone()
    ids[1, 2], ids[2, 0] = 25, -1
    waveform = ops.gather_patches(x["signal"], ids, 40, impl="triton").view(3, 5, 40)
    assert torch.isnan(waveform[1, 2]).all()
    assert torch.isnan(waveform[2, 0]).all()
    assert torch.isnan(waveform).sum() == 80
    assert torch.isfinite(ops.assemble_queries(x["tokens"], ids, x["pos"], x["mask_loc"], impl="triton")).all()
    x["ids_restore"][0, 3] = -7
    restored = ops.restore_tokens(x["tokens"], x["ids_restore"], x["mask_token"], x["pos"], impl="triton")
    assert torch.isnan(restored[0, 3]).all()
    assert torch.isnan(restored).sum() == 16


def test_the_same_bits_every_time():
    x = make(BIG[1])
    leaves = [x[name].requires_grad_() for name in ("signal", "tokens", "pos", "mask_loc", "mask_token")]

    def run():
        out = CASES.call(x, "triton")[:3]
        return *out, *torch.autograd.grad([(y * y).sum() for y in out], leaves)

    for first, second in zip(run(), run(), strict=True):
        assert torch.equal(first, second)


def test_only_what_is_wanted():
    x = make(CASES.tests[0])
    x["tokens"].requires_grad_()
    out = CASES.call(x, "triton")
    (out[1].sum() + out[2].sum()).backward()
    assert torch.equal(x["tokens"].grad, torch.full((3, 5, 16), 2.0))


def test_opcheck():
    x = make(CASES.tests[-1])
    B, N, Nk, P = 4, 8, 4, 8
    wave, visible, full = x["signal"], x["tokens"], torch.randn(B, N, 8)
    calls = {
        "gather_patches": (wave, x["ids_keep"], P),
        "gather_patches_backward": (wave[:, :, : Nk * P], x["ids_keep"], N, P),
        "assemble_queries": (visible, x["ids_keep"], x["pos"], x["mask_loc"]),
        "assemble_queries_backward": (full, x["ids_keep"], True),
        "restore_tokens": (visible, x["ids_restore"], x["mask_token"], x["pos"]),
        "restore_tokens_backward": (full, x["ids_restore"], Nk, True),
        "masked_samples": (x["ids_restore"], Nk, P, torch.float16),
    }
    for name, args in calls.items():
        torch.library.opcheck(
            getattr(raw, f"{name}_triton").default, args, test_utils=("test_schema", "test_faketensor")
        )
    for name in ("assemble_queries_backward", "restore_tokens_backward"):
        torch.library.opcheck(
            getattr(raw, f"{name}_triton").default, (*calls[name][:-1], False),
            test_utils=("test_schema", "test_faketensor"),
        )  # fmt: skip
