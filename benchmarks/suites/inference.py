"""What all contests of inference share: inputs, models, exports and float64 results of one batch size."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.harness.contest import Contestant, Group
from benchmarks.harness.context import ROTATION, Context
from benchmarks.harness.counts import embed_flops, forward_flops
from benchmarks.harness.timing import Run
from benchmarks.models.contestants import Batch, batches, our_model, our_reconstruction, plain_model
from benchmarks.models.runtimes import export_embed
from benchmarks.models.stock import stock_model
from xmae_fast.export.graphs import make_graph
from xmae_fast.export.onnx_file import to_onnx

Work = Callable[[Batch], Tensor]
STREAMED = 8  # samples of one request where a batch is divided
SETTLE_S = 0.01  # threads of libgomp and of the other runtimes go on spinning for some milliseconds


class Inference:
    """One batch size of one kind of work, `embed` or `forward`, for every class of precision."""

    def __init__(self, context: Context, work: str, B: int) -> None:
        self.context, self.work, self.B = context, work, B
        self.exported: dict[tuple[bool, int], bytes] = {}

    @property
    def on_cpu(self) -> bool:
        return self.context.device.type == "cpu"

    @cached_property
    def batches(self) -> list[Batch]:
        return batches(self.context, self.B)

    def group(self, precision: str, contestants: list[Contestant], **about: Any) -> Group:
        """A contest in one class of precision; the title names it unless it is that of the run."""
        cfg, B = self.context.cfg, self.B
        of_the_run = precision == str(self.context.dtype).removeprefix("torch.")
        return Group(
            title=f"{self.work}: B={B}" if of_the_run else f"{self.work}, {precision}: B={B}",
            contestants=contestants,
            items=B,
            unit="embeddings" if self.work == "embed" else "samples",
            flops=embed_flops(cfg, B) if self.work == "embed" else forward_flops(cfg, B, self.context.kept),
            precision=precision,
            settle_s=SETTLE_S if self.work == "embed" and self.on_cpu else 0.0,
            **about,
        )

    def ours(self, impl: str, *, frozen: bool = False) -> Work:
        """frozen: weights are watched instead of read at every call; other runtimes never read them again."""
        model = our_model(self.context, impl)
        return self.work_of(model.freeze() if frozen else model)

    def plain(self) -> Work:
        return self.work_of(plain_model(self.context))

    def stock(self) -> Work:
        return self.work_of(stock_model(plain_model(self.context)))

    def work_of(self, model: nn.Module) -> Work:
        if self.work == "embed":
            return lambda batch: model.embed(batch.ppg)
        if hasattr(model, "impl"):
            reconstruct = our_reconstruction(model)
            return lambda batch: reconstruct(batch)[0]
        return lambda batch: model(*batch)[0]

    def run(self, work: Work, within: Callable[[], AbstractContextManager] | None = None) -> Run:
        """What is timed: `work` on one batch after the other, within the autocast of the run or another context."""

        @torch.no_grad()
        def run(i: int) -> Tensor:
            with (within or self.context.autocast)():
                return work(self.batches[i % ROTATION])

        return run

    def results(self, run: Run) -> Tensor:
        """Those of all batches, so that luck with a single segment does not decide at B = 1."""
        return torch.cat([run(i).clone() for i in range(ROTATION)])

    @cached_property
    def doubles(self) -> Tensor:
        """Ours of all batches in float64."""
        work = self.work_of(our_model(self.context, "reference").double())
        with torch.no_grad():
            return torch.cat([work(batch.double()) for batch in self.batches])

    def onnx(self, two_dimensional: bool, B: int) -> bytes:
        """The plain model, or the one with a two-dimensional stem, for B samples; exported once."""
        key = two_dimensional, B
        if key not in self.exported:
            plain = plain_model(self.context)
            model = stock_model(plain) if two_dimensional else plain
            self.exported[key] = export_embed(model, B, self.context.cfg.seq_len)
        return self.exported[key]

    @cached_property
    def our_onnx(self) -> bytes:
        """The file of `xmae-fast export`, whose batch size is free."""
        model = our_model(self.context, "reference")
        return to_onnx(make_graph(model, "embed"), model.cfg).SerializeToString()


def warm_and_after_other_work(group: Group) -> Iterator[Group]:
    """`group`, and the same after other work; what is built serves both and is dropped after the second."""
    built: dict[str, Run] = {}

    def once(contestant: Contestant) -> Contestant:
        def build() -> Run:
            if contestant.name not in built:
                built[contestant.name] = contestant.build()
            return built[contestant.name]

        return replace(contestant, build=build)

    contestants = [once(one) for one in group.contestants]
    yield replace(group, contestants=contestants)
    contestants = [one for one in contestants if not one.left_out]  # they are listed with the first
    about = {"title": f"{group.title}, after other work", "settle_s": 0.0, "after_other_work": True}
    yield replace(group, contestants=contestants, **about)
    built.clear()
