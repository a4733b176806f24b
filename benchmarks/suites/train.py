"""The training step: masks, forward, masked MSE, backward, AdamW; dropout 0.1."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cached_property, partial

import torch
from torch import Tensor, nn

from benchmarks.harness.contest import BASELINE, OURS, PLAIN, Contestant, Group, by_worth, peak_bytes
from benchmarks.harness.context import MASK_RATIO, Context
from benchmarks.harness.counts import forward_flops
from benchmarks.harness.numerics import Yardstick, check_same_maths
from benchmarks.harness.peak_memory import peak_in_new_process
from benchmarks.models.bfloat16 import Ours
from benchmarks.models.contestants import (
    Batch,
    GraphedTrainer,
    Loss,
    Trainer,
    batches,
    our_loss,
    our_model,
    plain_loss,
    plain_model,
)
from benchmarks.models.stock import compiled, forget_compiled, published_masks, stock_model
from benchmarks.suites import train_harness
from xmae_fast import available, random_masking
from xmae_fast.testing import Error, several_roundings

Masks = Callable[[], tuple[Tensor, Tensor]]  # ids_keep, ids_restore
MEASURED_FOR_MEMORY = (
    "published style, row-loop masks",
    "stock: channels-last, fused AdamW",
    "xmae_fast impl=auto, fused AdamW",
)


def groups(context: Context) -> Iterator[Group]:
    """One batch size: 64 on a CPU, there also in bfloat16, 512 on a GPU, 8 when quick; the harness of `pretrain`."""
    B = 8 if context.quick else 512 if context.device.type == "cuda" else 64
    forget_compiled()
    yield group(context, B)
    if context.device.type == "cpu":
        forget_compiled()
        yield bfloat16_group(context, B)
    yield from train_harness.groups(context)


def group(context: Context, B: int) -> Group:
    """The contest of one batch size."""
    return _Training(context, B).group()


def bfloat16_group(context: Context, B: int) -> Group:
    """The contest of one batch size under bfloat16 autocast, on a CPU; where nothing here multiplies in bfloat16, one
    row says so instead."""
    return _Bfloat16Training(context, B).group()


class _Training:
    """The contestants of one batch size and their float64 results.

    Every contestant is checked as it is timed, with its dropout rates set to 0 for the moment.
    """

    def __init__(self, context: Context, B: int) -> None:
        self.context, self.B = context, B
        self.autocast = context.autocast

    @cached_property
    def batches(self) -> list[Batch]:
        return batches(self.context, self.B)

    def group(self) -> Group:
        on_cpu = self.context.device.type == "cpu"
        contestants = [
            Contestant("published style, row-loop masks", self._published, self._check_plain, PLAIN),
            self._baseline("published style, vectorised masks", self._plain),
            self._baseline("xmae_fast impl=reference", lambda: self._ours("reference")),
            self._baseline(
                "stock: fused AdamW + torch.compile", lambda: self._stock(False, True), "all" if on_cpu else "default"
            ),
            self._baseline("stock: channels-last, fused AdamW", lambda: self._stock(True, False)),
            self._baseline("stock: the same + torch.compile", lambda: self._stock(True, True), "default"),
            *self._captured_baseline(),
            Contestant("xmae_fast impl=auto, fused AdamW", lambda: self._ours("auto", True), self._check, OURS),
            *self._captured(),
        ]
        if not on_cpu:
            contestants = by_worth(contestants)
        return Group(
            title=f"train: B={self.B}",
            contestants=[self._with_peak(one) if one.name in MEASURED_FOR_MEMORY else one for one in contestants],
            items=self.B,
            unit="samples",
            flops=3 * forward_flops(self.context.cfg, self.B, self.context.kept),
            precision=str(self.context.dtype).removeprefix("torch."),
        )

    def _captured_baseline(self) -> list[Contestant]:
        """On a GPU: kernels chosen by measuring, forward and backward replayed as CUDA graphs."""
        if self.context.device.type == "cpu":
            return []
        name = "stock: the same, max-autotune, CUDA graphs"
        return [self._baseline(name, lambda: self._stock(True, True, tuned=True), "default")]

    def _captured(self) -> list[Contestant]:
        """On a GPU: ours, from masks to optimiser, as one CUDA graph."""
        if self.context.device.type == "cpu":
            return []

        def build(graph: bool = True, impl: str = "auto") -> GraphedTrainer:
            autocast = self.context.dtype if self.context.dtype == torch.bfloat16 else None
            model = our_model(self.context, impl, training=True)
            return GraphedTrainer(model, self.batches, autocast=autocast, graph=graph)

        def peak() -> int:
            """That of the same step without a graph, whose memory lies in a pool of its own."""
            run = build(graph=False)
            run(0)
            return peak_bytes(run, self.context.device)

        contestants = [Contestant("xmae_fast GraphedStep", build, self._check, OURS, peak=peak)]
        if available()["conv_stem"]["cuda"].usable and self.context.dtype == torch.bfloat16:
            impl = "auto, conv_stem=cuda"
            with_stems = partial(build, impl=impl)
            contestants.append(Contestant(f"xmae_fast GraphedStep, impl={impl}", with_stems, self._check, OURS))
        return contestants

    def _baseline(self, name: str, build: Callable[[], Trainer], compile_level: str = "none") -> Contestant:
        left_out = self.context.left_out(compile_level)
        return Contestant(name, build, self._check_baseline, BASELINE, left_out=left_out)

    def _with_peak(self, contestant: Contestant) -> Contestant:
        """Its peak memory is measured too, on a CPU and unless quick (a GPU's counter needs no other process)."""
        if self.context.quick or self.context.device.type != "cpu":
            return contestant
        return replace(contestant, peak=lambda: peak_in_new_process(self.context, __name__, self.B, contestant.name))

    def _published(self) -> Trainer:
        model = plain_model(self.context, training=True)
        return self._trainer(model, plain_loss(model), self._row_loop)

    def _plain(self) -> Trainer:
        model = plain_model(self.context, training=True)
        return self._trainer(model, plain_loss(model), self._vectorised)

    def _ours(self, impl: str, fused: bool | None = None) -> Trainer:
        model = our_model(self.context, impl, training=True)
        masks = self._vectorised if impl == "reference" else self._fast
        return self._trainer(model, our_loss(model), masks, fused)

    def _stock(self, channels_last: bool, compiling: bool, tuned: bool = False) -> Trainer:
        plain = plain_model(self.context, training=True)
        model = stock_model(plain, channels_last=channels_last, compiled=compiling)
        loss = plain_loss(model)
        loss = compiled(loss, tuned=tuned) if compiling else loss
        return self._trainer(model, loss, self._vectorised, fused=True)

    def _trainer(self, model: nn.Module, loss: Loss, masks: Masks, fused: bool | None = None) -> Trainer:
        return Trainer(model, loss, masks, self.batches, fused=fused, autocast=self.autocast)

    def _row_loop(self) -> tuple[Tensor, Tensor]:
        N = self.context.cfg.num_patches
        return published_masks(self.B, N, round(MASK_RATIO * N), "anchor", self.context.device)[1:]

    def _vectorised(self) -> tuple[Tensor, Tensor]:
        return self._masks(rng="exact", impl="reference")

    def _fast(self) -> tuple[Tensor, Tensor]:
        return self._masks()

    def _masks(self, **how: str) -> tuple[Tensor, Tensor]:
        return random_masking(self.B, self.context.cfg.num_patches, MASK_RATIO, device=self.context.device, **how)[1:]

    @cached_property
    def _results(self) -> tuple[dict[str, Tensor], dict[str, Tensor], list[dict[str, Tensor]]]:
        """float64 results of ours and of the plain model, and the plain model's in the precision of the run, in each of
        the ways to round."""
        ours = our_model(self.context, "reference", training=True).double()
        plain = plain_model(self.context, training=True).double()
        doubles = [batch.double() for batch in self.batches[:1]]
        want = Trainer(ours, our_loss(ours), self._vectorised, doubles).probe()
        plain64 = Trainer(plain, plain_loss(plain), self._vectorised, doubles).probe()
        return want, plain64, list(several_roundings(lambda: self._plain().probe(), draws=1))

    def _check(self, run: Trainer) -> list[Error]:
        want, _, plain = self._results
        return Yardstick(want, plain, self.context.dtype).check(run.probe())

    def _check_baseline(self, run: Trainer) -> list[Error]:
        want, _, plain = self._results
        summed = self.batches[0].ppg.numel()
        return Yardstick(want, plain, self.context.dtype).check(run.probe(), summed)

    def _check_plain(self, run: Trainer) -> list[Error]:
        want, plain64, plain = self._results
        return self._check(run) + check_same_maths(plain64, want, plain)


class _Bfloat16Training(_Training):
    """The step under bfloat16 autocast on a CPU.

    Every row must be within twice the error of the published style under autocast, for the prediction and the gradient;
    for the losses, which are single numbers, within twice the larger of these errors.
    """

    def __init__(self, context: Context, B: int) -> None:
        super().__init__(context, B)
        self.autocast = context.bfloat16

    def group(self) -> Group:
        group = replace(super().group(), title=f"train, bfloat16: B={self.B}", precision="bfloat16")
        if reason := self.context.without_bfloat16():
            return replace(group, contestants=[self._row("all of it", self._plain, left_out=reason)])
        default, everything = self.context.left_out("default"), self.context.left_out("all")
        ours = Ours(lambda: self._ours("auto", True))
        rows = [
            self._row("published style, row-loop masks", self._published, PLAIN),
            self._row("published style, vectorised masks", self._plain),
            self._row("stock: Conv1d, fused AdamW", lambda: self._stock(False, False)),
            self._row("stock: Conv1d, the same + torch.compile", lambda: self._stock(False, True), left_out=everything),
            self._row("stock: channels-last, fused AdamW", lambda: self._stock(True, False)),
            self._row("stock: the same + torch.compile", lambda: self._stock(True, True), left_out=default),
            replace(
                self._row("xmae_fast impl=auto, fused AdamW", ours.build, OURS), remark=ours.remark, stands=ours.stands
            ),
        ]
        return replace(group, contestants=rows)

    def _row(self, name: str, build: Callable[[], Trainer], role: str = BASELINE, left_out: str = "") -> Contestant:
        return Contestant(name, build, self._check, role, left_out=left_out)

    @cached_property
    def _yardstick(self) -> Yardstick:
        ours = our_model(self.context, "reference", training=True).double()
        doubles = [batch.double() for batch in self.batches[:1]]
        want = Trainer(ours, our_loss(ours), self._vectorised, doubles).probe()
        return Yardstick(want, self._plain().probe(), torch.bfloat16, units=0)

    def _check(self, run: Trainer) -> list[Error]:
        return self._yardstick.check(run.probe())
