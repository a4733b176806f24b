"""The C++ kernels of patch_embed, token_gather and waveform_loss, beyond what the generic tests ask of every op."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from xmae_fast import ops
from xmae_fast.backend import BackendError
from xmae_fast.ops.cases import Case, Maker, all_cases, cases
from xmae_fast.ops.token_gather import reference as token_reference
from xmae_fast.ops.waveform_loss import reference as waveform_reference
from xmae_fast.testing import check_op, hostile_layout, named_tensors

ALL = all_cases()
BY_PARTS = replace(
    ALL["waveform_loss"],
    call=lambda x, impl: _by_parts(ops, x, impl=impl),
    oracle=lambda x: _by_parts(waveform_reference, x),
)
SUBJECTS = {op: ALL[op] for op in ("patch_embed", "token_gather", "waveform_loss")} | {"by_parts": BY_PARTS}
# Enough work for three threads: by rows, by columns, by samples.
BUSY = {
    "patch_embed": cases({"B": 20, "S": 8, "N": 25, "P": 5, "D": 72}, {"B": 1, "S": 32, "N": 5, "P": 40, "D": 200}),
    "token_gather": cases({"B": 70, "N": 25, "Nk": 5, "P": 40, "D": 64}),
    "waveform_loss": cases({"B": 20, "N": 25, "Nk": 5, "P": 40, "D": 200}),
    "by_parts": cases({"B": 20, "N": 25, "Nk": 5, "P": 40, "D": 200}),
}
busy_cases = pytest.mark.parametrize(
    ("name", "case"), [pytest.param(name, case, id=f"{name}-{case.name}") for name in BUSY for case in BUSY[name]]
)


def _by_parts(functions, x, **impl):
    waveform = functions.decode_waveform(x["tokens"], x["weight"], x["bias"], **impl)
    return waveform, functions.masked_mse(waveform, x["target"], x["mask"], **impl)


@pytest.fixture(autouse=True)
def _built(need_impl):
    for op in ("patch_embed", "token_gather", "waveform_loss"):
        need_impl(op, "cpu")


def make(name, case, seed=0, **sizes):
    return SUBJECTS[name].make_inputs({**case.sizes, **sizes}, Maker(seed))


def run(name, inputs, impl="cpu"):
    """Results, then gradients of what requires one, as a flat list; None where there is no gradient."""
    outputs = SUBJECTS[name].call(inputs, impl)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    leaves = [x for _, x in named_tensors(inputs) if x.requires_grad]
    wanted = [out for out in outputs if out.requires_grad]
    if not wanted:
        return list(outputs)
    seeds = [torch.randn(out.shape, generator=torch.Generator().manual_seed(1)) for out in wanted]
    return [*(out.detach() for out in outputs), *torch.autograd.grad(wanted, leaves, seeds, allow_unused=True)]


def require_gradients(name, inputs, only=None):
    for key, x in named_tensors(inputs):
        if x.is_floating_point() and key not in SUBJECTS[name].no_grad and only in (None, key):
            x.requires_grad_()
    return inputs


def same(left, right):
    return all((a is None and b is None) or torch.equal(a, b) for a, b in zip(left, right, strict=True))


@busy_cases
def test_every_instruction_set(name, case, kernels):
    call = SUBJECTS[name].call
    check_op(SUBJECTS[name], case, lambda inputs: call(inputs, "cpu"))
    check_op(SUBJECTS[name], case, lambda inputs: call(inputs, "cpu"), seed=2, prepare=hostile_layout)


@busy_cases
def test_threads_change_no_bit(name, case, kernels):
    inputs = require_gradients(name, make(name, case))
    results = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        results.append(run(name, inputs))
        with torch.no_grad():
            results[-1] += run(name, inputs)
    assert same(results[0], results[1])
    assert same(results[0], results[2])


@busy_cases
def test_only_the_gradients_that_are_asked_for(name, case):
    inputs = require_gradients(name, make(name, case))
    leaves = [key for key, x in named_tensors(inputs) if x.requires_grad]
    every = dict(zip(leaves, run(name, inputs)[-len(leaves) :], strict=True))
    for key in leaves:
        (gradient,) = run(name, require_gradients(name, make(name, case), only=key))[-1:]
        assert torch.equal(gradient, every[key]), key


def test_copies_are_exact(kernels):
    case = BUSY["token_gather"][0]
    inputs = make("token_gather", case)
    reference = ALL["token_gather"].oracle(inputs)
    assert same(ALL["token_gather"].call(inputs, "cpu"), reference)
    inputs["signal"] = torch.randn(70, 2, 1000)[:, 1:]  # one channel of a recording is read where it lies
    got = ops.gather_patches(inputs["signal"], inputs["ids_keep"], 40, impl="cpu")
    assert torch.equal(got, token_reference.gather_patches(inputs["signal"], inputs["ids_keep"], 40))


@pytest.mark.parametrize("mode", ["anchor", "scatter"])
def test_visible_patches_are_not_touched(mode, kernels):
    B, N, P, D = 9, 25, 8, 24
    mask = ops.random_masking(B, N, 0.8, mode)
    x = require_gradients("waveform_loss", make("waveform_loss", BUSY["waveform_loss"][0], B=B, P=P, D=D))
    x["mask"] = mask.patch_mask.repeat_interleave(P, dim=1)[:, None].float()
    clean = run("waveform_loss", x)
    x["tokens"] = torch.where(mask.patch_mask[:, :, None], x["tokens"].detach(), float("nan")).requires_grad_()
    x["target"] = torch.where(x["mask"] > 0, x["target"], float("inf"))
    poisoned = run("waveform_loss", x)
    assert torch.isfinite(poisoned[0])
    assert same(clean, poisoned)
    assert (poisoned[1][~mask.patch_mask] == 0).all()


def test_changed_weights_are_seen():
    case = ALL["patch_embed"].tests[0]
    x = make("patch_embed", case)
    for change in (lambda w: None, lambda w: w.data.mul_(2), lambda w: w.numpy().__setitem__((0, 0, 0), 7.0)):
        change(x["weight"])
        check_values(x)


def check_values(x):
    """patch_embed of exactly these tensors, not of copies, against the oracle."""
    subject = replace(ALL["patch_embed"], make_inputs=lambda sizes, make: x, differentiable=False)
    check_op(subject, Case("given", {}), lambda inputs: subject.call(inputs, "cpu"), prepare=lambda _: x)


def test_same_bytes_in_another_shape():
    weight = torch.randn(4, 2, 3)
    for S, P in ((2, 3), (3, 2)):
        x = {"features": torch.randn(2, S, 5 * P), "weight": weight.view(4, S, P)}
        x |= {"bias": torch.zeros(4), "pos": torch.zeros(1, 5, 4)}
        check_values(x)


def test_channels_last_features_stay_so():
    features = torch.randn(2, 10, 3).transpose(1, 2).requires_grad_()
    out = ops.patch_embed(features, torch.randn(4, 3, 5), torch.zeros(4), torch.zeros(1, 2, 4), impl="cpu")
    (gradient,) = torch.autograd.grad(out.sum(), [features])
    assert gradient.transpose(1, 2).is_contiguous()


@pytest.mark.parametrize("wrong", [-1, 6, 2**40, -(2**62)])
def test_ids_out_of_range(wrong):
    B, N, kept, P, D = 3, 6, 2, 4, 5
    ids_keep, ids_restore = torch.arange(kept).repeat(B, 1), torch.arange(N).repeat(B, 1)
    ids_keep[2, 1] = ids_restore[1, 5] = wrong
    tokens, pos, table, mask_token = (torch.randn(*size) for size in ((B, kept, D), (1, N, D), (N, D), (1, 1, D)))
    message = rf"expected patch indices in 0\.\.5, got {wrong} in row"
    raw = torch.ops.xmae_fast
    for name, call in {
        "ids_keep": lambda: ops.gather_patches(torch.randn(B, 1, N * P), ids_keep, P, impl="cpu"),
        "ids_keep ": lambda: ops.assemble_queries(tokens, ids_keep, pos, table, impl="cpu"),
        "ids_restore": lambda: ops.restore_tokens(tokens, ids_restore, mask_token, pos, impl="cpu"),
        "ids_keep  ": lambda: raw.gather_patches_backward(torch.randn(B, 1, kept * P), ids_keep, N, P),
        "ids_keep   ": lambda: raw.assemble_queries_backward(torch.randn(B, N, D), ids_keep, True),
        "ids_restore ": lambda: raw.restore_tokens_backward(torch.randn(B, N, D), ids_restore, kept, True),
    }.items():
        with pytest.raises(RuntimeError, match=f"{name.strip()}: {message}"):
            call()


def test_repeated_ids_add_up():
    """`validate_ids` refuses repeated ids; the gradients are nevertheless those of the reference."""
    x = {"signal": torch.randn(1, 1, 12), "tokens": torch.randn(1, 3, 5), "pos": torch.randn(1, 6, 5)}
    x |= {"mask_loc": torch.randn(6, 5), "mask_token": torch.randn(1, 1, 5), "patch_len": 2}
    x |= {"ids_keep": torch.tensor([[1, 1, 4]]), "ids_restore": torch.tensor([[0, 0, 1, 5, 5, 2]])}
    require_gradients("token_gather", x)
    for got, want in zip(run("token_gather", x), run("token_gather", x, "reference"), strict=True):
        torch.testing.assert_close(got, want)


def test_other_dtypes_go_to_the_reference_or_raise():
    for name in SUBJECTS:
        inputs = SUBJECTS[name].make_inputs(SUBJECTS[name].tests[1].sizes, Maker(dtype=torch.float64))
        assert run(name, inputs, "auto")[0].dtype == torch.float64
        with pytest.raises(BackendError, match="it computes in torch.float32, got torch.float64"):
            run(name, inputs)


def test_masks_of_other_dtypes():
    x = make("waveform_loss", BUSY["waveform_loss"][0])
    for mask in (x["mask"].bool(), x["mask"].long()):
        y = {**x, "mask": mask}
        assert same(run("by_parts", x), run("by_parts", y))
        assert same(run("waveform_loss", x), run("waveform_loss", y))


@pytest.mark.parametrize("key", ["target", "mask"])
def test_gradients_that_the_kernels_lack(key):
    x = make("waveform_loss", BUSY["waveform_loss"][0], B=2)
    x[key].requires_grad_()
    prediction = torch.randn_like(x["target"])
    for call in (
        lambda impl: ops.waveform_loss(**x, impl=impl),
        lambda impl: ops.masked_mse(prediction, x["target"], x["mask"], impl=impl),
    ):
        with pytest.raises(BackendError, match=f"no gradient of {key}"):
            call("cpu")
        (got,), (want,) = (torch.autograd.grad(call(impl), [x[key]]) for impl in ("auto", "reference"))
        assert torch.equal(got, want)
        with torch.no_grad():
            assert call("cpu") > 0


@busy_cases
def test_compiles_whole(name, case, monkeypatch):
    inputs = require_gradients(name, make(name, case))
    keys = [key for key, x in inputs.items() if isinstance(x, torch.Tensor)]

    def call(*tensors):
        return SUBJECTS[name].call({**inputs, **dict(zip(keys, tensors, strict=True))}, "cpu")

    torch.compiler.reset()
    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
    whole = replace(SUBJECTS[name], call=lambda x, impl: compiled(*(x[key] for key in keys)))
    monkeypatch.setitem(SUBJECTS, "compiled", whole)
    assert same(run("compiled", inputs), run(name, inputs))
    with torch.no_grad():
        assert same(run("compiled", inputs), run(name, inputs))


def test_opcheck():
    B, N, kept, P, S, D = 3, 6, 2, 4, 5, 7
    ids_keep, ids_restore = Maker().ids(B, N, kept)
    rows, weight, tokens = torch.randn(B, N * P, S), torch.randn(D, S, P), torch.randn(B, N, D)
    visible, bias, pos, table = torch.randn(B, kept, D), torch.randn(D), torch.randn(1, N, D), torch.randn(N, D)
    wave, deconv, scalar = torch.randn(B, 1, N * P), torch.randn(D, 1, P), torch.randn(1)
    mask, flat = (wave > 0).float(), wave[:, 0]
    for name, *arguments in (
        ("patch_embed", rows, weight, bias, pos, True),
        ("patch_embed", rows, weight, bias, pos, False),
        ("patch_embed_backward", tokens, rows, weight, True, True, True),
        ("patch_embed_backward", tokens, rows, weight, False, False, False),
        ("gather_patches", wave, ids_keep, P),
        ("gather_patches_backward", wave[:, :, : kept * P], ids_keep, N, P),
        ("assemble_queries", visible, ids_keep, pos, table),
        ("assemble_queries_backward", tokens, ids_keep, True),
        ("restore_tokens", visible, ids_restore, bias[None, None], pos),
        ("restore_tokens_backward", tokens, ids_restore, kept, False),
        ("masked_samples", ids_restore, kept, P),
        ("decode_waveform", tokens, deconv, scalar),
        ("decode_waveform_backward", wave, None, tokens, deconv, True, True),
        ("decode_waveform_backward", wave, scalar[0], tokens, deconv, False, False),
        ("masked_mse", flat, flat + 1, mask[:, 0], True),
        ("waveform_loss", tokens, deconv, scalar, wave, mask, True),
        ("waveform_loss", tokens, deconv, scalar, wave, mask, False),
    ):
        torch.library.opcheck(getattr(torch.ops.xmae_fast, name).default, arguments)
