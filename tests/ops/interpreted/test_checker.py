"""The checks of Triton kernels are checked: launchers and kernels that are known to be wrong must be rejected."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import triton.language as tl
from triton.runtime import interpreter

from tests.ops.interpreted.checks import check, poisoned_memory
from tests.ops.interpreted.interpreter import shorten
from xmae_fast import ops
from xmae_fast.ops._launch import forced_config
from xmae_fast.ops.cases import Maker, all_cases
from xmae_fast.ops.token_gather.triton import backward as gather_backward
from xmae_fast.ops.token_gather.triton import launch as gather
from xmae_fast.ops.waveform_loss.triton import backward as waveform_backward
from xmae_fast.ops.waveform_loss.triton import launch as waveform
from xmae_fast.testing import hostile_layout
from xmae_fast.testing.numerics import _run

CASES = all_cases()


def reject(op: str, **sizes) -> None:
    cases = CASES[op]
    case = next(case for case in cases.tests if all(case.sizes[key] == value for key, value in sizes.items()))
    with pytest.raises(AssertionError, match="differs from the float64 oracle"):
        check(cases, case)


def other_arguments(monkeypatch, module, change) -> None:
    """From now on the arguments of launches of `module` are changed by `change`."""
    right = module.launch

    def wrong(kernel, grid, args, constants, configs, key=()):
        right(kernel, grid, change(kernel, dict(args)), constants, configs, key)

    monkeypatch.setattr(module, "launch", wrong)


def test_last_sample_not_written(monkeypatch):
    """Poisoned memory shows what no program has written."""
    right = gather.tiles
    monkeypatch.setattr(gather, "tiles", lambda outer, rows, width: right(outer - 1, rows, width))
    reject("token_gather", Nk=5)


def test_ids_off_by_one(monkeypatch):
    def change(kernel, args):
        return args | {"ids_ptr": (args["ids_ptr"] + 1) % 25}

    other_arguments(monkeypatch, gather, change)
    reject("token_gather", Nk=5)


def test_positions_of_kept_patches_forgotten_in_the_backward(monkeypatch):
    """The published system subtracts positions; without that, pos would get the whole gradient of every row."""
    right = gather_backward.assemble_queries_backward

    def wrong(grad, ids_keep, want_sums):
        tokens, _, mask_loc = right(grad, ids_keep, want_sums)
        return tokens, grad.sum(0, keepdim=True), mask_loc

    monkeypatch.setattr(gather, "assemble_queries_backward", wrong)
    reject("token_gather", Nk=5)


def test_one_slice_left_out_of_a_sum(monkeypatch):
    def change(kernel, args):
        return args | {"slices": args["slices"] - 1} if "slices" in args else args

    other_arguments(monkeypatch, waveform_backward, change)
    reject("waveform_loss", Nk=5)


def test_denominator_of_all_samples(monkeypatch):
    right = waveform.finish_loss
    monkeypatch.setattr(waveform, "finish_loss", lambda s, w, dtype: right(s, w * 0 + 3 * 25 * 40 / w.numel(), dtype))
    reject("waveform_loss", Nk=5)


def test_gradient_of_the_loss_ignored(monkeypatch):
    """Twice the loss has twice the gradients: a scale that is not read shows."""

    def change(kernel, args):
        return args | {"scale_ptr": torch.ones(())} if "scale_ptr" in args else args

    other_arguments(monkeypatch, waveform_backward, change)
    cases = CASES["waveform_loss"]
    doubled = replace(
        cases,
        call=lambda x, impl: 2 * ops.waveform_loss(**x, impl=impl),
        oracle=lambda x: 2 * cases.oracle(x),
    )
    with pytest.raises(AssertionError, match="gradient weight"):
        check(doubled, cases.tests[0])


@pytest.mark.parametrize("op", ["token_gather", "waveform_loss"])
def test_the_shortened_interpreter_computes_the_same(op, monkeypatch):
    """Bit for bit what Triton's own does, which replaces functions more often; both put the language back."""
    if not hasattr(interpreter._patch_lang, "__wrapped__"):
        pytest.skip("this Triton's interpreter is not shortened")
    cases, before = CASES[op], dict(vars(tl))
    counts = {}

    def results(name: str) -> dict[str, torch.Tensor]:
        patch, counts[name] = interpreter._patch_builtin, 0

        def counted(*args):
            counts[name] += 1
            return patch(*args)

        with monkeypatch.context() as patched, poisoned_memory(), forced_config(0):
            patched.setattr(interpreter, "_patch_builtin", counted)
            if name == "own":
                options = replace(interpreter.interpreter_builder.options, sanitize_overflow=True)
                patched.setattr(interpreter.interpreter_builder, "options", options)
                patched.setattr(interpreter, "_patch_lang", interpreter._patch_lang.__wrapped__)
            inputs = hostile_layout(cases.make_inputs(cases.tests[0].sizes, Maker(3)))
            return _run(cases, inputs, lambda inputs: cases.call(inputs, "triton"))

    shortened, own = results("shortened"), results("own")
    assert shortened.keys() == own.keys()
    assert all(torch.equal(shortened[name], own[name]) for name in own)
    assert not interpreter.interpreter_builder.options.sanitize_overflow
    assert 0 < counts["shortened"] < counts["own"]
    assert dict(vars(tl)) == before


def test_another_interpreter_stays_as_it_is(monkeypatch):
    patch = interpreter._patch_lang
    monkeypatch.delattr(interpreter, "_LangPatchScope")
    assert not shorten()
    assert interpreter._patch_lang is patch
