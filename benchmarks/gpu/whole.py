"""A whole training step and a whole embedding at the first look: ours, then plain PyTorch, each line when it is known.

The contestants are those of the benchmarks, so that times and checks are theirs too.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch

from benchmarks.gpu.profile import kernels_of
from benchmarks.harness.contest import OURS, PLAIN, Contestant, Group, peak_bytes
from benchmarks.harness.context import Context
from benchmarks.harness.timing import Effort, Run, interleave, spread
from benchmarks.suites import model, train

Say, Tell = Callable[[str], None], Callable[..., None]
SLOWEST = 3


def training_step(options: argparse.Namespace, say: Say, tell: Tell) -> None:
    """GraphedStep, or on a CPU the eager step, against the plain model with vectorised masks."""
    context = Context(torch.device(options.device))
    _look(options, context, *pair(train.group(context, options.batch)), say, tell)


def embedding(options: argparse.Namespace, say: Say, tell: Tell) -> None:
    """`model.embed` with impl="auto" against the plain model's."""
    context = Context(torch.device(options.device))
    _look(options, context, *pair(model.group(context, "embed", options.batch)), say, tell)


def pair(group: Group) -> tuple[Contestant, Contestant]:
    """Ours, captured where it can be, and the plain model, for a step with vectorised masks."""
    ours = [one for one in group.contestants if one.role == OURS]
    named = {one.name: one for one in group.contestants}
    plain = next(one for one in group.contestants if one.role == PLAIN)
    return named.get("xmae_fast GraphedStep", ours[0]), named.get("published style, vectorised masks", plain)


def _look(
    options: argparse.Namespace, context: Context, ours: Contestant, plain: Contestant, say: Say, tell: Tell
) -> None:
    device, began, numbers = context.device, time.monotonic(), {}
    run, reason = _started(ours)
    numbers |= {"setup_s": time.monotonic() - began, "reason": reason}
    said = f"{ours.name}, B = {options.batch}: runs after {numbers['setup_s']:.0f} s"
    say(said + (f"; step.reason: {reason or 'none, it is a CUDA graph'}" if hasattr(run, "step") else ""))
    tell(**numbers)
    numbers["ms"] = _milliseconds(run, device)
    say(f"{numbers['ms']:.3f} ms")
    tell(**numbers)
    if device.type == "cuda":
        numbers |= _profiled(run, say)
        numbers["peak_bytes"] = ours.peak() if ours.peak else peak_bytes(run, device)
        say(f"peak memory {numbers['peak_bytes'] / 1e9:.2f} GB beyond weights, optimiser and data")
        tell(**numbers)
    other = plain.build()
    other(0)
    numbers["plain_ms"] = _milliseconds(other, device)
    say(f"plain PyTorch {numbers['plain_ms']:.3f} ms: ours is {numbers['plain_ms'] / numbers['ms']:.2f} times as fast")
    tell(**numbers)
    errors = ours.check(run)
    numbers["errors"] = [error._asdict() for error in errors]
    say("right: " + "; ".join(f"{one.name} {one.error:.1e} of {one.bound:.1e} allowed" for one in errors))
    tell(**numbers)


def _started(ours: Contestant) -> tuple[Run, str]:
    """The run after its first call, and why it is no CUDA graph, '' if it is one or that is not known."""
    run = ours.build()
    try:
        run(0)
    except RuntimeError:
        reason = getattr(getattr(run, "step", None), "reason", "")
        if not reason:
            raise
        run(0)  # eagerly
        return run, reason[:300]
    step = getattr(run, "step", None)
    return run, step.reason if step is not None else ""


def _profiled(run: Run, say: Say) -> dict:
    """Launches and kernels of a call; nothing where the profiler does not work, which is said."""
    try:
        kernels = kernels_of(lambda: run(0))
    except RuntimeError as error:
        say(f"not profiled: {error}")
        return {}
    launches = sum(row["launches"] for row in kernels)
    slowest = ", ".join(f"{row['kernel'][:40]} {row['us']:.0f} us" for row in kernels[:SLOWEST])
    say(f"{launches:.0f} launches; slowest: {slowest}")
    return {"launches": launches, "kernels": kernels[:40]}


def _milliseconds(run: Run, device: torch.device) -> float:
    effort = Effort(0.5, 5, 60) if device.type == "cuda" else Effort(0.0, 1, 1)
    return 1e3 * spread(interleave({"": run}, device, effort)[""]).median
