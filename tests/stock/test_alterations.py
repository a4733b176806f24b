"""A part that is replaced, wrapped or set otherwise is what runs, in every mode, and the library says so."""

from __future__ import annotations

import functools

import pytest
import torch

from tests.stock.alterations import ALTERATIONS
from tests.stock.pair import AFFECTED, IMPLEMENTATIONS, Outcome, build, check_equal, distances, nothing, run
from xmae_fast import explain
from xmae_fast.backend import BackendError

MODES = [
    pytest.param(name, training, id=f"{name}-{'train' if training else 'eval'}")
    for name, altered in ALTERATIONS.items()
    for training in (False, True)
    if altered.mode in ("both", "train" if training else "eval")
]
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore:.*spectral_norm.*", "ignore:.*weight_norm.*")


def outcome(which: str, name: str, training: bool, dtype: torch.dtype) -> Outcome:
    model = build(which, ALTERATIONS.get(name, nothing), training=training, dtype=dtype)
    return run(model, training=training, steps=steps_of(name))


def steps_of(name: str) -> int:
    return ALTERATIONS[name].steps if name in ALTERATIONS else 1


@functools.cache
def control(name: str, training: bool) -> Outcome:
    return outcome("stock", name, training, torch.float64)


def affected(name: str, training: bool) -> bool:
    """Whether the control computes something else for the alteration: the tests below could not fail otherwise."""
    before, after = control("", training), control(name, training)
    if before.gradients.keys() != after.gradients.keys() or before.buffers.keys() != after.buffers.keys():
        before, after = (Outcome(outcome.results, {}, {}) for outcome in (before, after))
    if any(after.results[key].shape != x.shape for key, x in before.results.items()):
        return True
    return any(far > AFFECTED for far in distances(after, before).values())


@pytest.mark.parametrize("name", ALTERATIONS)
def test_the_control_is_affected(name):
    altered = ALTERATIONS[name]
    if altered.mode != "train":
        assert affected(name, False) == (altered.changes and not altered.only_training)
    if altered.mode != "eval":
        assert affected(name, True) == altered.changes


@pytest.mark.parametrize(("name", "training"), MODES)
@pytest.mark.parametrize("which", IMPLEMENTATIONS)
def test_the_altered_part_runs(which, name, training):
    """Plain modules are compared in float64, where only rounding may differ; "auto" in the float32 of kernels."""
    dtype = torch.float32 if which == "auto" else torch.float64
    check_equal(outcome(which, name, training, dtype), control(name, training))


def is_named(text: str, name: str, model: torch.nn.Module) -> bool:
    """Whether `text` names an altered module, by its place in the model or by its class."""
    for where in ALTERATIONS[name].where:
        try:
            kind = type(model.get_submodule(where)).__name__
        except AttributeError:
            continue
        if where in text or kind in text:
            return True
    return False


@pytest.mark.parametrize(("name", "training"), MODES)
def test_kernels_asked_for_are_refused(name, training, need_impl):
    """impl="cpu" means exactly that: an error names the part that is not what the kernels compute."""
    need_impl("conv_stem", "cpu")
    altered = ALTERATIONS[name]
    model = build("cpu", altered, training=training)
    try:
        got = run(model, training=training, steps=altered.steps)
    except BackendError as error:
        refused = str(error)
    else:
        refused = ""
    if refused:
        assert is_named(refused, name, model), refused
        return
    assert altered.kernels or (altered.only_training and not training), "kernels ran, or modules in their place"
    check_equal(got, control(name, training))


@pytest.mark.parametrize("name", [name for name, altered in ALTERATIONS.items() if not altered.kernels])
def test_explain_names_the_part(name):
    training = ALTERATIONS[name].mode != "eval"
    assert not any(where in explain(build("auto", training=training)) for where in ALTERATIONS[name].where)
    model = build("auto", ALTERATIONS[name], training=training)
    assert is_named(explain(model), name, model)
