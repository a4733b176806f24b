"""Where the model's time goes: every stage with the inputs that it has inside the model, and the whole beside them.

All stages take turns, so each finds the caches as the others leave them. The sum of the stages is not exactly the
whole's time: that also checks its arguments, and may find a stage's input in a cache.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache, cached_property, partial

import torch
from torch import Tensor

from benchmarks.harness.contest import OURS, PLAIN, Contestant, Group
from benchmarks.harness.context import DROPOUT, Context
from benchmarks.harness.numerics import Yardstick
from benchmarks.harness.timing import Run
from benchmarks.models.contestants import adamw, batches, our_loss, our_model
from benchmarks.models.parts import WHOLE, Stage, embedding_stages, training_stages
from benchmarks.models.stock import set_dropout
from xmae_fast import xMAE
from xmae_fast.ops.cases import Maker
from xmae_fast.testing import Error

ROLES = {"reference": PLAIN, "auto": OURS}
ADAMW = "AdamW (default; ours: fused)"


def groups(context: Context) -> Iterator[Group]:
    """Inference at batch size 1 and 64 (16 when quick), and training at 64 (not when quick)."""
    for B in (16,) if context.quick else (1, 64):
        yield group(context, B, training=False)
    if not context.quick:
        yield group(context, 64, training=True)


def group(context: Context, B: int, *, training: bool) -> Group:
    """Every stage of `embed`, or forward + backward of every stage of a training step and then the optimiser."""
    stages = _Stages(context, B, training)
    work = "training" if training else "embed"
    return Group(f"stages of {work}: B={B}", stages.contestants(), items=B, unit="samples", not_in_sum=(WHOLE,))


class _Stages:
    """The stages of one kind of work. Inputs come from the reference, so that every implementation gets the same."""

    def __init__(self, context: Context, B: int, training: bool) -> None:
        self.context, self.B, self.training = context, B, training
        self.model = cache(lambda impl: our_model(context, impl, training=training))

    @cached_property
    def stages(self) -> list[Stage]:
        make = training_stages if self.training else embedding_stages
        return make(self.plain, batches(self.context, self.B)[0])

    @cached_property
    def plain(self) -> xMAE:
        return self._without_dropout()

    @cached_property
    def doubles(self) -> xMAE:
        return self._without_dropout().double()

    def _without_dropout(self) -> xMAE:
        """A model of its own: recording and checking leave the timed ones as they are."""
        model = our_model(self.context, "reference", training=self.training)
        set_dropout(model, 0.0)
        return model

    def contestants(self) -> list[Contestant]:
        rows = [self._contestant(stage, impl) for stage in self.stages for impl in ROLES]
        return [*rows, *(self._optimiser(impl) for impl in ROLES)] if self.training else rows

    def _contestant(self, stage: Stage, impl: str) -> Contestant:
        run_of = _backward if self.training else _forward
        return Contestant(
            f"{stage.name}, {impl}",
            lambda: run_of(stage, self.model(impl)),
            lambda run: self._check(stage, impl, run),
            ROLES[impl],
            part=stage.name,
            flops=stage.flops * (3 if self.training else 1),
        )

    def _check(self, stage: Stage, impl: str, run: Run) -> list[Error]:
        """Output and, in training, gradients against float64; with dropout switched off for the moment."""
        run_of = _backward if self.training else _forward
        want = _named(run_of(_double(stage), self.doubles)(0))
        plain = _named(run_of(stage, self.plain)(0))
        set_dropout(self.model(impl), 0.0)
        try:
            return Yardstick(want, plain, torch.float32).check(_named(run(0)))
        finally:
            set_dropout(self.model(impl), DROPOUT)

    def _optimiser(self, impl: str) -> Contestant:
        fused = True if impl == "auto" else None

        def check(_: Run) -> list[Error]:
            want, plain, got = (
                {"parameters": self._stepper(*how).parameters_after_two()}
                for how in ((torch.float64, None), (torch.float32, None), (torch.float32, fused))
            )
            return Yardstick(want, plain, torch.float32).check(got)

        build = partial(self._stepper, torch.float32, fused)
        return Contestant(f"{ADAMW}, {impl}", build, check, ROLES[impl], part=ADAMW)

    def _stepper(self, dtype: torch.dtype, fused: bool | None) -> _Stepper:
        """AdamW on copies of the parameters that pretraining reaches."""
        model = our_model(self.context, "reference", training=True)
        our_loss(model)(batches(self.context, 2)[0])[0].backward()
        return _Stepper([(x, x.grad) for x in model.parameters() if x.grad is not None], dtype, fused)


class _Stepper:
    """AdamW with gradients that stay as they are; calling it makes a step."""

    def __init__(self, pairs: list[tuple[Tensor, Tensor]], dtype: torch.dtype, fused: bool | None) -> None:
        self.parameters = [x.detach().to(dtype, copy=True).requires_grad_() for x, _ in pairs]
        for x, (_, gradient) in zip(self.parameters, pairs, strict=True):
            x.grad = gradient.to(dtype, copy=True)
        self.optimizer = adamw(self.parameters, fused)

    def __call__(self, i: int) -> None:
        self.optimizer.step()

    def parameters_after_two(self) -> Tensor:
        self(0)
        self(1)
        return torch.cat([x.detach().flatten() for x in self.parameters])


def _forward(stage: Stage, model: xMAE) -> Run:
    @torch.no_grad()
    def run(i: int) -> tuple[Tensor, ...]:
        return (stage.run(model, *stage.inputs, *stage.data),)

    return run


def _backward(stage: Stage, model: xMAE) -> Run:
    """Forward, then gradients of a fixed projection of the output with respect to inputs and weights, if there are."""
    inputs = [x.detach().clone().requires_grad_() for x in stage.inputs]

    def forward() -> Tensor:
        return stage.run(model, *inputs, *stage.data)

    output = forward()
    if not output.requires_grad:
        return lambda i: (forward(),)
    cotangent = Maker(1).normal(*output.shape).to(output)
    candidates = [*inputs, *model.parameters()]
    reached = torch.autograd.grad(output, candidates, cotangent, allow_unused=True)
    leaves = [x for x, gradient in zip(candidates, reached, strict=True) if gradient is not None]

    def run(i: int) -> tuple[Tensor, ...]:
        output = forward()
        return output, *torch.autograd.grad(output, leaves, cotangent)

    return run


def _named(results: tuple[Tensor, ...]) -> dict[str, Tensor]:
    output, *gradients = (x.detach().clone() for x in results)
    named = {"output": output}
    return named | {"gradient": torch.cat([x.flatten() for x in gradients])} if gradients else named


def _double(stage: Stage) -> Stage:
    def cast(x: Tensor) -> Tensor:
        return x.double() if x.is_floating_point() else x

    return stage._replace(inputs=tuple(map(cast, stage.inputs)), data=tuple(map(cast, stage.data)))
