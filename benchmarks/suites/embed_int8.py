"""Embeddings on a CPU in int8, for information: ours is the export under ONNX Runtime; all are checked by cosine."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import torch
from torch import Tensor

from benchmarks.harness.contest import BASELINE, OURS, PLAIN, Contestant, Group
from benchmarks.harness.numerics import check_cosine
from benchmarks.harness.timing import Run
from benchmarks.models.quantised import nncf_openvino, static_qdq, without_nncf
from benchmarks.models.runtimes import (
    ONNX_RUNTIME,
    OPENVINO,
    Embedding,
    OpenVINO,
    not_installed,
    onnx_runtime,
    openvino,
)
from benchmarks.suites.inference import Inference
from xmae_fast.export.checking import MAX_COSINE_DISTANCE
from xmae_fast.testing import Error, relative_error

CALIBRATING = 64  # segments


def group(inference: Inference) -> Group:
    """The contest of one batch size, which has no headline."""
    return _Int8(inference).group()


class _Int8:
    def __init__(self, inference: Inference) -> None:
        self.inference, self.B = inference, inference.B
        self.said: dict[str, str] = {}  # by contestant, once it is built

    def group(self) -> Group:
        B = self.B
        rows = [
            self._row(f"{ONNX_RUNTIME}, static QDQ, plain export", lambda: onnx_runtime(self._plain), role=PLAIN),
            self._row(f"{ONNX_RUNTIME}, static QDQ, Conv2d stem", lambda: onnx_runtime(self._two_dimensional)),
            self._row(f"{OPENVINO}, static QDQ, Conv2d stem", lambda: openvino(self._two_dimensional, precision="")),
            self._row(f"{OPENVINO}, static QDQ, xmae-fast export", lambda: openvino(self._ours, precision="")),
            self._row(f"{OPENVINO}, NNCF, Conv2d stem", lambda: self._nncf(self.inference.onnx(True, B))),
            self._row(f"{OPENVINO}, NNCF, xmae-fast export", lambda: self._nncf(self.inference.our_onnx)),
            self._row(f"xmae-fast export, int8: {ONNX_RUNTIME}", lambda: onnx_runtime(self._ours), role=OURS),
        ]
        return self.inference.group("int8", rows, informative=True)

    @cached_property
    def _segments(self) -> Tensor:
        """Those that calibrate: the last ones, which are not among the first batches unless there are few."""
        ppg = self.inference.context.segments[0]
        return ppg[torch.arange(-max(self.B, CALIBRATING), 0) % len(ppg)]

    @cached_property
    def _plain(self) -> bytes:
        return static_qdq(self.inference.onnx(False, self.B), self._segments, self.B)

    @cached_property
    def _two_dimensional(self) -> bytes:
        return static_qdq(self.inference.onnx(True, self.B), self._segments, self.B)

    @cached_property
    def _ours(self) -> bytes:
        return static_qdq(self.inference.our_onnx, self._segments, self.B)

    def _nncf(self, onnx: bytes) -> OpenVINO:
        return nncf_openvino(onnx, self._segments, self.B)

    def _row(self, name: str, start: Callable[[], Embedding], role: str = BASELINE) -> Contestant:
        def build() -> Run:
            embedding = start()
            if isinstance(embedding, OpenVINO):
                self.said[name] = f"INFERENCE_PRECISION_HINT of the other layers is {embedding.precision}"
            return self.inference.run(lambda batch: embedding(batch.ppg))

        left_out = self._missing(name) or self.inference.context.left_out("quick")
        return Contestant(name, build, self._check, role, left_out=left_out, remark=lambda: self.said.get(name, ""))

    def _missing(self, name: str) -> str:
        if "NNCF" in name:
            return without_nncf()
        return (not_installed(OPENVINO) if OPENVINO in name else "") or not_installed(ONNX_RUNTIME)

    def _check(self, run: Run) -> list[Error]:
        got, want = self.inference.results(run), self.inference.doubles
        distance = check_cosine(got, want, MAX_COSINE_DISTANCE["int8"])
        return [Error("embedding", relative_error(got, want), 1.0), *distance]
