"""A part that is replaced, wrapped or set otherwise is what runs, in evaluation and training, and messages name it."""

from __future__ import annotations

import functools
from typing import NamedTuple

import pytest
import torch
from torch import nn

from tests.model.stock.alterations import ALTERATIONS
from tests.model.stock.pair import Outcome, allowed, build, check_equal, distances, nothing, run
from xmae_fast import explain
from xmae_fast.backend import BackendError

pytestmark = pytest.mark.filterwarnings("ignore:Full backward hook is firing")


class Outcomes(NamedTuple):
    """Outcomes of an altered model in evaluation and in training (None where the alteration has no such mode)."""

    evaluation: Outcome | None
    training: Outcome | None


@functools.cache
def outcomes(which: str, name: str) -> Outcomes:
    """Plain modules run in float64, where only rounding may differ; "auto" in float32, in which kernels compute."""
    altered = ALTERATIONS.get(name)
    mode, steps = (altered.mode, altered.steps) if altered else ("both", 1)
    dtype = torch.float32 if which == "auto" else torch.float64
    model = build(which, altered or nothing, training=mode == "train", dtype=dtype)
    evaluation = training = None
    if mode != "train":
        evaluation = run(model, training=False)
    if mode != "eval":
        training = run(model.train() if mode == "both" else model, training=True, steps=steps)
    return Outcomes(evaluation, training)


def affected(before: Outcome, after: Outcome) -> float:
    """The largest distance between the two, as a multiple of what is allowed; infinity where some are missing."""
    if after.gradients.keys() < before.gradients.keys() or after.buffers.keys() < before.buffers.keys():
        return float("inf")
    shapes = [[(key, x.shape) for part in outcome for key, x in part.items()] for outcome in (before, after)]
    if shapes[0] != shapes[1]:  # other parameters, such as a parametrisation's, or other layers
        before, after = (Outcome(outcome.results, {}, {}) for outcome in (before, after))
    if any(after.results[key].shape != x.shape for key, x in before.results.items()):
        return float("inf")
    return max(far / allowed(kind) for kind, far in distances(after, before).items())


@pytest.mark.parametrize("name", ALTERATIONS)
def test_the_control_is_affected(name):
    """The tests below could not fail for an alteration that changes nothing; those that change nothing say so."""
    altered, before, after = ALTERATIONS[name], outcomes("stock", ""), outcomes("stock", name)
    if after.evaluation is not None:
        far = affected(before.evaluation, after.evaluation)
        assert far > 20 if altered.changes and not altered.only_training else far < 0.1
    if after.training is not None and altered.steps == 1:
        far = affected(before.training, after.training)
        assert far > 20 if altered.changes else far < 0.1


@pytest.mark.parametrize("name", ALTERATIONS)
@pytest.mark.parametrize("which", ["auto", "reference"])
def test_the_altered_part_runs(which, name):
    got, want = outcomes(which, name), outcomes("stock", name)
    if want.evaluation is not None:
        check_equal(got.evaluation, want.evaluation)
    if want.training is not None:
        check_equal(got.training, want.training)


def unnamed(text: str, name: str, model: nn.Module) -> list[str]:
    """The altered modules that `text` names neither by their place in the model nor by their class."""
    classes = {where: type(module).__name__ for where, module in model.named_modules(remove_duplicate=False)}
    return [
        where
        for where in ALTERATIONS[name].where
        if where not in text and classes.get(where, "(no module)") not in text
    ]


@pytest.mark.parametrize("name", ALTERATIONS)
def test_kernels_that_are_asked_for(name, need_impl):
    """impl="cpu" means exactly that: an error names a part that is not what the kernels compute."""
    need_impl("conv_stem", "cpu")
    altered = ALTERATIONS[name]
    model = build("auto", altered, training=altered.mode != "eval")
    model.impl = "cpu"
    try:
        run(model, training=altered.mode != "eval")
        message = ""
    except BackendError as error:
        message = str(error)
    if message:
        assert len(unnamed(message, name, model)) < len(altered.where), message
    else:
        assert altered.kernels, "something that is not the stock part was served as if it were"


@pytest.mark.parametrize("name", [name for name, altered in ALTERATIONS.items() if not altered.kernels])
def test_explain_names_the_parts(name):
    altered = ALTERATIONS[name]
    training = altered.mode != "eval"
    assert not any(where in explain(build("auto", training=training)) for where in altered.where)
    model = build("auto", altered, training=training)
    assert not unnamed(explain(model), name, model)
