"""Other inference runtimes on a CPU: `embed`, exported once to ONNX, under ONNX Runtime and OpenVINO."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from xmae_fast.export import onnx_file
from xmae_fast.export.runtimes import ONNX_RUNTIME, OPENVINO, PACKAGES, installed, onnx_session, openvino_model

__all__ = ["ONNX_RUNTIME", "OPENVINO", "Embedding", "export_embed", "not_installed", "onnx_runtime", "openvino"]
Embedding = Callable[[Tensor], Tensor]  # ppg [B, L] -> [B, proj_dim]
Onnx = bytes | str | os.PathLike  # a file's contents, or a file


def not_installed(runtime: str) -> str:
    """Which packages `runtime` lacks and how to get them, or ''."""
    missing = [name for name in (PACKAGES[runtime], *onnx_file.PACKAGES) if not installed(name)]
    return f"not installed: {', '.join(missing)}; pip install xmae-fast[bench]" if missing else ""


class _Embed(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, ppg: Tensor) -> Tensor:
        return self.model.embed(ppg)


def export_embed(model: nn.Module, B: int, L: int) -> bytes:
    """`model.embed` in evaluation mode for [B, L], and no other shape, as an ONNX file's contents."""
    example, opset = (torch.zeros(B, L),), onnx_file.OPSET
    with torch.no_grad(), onnx_file.quiet_exporter():
        program = torch.onnx.export(_Embed(model).eval(), example, opset_version=opset, verbose=False)
    return program.model_proto.SerializeToString()


def onnx_runtime(onnx: Onnx) -> Embedding:
    """All of torch's threads within a call."""
    session = onnx_session(onnx)
    name = session.get_inputs()[0].name
    return lambda ppg: torch.from_numpy(session.run(None, {name: ppg.numpy()})[0])


class OpenVINO:
    """An Embedding by a compiled model.

    Attributes:
        precision: in which it computes floating-point layers, as its INFERENCE_PRECISION_HINT says: "f32", "bf16", ...
    """

    def __init__(self, compiled: Any, run: Embedding) -> None:
        self.precision: str = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
        self.run = run

    def __call__(self, ppg: Tensor) -> Tensor:
        return self.run(ppg)


def openvino(onnx: Onnx, precision: str = "f32", shapes: Mapping[str, list[int]] | None = None) -> OpenVINO:
    """One call at a time on all of torch's threads.

    Args:
        precision: "" leaves the choice to OpenVINO.
        shapes: of inputs by name, for which alone it is compiled; None for those of the file.
    """
    compiled = openvino_model(onnx, shapes=shapes, precision=precision)
    request = compiled.create_infer_request()

    def run(ppg: Tensor) -> Tensor:
        return torch.from_numpy(request.infer([ppg.numpy()], share_inputs=True, share_outputs=True)[0])

    return OpenVINO(compiled, run)


def openvino_streams(
    onnx: Onnx, rows: int, B: int, precision: str = "f32", shapes: Mapping[str, list[int]] | None = None
) -> OpenVINO:
    """B rows as B / rows requests, one stream per thread: no thread waits for another within a request.

    `onnx` is exported for `rows`, or for any number if `shapes` says so.
    """
    from openvino import AsyncInferQueue

    compiled = openvino_model(onnx, "THROUGHPUT", torch.get_num_threads(), shapes, precision)
    queue = AsyncInferQueue(compiled)
    results: list[Tensor] = [torch.empty(0)] * (B // rows)

    def finished(request, index: int) -> None:
        results[index] = torch.from_numpy(request.get_output_tensor(0).data.copy())

    queue.set_callback(finished)

    def run(ppg: Tensor) -> Tensor:
        for index, part in enumerate(ppg.split(rows)):
            queue.start_async([part.numpy()], index, share_inputs=True)
        queue.wait_all()
        return torch.cat(results)

    return OpenVINO(compiled, run)
