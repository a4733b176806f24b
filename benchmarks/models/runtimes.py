"""Other inference runtimes on a CPU: `embed`, exported once to ONNX, under ONNX Runtime and OpenVINO in float32."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from xmae_fast.export import onnx_file
from xmae_fast.export.runtimes import ONNX_RUNTIME, OPENVINO, PACKAGES, installed, onnx_session, openvino_model

__all__ = ["ONNX_RUNTIME", "OPENVINO", "Embedding", "export_embed", "not_installed", "onnx_runtime", "openvino"]
Embedding = Callable[[Tensor], Tensor]  # ppg [B, L] -> [B, proj_dim]


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


def onnx_runtime(onnx: bytes) -> Embedding:
    """All of torch's threads within a call."""
    session = onnx_session(onnx)
    name = session.get_inputs()[0].name
    return lambda ppg: torch.from_numpy(session.run(None, {name: ppg.numpy()})[0])


def openvino(onnx: bytes) -> Embedding:
    """One call at a time on all of torch's threads."""
    request = openvino_model(onnx).create_infer_request()

    def run(ppg: Tensor) -> Tensor:
        return torch.from_numpy(request.infer([ppg.numpy()], share_inputs=True, share_outputs=True)[0])

    return run


def openvino_streams(onnx: bytes, rows: int, B: int) -> Embedding:
    """B rows as B / rows requests, one stream per thread: no thread waits for another within a request.

    `onnx` is exported for `rows`.
    """
    from openvino import AsyncInferQueue

    queue = AsyncInferQueue(openvino_model(onnx, "THROUGHPUT", torch.get_num_threads()))
    results: list[Tensor] = [torch.empty(0)] * (B // rows)

    def finished(request, index: int) -> None:
        results[index] = torch.from_numpy(request.get_output_tensor().data.copy())

    queue.set_callback(finished)

    def run(ppg: Tensor) -> Tensor:
        for index, part in enumerate(ppg.split(rows)):
            queue.start_async([part.numpy()], index, share_inputs=True)
        queue.wait_all()
        return torch.cat(results)

    return run
