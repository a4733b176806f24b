"""Inference: embeddings of PPG, and reconstruction of masked ECG in evaluation mode.

On a CPU embeddings have a contest in each of three classes of precision: float32 here, bfloat16 and int8 in modules of
their own. At B = 1 the first two are timed twice, warm and after other work.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from benchmarks.harness.contest import BASELINE, OURS, PLAIN, Contestant, Group, by_worth
from benchmarks.harness.context import Context
from benchmarks.harness.numerics import Yardstick, check_same_maths
from benchmarks.harness.timing import Run
from benchmarks.models.contestants import our_model, plain_model
from benchmarks.models.runtimes import (
    ONNX_RUNTIME,
    OPENVINO,
    Embedding,
    not_installed,
    onnx_runtime,
    openvino,
    openvino_streams,
)
from benchmarks.models.stock import compiled, forget_compiled
from benchmarks.suites import embed_bfloat16, embed_int8
from benchmarks.suites.inference import STREAMED, Inference, Work, warm_and_after_other_work
from xmae_fast.testing import Error, several_roundings


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
        inference = Inference(context, work, large if size == "large" else 1)
        forget_compiled()
        group = _OfTheRun(inference, levels).group()
        if on_gpu or work != "embed":
            yield group
            continue
        yield from _each_time(group)
        forget_compiled()
        yield from _each_time(embed_bfloat16.group(inference))
        yield embed_int8.group(inference)


def _each_time(group: Group) -> Iterator[Group]:
    """One call is timed warm and after other work; a large batch brings its own caches' contents with it."""
    if group.items == 1 and any(not one.left_out for one in group.contestants):
        return warm_and_after_other_work(group)
    return iter([group])


def group(context: Context, work: str, B: int) -> Group:
    """The contest of one batch size in the precision of the run; `work` is "embed" or "forward"."""
    return _OfTheRun(Inference(context, work, B), LEVELS[work, "large" if B > 1 else "one"]).group()


class _OfTheRun:
    """The class of precision that the run has: float32 on a CPU, bfloat16 on a GPU."""

    def __init__(self, inference: Inference, levels: Levels) -> None:
        self.inference, self.levels, self.context = inference, levels, inference.context

    def group(self) -> Group:
        inference, on_cpu = self.inference, self.inference.on_cpu
        ours = "xmae_fast impl=auto, frozen" if on_cpu else "xmae_fast impl=auto"
        contestants = [
            Contestant("published-style model", lambda: inference.run(inference.plain()), self._check_plain, PLAIN),
            *self._baselines(),
            *(self._other_runtimes() if inference.work == "embed" and on_cpu else []),
            Contestant(ours, lambda: inference.run(inference.ours("auto", frozen=on_cpu)), self._check, OURS),
        ]
        precision = str(self.context.dtype).removeprefix("torch.")
        return inference.group(precision, contestants if on_cpu else by_worth(contestants))

    def _baselines(self) -> list[Contestant]:
        """What PyTorch offers; freezing folds BatchNorm and packs weights on a CPU, max-autotune tries kernels."""
        inference, levels, cuda = self.inference, self.levels, self.context.device.type == "cuda"

        def reference() -> Work:
            return inference.ours("reference")

        def compile_reference(**how: bool) -> Callable[[], Work]:
            return lambda: compiled(reference(), **how)

        if cuda:
            tuned = [("torch.compile, max-autotune", compile_reference(tuned=True), levels.tuned)]
        else:
            tuned = [
                ("torch.compile, freezing", compile_reference(freezing=True), levels.tuned),
                ("torch.compile, freezing, autotune", compile_reference(freezing=True, tuned=True), levels.most_tuned),
            ]
        rows = [
            ("xmae_fast impl=reference", reference, "none"),
            ("torch.compile of reference", compile_reference(), levels.plain),
            *tuned,
            ("stock: channels-last, SDPA", inference.stock, "none"),
            ("stock: the same + torch.compile", lambda: compiled(inference.stock(), tuned=cuda), levels.stock),
        ]
        return [self._baseline(*row) for row in rows]

    def _other_runtimes(self) -> list[Contestant]:
        """Each from the plain model, from the one whose stem is two-dimensional, which their kernels prefer, and from
        what `xmae-fast export` writes."""
        inference, rows = self.inference, []
        onnx, B = inference.onnx, inference.B
        for runtime, start in ((ONNX_RUNTIME, onnx_runtime), (OPENVINO, openvino)):
            least = "quick" if runtime == ONNX_RUNTIME and B > 1 else "default"
            rows += [
                (runtime, runtime, lambda start=start: start(onnx(False, B)), "default"),
                (f"{runtime}, Conv2d stem", runtime, lambda start=start: start(onnx(True, B)), least),
                (f"{runtime}, xmae-fast export", runtime, lambda start=start: start(inference.our_onnx), "default"),
            ]
        if B > STREAMED and B % STREAMED == 0:
            name = f"{OPENVINO}, the same, streams of {STREAMED}"
            row = name, OPENVINO, lambda: openvino_streams(onnx(True, STREAMED), STREAMED, B), "default"
            rows.append(row)
        return [self._runtime(*row) for row in rows]

    def _runtime(self, name: str, runtime: str, start: Callable[[], Embedding], level: str) -> Contestant:
        def build() -> Run:
            embedding = start()
            return self.inference.run(lambda batch: embedding(batch.ppg))

        left_out = not_installed(runtime) or self.context.left_out(level)
        return Contestant(name, build, self._check, BASELINE, left_out=left_out)

    def _baseline(self, name: str, make: Callable[[], Work], level: str) -> Contestant:
        left_out = self.context.left_out(level)
        return Contestant(name, lambda: self.inference.run(make()), self._check, BASELINE, left_out=left_out)

    @cached_property
    def _results(self) -> tuple[dict[str, Tensor], dict[str, Tensor], list[dict[str, Tensor]]]:
        """float64 results of ours and of the plain model, and the plain model's in the precision of the run, in each of
        the ways to round."""
        inference, batch = self.inference, self.inference.batches[0].double()
        with torch.no_grad():
            want = inference.work_of(our_model(self.context, "reference").double())(batch)
            plain64 = inference.work_of(plain_model(self.context).double())(batch)
        name = "prediction"
        plain = inference.run(inference.plain())
        runs = list(several_roundings(lambda: {name: plain(0).clone()}, draws=1))
        return {name: want}, {name: plain64}, runs

    def _check(self, run: Run) -> list[Error]:
        want, _, plain = self._results
        return Yardstick(want, plain, self.context.dtype).check({"prediction": run(0).clone()})

    def _check_plain(self, run: Run) -> list[Error]:
        want, plain64, plain = self._results
        return self._check(run) + check_same_maths(plain64, want, plain)
