"""Inference: embeddings of PPG, and reconstruction of masked ECG in evaluation mode."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from benchmarks.harness.contest import BASELINE, INFO, OURS, PLAIN, Contestant, Group, by_worth
from benchmarks.harness.context import ROTATION, Context
from benchmarks.harness.counts import embed_flops, forward_flops
from benchmarks.harness.numerics import Yardstick, check_another_precision, check_same_maths
from benchmarks.harness.timing import Run
from benchmarks.models.contestants import Batch, batches, our_model, our_reconstruction, plain_model
from benchmarks.models.runtimes import (
    ONNX_RUNTIME,
    OPENVINO,
    Embedding,
    export_embed,
    not_installed,
    onnx_runtime,
    openvino,
    openvino_streams,
)
from benchmarks.models.stock import compiled, forget_compiled, stock_model
from xmae_fast.export.graphs import make_graph
from xmae_fast.export.onnx_file import to_onnx
from xmae_fast.testing import Error, several_roundings

Work = Callable[[Batch], Tensor]
STREAMED = 8  # samples of one request where a batch is divided
SETTLE_S = 0.01  # threads of libgomp and of the other runtimes go on spinning for some milliseconds


class Levels(NamedTuple):
    """The least --compile level at which each compiled baseline is run."""

    plain: str
    tuned: str
    most_tuned: str
    stock: str


LEVELS = {
    ("embed", "one"): Levels("default", "default", "all", "default"),
    ("embed", "large"): Levels("default", "default", "default", "quick"),
    ("forward", "one"): Levels("all", "all", "all", "all"),
    ("forward", "large"): Levels("all", "all", "all", "default"),
}


def groups(context: Context) -> Iterator[Group]:
    """`embed` and the forward, at batch size 1 and at a large one; on a GPU, whose run may be cut off, that first."""
    on_gpu = context.device.type == "cuda"
    large = 16 if context.quick else 512 if on_gpu else 64
    for (work, size), levels in sorted(LEVELS.items(), key=lambda item: on_gpu and item[0][1] == "one"):
        forget_compiled()
        yield _Inference(context, work, large if size == "large" else 1, levels).group()


def group(context: Context, work: str, B: int) -> Group:
    """The contest of one batch size; `work` is "embed" or "forward"."""
    return _Inference(context, work, B, LEVELS[work, "large" if B > 1 else "one"]).group()


class _Inference:
    """One batch size of one kind of work, with its float64 results."""

    def __init__(self, context: Context, work: str, B: int, levels: Levels) -> None:
        self.context, self.work, self.B, self.levels = context, work, B, levels
        self.exported: dict[tuple[bool, int], bytes] = {}

    @cached_property
    def batches(self) -> list[Batch]:
        return batches(self.context, self.B)

    def group(self) -> Group:
        cfg, B, on_cpu = self.context.cfg, self.B, self.context.device.type == "cpu"
        ours = "xmae_fast impl=auto, frozen" if on_cpu else "xmae_fast impl=auto"
        contestants = [
            Contestant("published-style model", lambda: self._run(self._plain()), self._check_plain, PLAIN),
            *self._baselines(),
            *(self._other_runtimes() if self.work == "embed" and on_cpu else []),
            *(self._information() if self.work == "embed" and on_cpu and B > 1 else []),
            Contestant(ours, lambda: self._run(self._ours("auto", frozen=on_cpu)), self._check, OURS),
        ]
        return Group(
            title=f"{self.work}: B={B}",
            contestants=contestants if on_cpu else by_worth(contestants),
            items=B,
            unit="embeddings" if self.work == "embed" else "samples",
            flops=embed_flops(cfg, B) if self.work == "embed" else forward_flops(cfg, B, self.context.kept),
            settle_s=SETTLE_S if self.work == "embed" and on_cpu else 0.0,
        )

    def _baselines(self) -> list[Contestant]:
        """What PyTorch offers; freezing folds BatchNorm and packs weights on a CPU, max-autotune tries kernels."""
        levels, cuda = self.levels, self.context.device.type == "cuda"

        def compile_reference(**how: bool) -> Callable[[], Work]:
            return lambda: compiled(self._ours("reference"), **how)

        if cuda:
            tuned = [("torch.compile, max-autotune", compile_reference(tuned=True), levels.tuned)]
        else:
            tuned = [
                ("torch.compile, freezing", compile_reference(freezing=True), levels.tuned),
                ("torch.compile, freezing, autotune", compile_reference(freezing=True, tuned=True), levels.most_tuned),
            ]
        rows = [
            ("xmae_fast impl=reference", lambda: self._ours("reference"), "none"),
            ("torch.compile of reference", compile_reference(), levels.plain),
            *tuned,
            ("stock: channels-last, SDPA", self._stock, "none"),
            ("stock: the same + torch.compile", lambda: compiled(self._stock(), tuned=cuda), levels.stock),
        ]
        return [self._baseline(*row) for row in rows]

    def _other_runtimes(self) -> list[Contestant]:
        """Each from the plain model, from the one whose stem is two-dimensional, which their kernels prefer, and from
        what `xmae-fast export` writes."""
        rows = []
        for runtime, start in ((ONNX_RUNTIME, onnx_runtime), (OPENVINO, openvino)):
            least = "quick" if runtime == ONNX_RUNTIME and self.B > 1 else "default"
            rows += [
                (runtime, runtime, lambda start=start: start(self._onnx(False, self.B)), "default"),
                (f"{runtime}, Conv2d stem", runtime, lambda start=start: start(self._onnx(True, self.B)), least),
                (f"{runtime}, xmae-fast export", runtime, lambda start=start: start(self._our_onnx), "default"),
            ]
        if self.B > STREAMED and self.B % STREAMED == 0:
            name = f"{OPENVINO}, the same, streams of {STREAMED}"
            row = name, OPENVINO, lambda: openvino_streams(self._onnx(True, STREAMED), STREAMED, self.B), "default"
            rows.append(row)
        return [self._runtime(*row) for row in rows]

    def _runtime(self, name: str, runtime: str, start: Callable[[], Embedding], level: str) -> Contestant:
        def build() -> Run:
            embedding = start()
            return self._run(lambda batch: embedding(batch.ppg))

        left_out = not_installed(runtime) or self.context.left_out(level)
        return Contestant(name, build, self._check, BASELINE, left_out=left_out)

    def _onnx(self, two_dimensional: bool, B: int) -> bytes:
        """The exported model for B samples; made once."""
        key = two_dimensional, B
        if key not in self.exported:
            plain = plain_model(self.context)
            model = stock_model(plain) if two_dimensional else plain
            self.exported[key] = export_embed(model, B, self.context.cfg.seq_len)
        return self.exported[key]

    @cached_property
    def _our_onnx(self) -> bytes:
        """The file of `xmae-fast export`, whose batch size is free."""
        model = our_model(self.context, "reference")
        return to_onnx(make_graph(model, "embed"), model.cfg).SerializeToString()

    def _information(self) -> list[Contestant]:
        """Stock PyTorch in bfloat16 autocast, on a CPU; a GPU's run is in bfloat16 anyway."""

        def row(name: str, make: Callable[[], Work], level: str) -> Contestant:
            def build() -> Run:
                return self._run(make(), self.context.bfloat16)

            left_out = self.context.without_bfloat16() or self.context.left_out(level)
            return Contestant(f"info, bfloat16: {name}", build, self._check_bfloat16, INFO, left_out=left_out)

        return [
            row("published-style model", self._plain, "none"),
            row("stock + torch.compile", lambda: compiled(self._stock()), "default"),
        ]

    def _baseline(self, name: str, make: Callable[[], Work], level: str) -> Contestant:
        left_out = self.context.left_out(level)
        return Contestant(name, lambda: self._run(make()), self._check, BASELINE, left_out=left_out)

    def _ours(self, impl: str, *, frozen: bool = False) -> Work:
        """frozen: weights are watched instead of read at every call; other runtimes never read them again."""
        model = our_model(self.context, impl)
        return self._work_of(model.freeze() if frozen else model)

    def _plain(self) -> Work:
        return self._work_of(plain_model(self.context))

    def _stock(self) -> Work:
        return self._work_of(stock_model(plain_model(self.context)))

    def _work_of(self, model: torch.nn.Module) -> Work:
        if self.work == "embed":
            return lambda batch: model.embed(batch.ppg)
        if hasattr(model, "impl"):
            reconstruct = our_reconstruction(model)
            return lambda batch: reconstruct(batch)[0]
        return lambda batch: model(*batch)[0]

    def _run(self, work: Work, autocast: Callable[[], torch.autocast] | None = None) -> Run:
        @torch.no_grad()
        def run(i: int) -> Tensor:
            with (autocast or self.context.autocast)():
                return work(self.batches[i % ROTATION])

        return run

    @cached_property
    def _results(self) -> tuple[dict[str, Tensor], dict[str, Tensor], list[dict[str, Tensor]]]:
        """float64 results of ours and of the plain model, and the plain model's in the precision of the run, in each of
        the ways to round."""
        batch = self.batches[0].double()
        with torch.no_grad():
            want = self._work_of(our_model(self.context, "reference").double())(batch)
            plain64 = self._work_of(plain_model(self.context).double())(batch)
        name = "prediction"
        plain = self._run(self._plain())
        runs = list(several_roundings(lambda: {name: plain(0).clone()}, draws=1))
        return {name: want}, {name: plain64}, runs

    def _check(self, run: Run) -> list[Error]:
        want, _, plain = self._results
        return Yardstick(want, plain, self.context.dtype).check({"prediction": run(0).clone()})

    def _check_bfloat16(self, run: Run) -> list[Error]:
        return check_another_precision({"prediction": run(0).clone()}, self._results[0])

    def _check_plain(self, run: Run) -> list[Error]:
        want, plain64, plain = self._results
        return self._check(run) + check_same_maths(plain64, want, plain)
