"""Embeddings on a CPU in bfloat16: our kernels under autocast, OpenVINO as installed, and what PyTorch offers."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property, partial

import torch
from torch import Tensor

from benchmarks.harness.contest import BASELINE, OURS, PLAIN, Contestant, Group
from benchmarks.harness.numerics import Yardstick, check_cosine
from benchmarks.harness.timing import Run
from benchmarks.models.bfloat16 import Ours, by_mkldnn, kernels_of_ours
from benchmarks.models.runtimes import OPENVINO, OpenVINO, not_installed, openvino, openvino_streams
from benchmarks.models.stock import compiled
from benchmarks.suites.inference import STREAMED, Inference, Work
from xmae_fast.testing import Error

COSINE = 1e-4  # the largest distance that is allowed for a segment
BFLOAT16 = "bfloat16"


def group(inference: Inference) -> Group:
    """The contest of one batch size; where nothing here multiplies in bfloat16, one row says so instead."""
    return _Bfloat16(inference).group()


class _Bfloat16:
    """Every row must be within twice the error of the plain model under autocast, and have its cosines."""

    def __init__(self, inference: Inference) -> None:
        self.inference, self.context, self.B = inference, inference.context, inference.B
        self.said: dict[str, str] = {}  # by contestant, once it is built

    def group(self) -> Group:
        if reason := self.context.without_bfloat16():
            return self.inference.group(BFLOAT16, [self._row("all of it", self.inference.plain, left_out=reason)])
        rows = [
            self._row("published-style model, autocast", self.inference.plain, role=PLAIN),
            *self._baselines(),
            *self._openvino(),
            self._ours(),
        ]
        return self.inference.group(BFLOAT16, rows)

    def _baselines(self) -> list[Contestant]:
        """PyTorch under autocast: as published and with the stem as channels-last Conv2d, compiled in three ways."""
        inference, rows = self.inference, []
        tuned = "all" if self.B == 1 else "default"
        ways = (
            ("torch.compile", {}, "default"),
            ("torch.compile, freezing", {"freezing": True}, "default"),
            ("torch.compile, freezing, autotune", {"freezing": True, "tuned": True}, tuned),
        )
        for name, make in (("published-style", inference.plain), ("channels-last", inference.stock)):
            if make == inference.stock:
                rows.append(self._row(f"stock: {name}, SDPA, autocast", make))
            for how, options, level in ways:
                work = partial(_compiled, make, options)
                rows.append(self._row(f"{name}, {how}", work, left_out=self.context.left_out(level)))
        return [*rows, self._row("stock: float32, mkldnn fp32_precision=bf16", self._float32, within=by_mkldnn)]

    def _float32(self) -> Work:
        """Stock float32, if oneDNN heeds its switch on this processor."""
        stock = self.inference.stock()
        with torch.no_grad():
            exact = stock(self.inference.batches[0])
            with by_mkldnn():
                if torch.equal(stock(self.inference.batches[0]), exact):
                    raise RuntimeError("mkldnn's fp32_precision changes nothing here, so this is float32")
        return stock

    def _openvino(self) -> list[Contestant]:
        """OpenVINO without a hint of precision, from three exports; ours is compiled for this batch size alone."""
        inference, B, L = self.inference, self.B, self.context.cfg.seq_len

        def ours(rows: int, start: Callable) -> Callable[[], OpenVINO]:
            shapes = {"ppg": [rows, L]}
            return lambda: start(inference.our_onnx, precision="", shapes=shapes)

        def plain(two_dimensional: bool, rows: int, start: Callable) -> Callable[[], OpenVINO]:
            return lambda: start(inference.onnx(two_dimensional, rows), precision="")

        starts = [
            ("as installed", plain(False, B, openvino)),
            ("as installed, Conv2d stem", plain(True, B, openvino)),
            ("as installed, xmae-fast export", ours(B, openvino)),
        ]
        if B > STREAMED and B % STREAMED == 0:
            streams = partial(openvino_streams, rows=STREAMED, B=B)
            starts += [
                (f"Conv2d stem, streams of {STREAMED}", plain(True, STREAMED, streams)),
                (f"xmae-fast export, streams of {STREAMED}", ours(STREAMED, streams)),
            ]
        return [self._runtime(f"{OPENVINO}, {name}", start) for name, start in starts]

    def _runtime(self, name: str, start: Callable[[], OpenVINO]) -> Contestant:
        def make() -> Work:
            embedding = start()
            self.said[name] = f"INFERENCE_PRECISION_HINT is {embedding.precision}"
            if embedding.precision != "bf16":
                raise RuntimeError(f"it is not of this class here: {self.said[name]}, as OpenVINO chose")
            return lambda batch: embedding(batch.ppg)

        return self._row(name, make, left_out=not_installed(OPENVINO) or self.context.left_out("quick"))

    def _ours(self) -> Contestant:
        """Ours under autocast; named after the instruction set of its kernels."""
        name = ", ".join(filter(None, ["xmae_fast impl=auto, frozen", kernels_of_ours() or "float32 kernels"]))
        ours = Ours(lambda: self.inference.run(self.inference.ours("auto", frozen=True), self.context.bfloat16))
        return Contestant(name, ours.build, self._check, OURS, remark=ours.remark, stands=ours.stands)

    def _row(
        self,
        name: str,
        make: Callable[[], Work],
        *,
        role: str = BASELINE,
        within: Callable | None = None,
        left_out: str = "",
    ) -> Contestant:
        def build() -> Run:
            return self.inference.run(make(), within or self.context.bfloat16)

        remark = (lambda: self.said[name]) if name.startswith(OPENVINO) else None
        return Contestant(name, build, self._check, role, left_out=left_out, remark=remark)

    @cached_property
    def _yardstick(self) -> Yardstick:
        plain = self.inference.results(self.inference.run(self.inference.plain(), self.context.bfloat16))
        return Yardstick({"embedding": self.inference.doubles}, {"embedding": plain}, torch.bfloat16, units=0)

    def _check(self, run: Run) -> list[Error]:
        got: Tensor = self.inference.results(run)
        return self._yardstick.check({"embedding": got}) + check_cosine(got, self.inference.doubles, COSINE)


def _compiled(make: Callable[[], Work], options: dict[str, bool]) -> Work:
    return compiled(make(), **options)
