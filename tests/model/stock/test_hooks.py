"""Hooks on every part fire in the order of the computation, as in the published model, and what they return counts."""

from __future__ import annotations

import contextlib

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules import module as global_hooks

from tests.model.stock.pair import IMPLEMENTATIONS, batch, build, check_equal, loss_of, run, weights


def head_apart(events: list[str]) -> tuple[list[str], list[str]]:
    """The events, and among them those of the embedding's head: the description does not say when it runs."""
    of_head = [event for event in events if event.split(" ")[1].startswith("ppg_path.proj")]
    others = [event for event in events if event not in of_head and event.split(" ")[1] not in ("ppg_path", "ecg_path")]
    return others, of_head


def events_of(model: nn.Module, training: bool) -> list[str]:
    """The events that forward hooks and pre-hooks on all modules see during one call."""
    events: list[str] = []
    handles = []
    for name, module in model.named_modules():
        handles.append(module.register_forward_pre_hook(lambda *_, name=name: events.append(f"enter {name}")))
        handles.append(module.register_forward_hook(lambda *_, name=name: events.append(f"leave {name}")))
    with contextlib.nullcontext() if training else torch.no_grad():
        model(**batch())
    for handle in handles:
        handle.remove()
    return events


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("which", IMPLEMENTATIONS)
def test_forward_hooks_fire_in_order(which, training):
    model, control = (build(kind, training=training) for kind in (which, "stock"))
    events = events_of(model, training)
    assert head_apart(events) == head_apart(events_of(control, training))
    assert events.index("leave ppg_path.encoder") < events.index("enter ppg_path.proj")
    assert len(events) > 200


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("which", IMPLEMENTATIONS)
def test_hooks_that_were_removed_leave_nothing(which, training):
    model, control = (build(kind, training=training) for kind in (which, "stock"))
    for kept in (model, control):
        events_of(kept, training)
        kept.load_state_dict(weights())
    check_equal(run(model, training=training), run(control.double(), training=training))


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("which", IMPLEMENTATIONS)
def test_hooks_for_all_modules(which, training):
    """torch.nn.modules.module.register_module_forward_hook, which profilers and summaries use."""
    seen = []
    for kind in (which, "stock"):
        model = build(kind, training=training)
        names = {module: name for name, module in model.named_modules()}
        events: list[str] = []
        handle = global_hooks.register_module_forward_hook(
            lambda module, *_, names=names, events=events: events.append(f"leave {names.get(module)}")
        )
        try:
            with contextlib.nullcontext() if training else torch.no_grad():
                model(**batch())
        finally:
            handle.remove()
        seen.append(head_apart(events))
    assert seen[0] == seen[1]


@pytest.mark.parametrize("which", IMPLEMENTATIONS)
def test_a_global_hook_that_changes_outputs(which):
    def larger(module, arguments, out):
        return 1.1 * out if isinstance(module, nn.LayerNorm) else None

    model, control = build(which), build("stock", dtype=torch.float64)
    handle = global_hooks.register_module_forward_hook(larger)
    try:
        check_equal(run(model, training=False), run(control, training=False))
    finally:
        handle.remove()
    check_equal(run(model, training=False), run(control, training=False))


def backward_events(model: nn.Module) -> list[str]:
    events: list[str] = []
    for name, module in model.named_modules():
        if name.count(".") >= 2:  # not on the model itself, whose inputs need no gradient
            module.register_full_backward_pre_hook(lambda *_, name=name: events.append(f"enter {name}"))
    results = model(**batch())
    loss_of(results, batch()["ecg"]).backward()
    return events


@pytest.mark.filterwarnings("ignore:Full backward hook")
@pytest.mark.parametrize("which", IMPLEMENTATIONS)
def test_backward_hooks_fire(which):
    model, control = (build(kind, training=True) for kind in (which, "stock"))
    got, want = backward_events(model), backward_events(control)
    assert sorted(got) == sorted(want)
    assert len(want) > 100
    control.zero_grad()
    # along a chain the order is fixed; between branches autograd may choose
    chain = [event for event in want if "ecg_path.dec_blk" in event or "bridger" in event]
    assert [event for event in got if event in chain] == chain


def sizes_at(model: nn.Module, name: str) -> tuple[list[Tensor], Tensor]:
    """The inputs and the output that a hook on one module sees, and the result of the model."""
    seen: list[Tensor] = []
    handle = model.get_submodule(name).register_forward_hook(
        lambda module, arguments, out: seen.extend(
            [arguments[0].detach(), (out if isinstance(out, Tensor) else out[0]).detach()]
        )
    )
    with torch.no_grad():
        results = model(**batch(torch.float64 if next(model.parameters()).dtype == torch.float64 else torch.float32))
    handle.remove()
    return seen, torch.cat([results["ppg_embedding"].flatten(), results["ecg_reconstructed"].flatten()])


@pytest.mark.parametrize("which", IMPLEMENTATIONS)
def test_a_hook_on_one_part_sees_what_is_computed(which):
    """Each module in turn: inputs and output at the hook, and the result of the model, which stays right."""
    model, control = build(which), build("stock", dtype=torch.float64)
    called = [event.removeprefix("leave ") for event in events_of(build("stock"), False) if event.startswith("leave")]
    for name in [name for name in dict.fromkeys(called) if name][::8]:
        got, want = sizes_at(model, name), sizes_at(control, name)
        torch.testing.assert_close(
            got, want, rtol=1e-4, atol=1e-4, check_dtype=False, msg=lambda m, name=name: f"{name}: {m}"
        )


@pytest.mark.parametrize("which", IMPLEMENTATIONS)
def test_each_parts_output_can_be_changed(which):
    """A hook that halves what a part returns, for each module in turn: the rest of the model computes with it."""
    model, control = build(which), build("stock", dtype=torch.float64)
    called = [event.removeprefix("leave ") for event in events_of(build("stock"), False) if event.startswith("leave")]
    for name in [name for name in dict.fromkeys(called) if name and name != "bridger"][4::8]:
        found = []
        for each in (model, control):
            handle = each.get_submodule(name).register_forward_hook(
                lambda module, arguments, out: 0.5 * out if isinstance(out, Tensor) else (0.5 * out[0], *out[1:])
            )
            found.append(run(each, training=False))
            handle.remove()
        try:
            check_equal(*found)
        except AssertionError as error:
            raise AssertionError(f"{name}: {error}") from None
