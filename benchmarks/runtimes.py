"""Other inference runtimes on a CPU: `embed`, exported once to ONNX, under ONNX Runtime and OpenVINO in float32."""

from __future__ import annotations

import importlib.util
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache

import torch
from torch import Tensor, nn

Embedding = Callable[[Tensor], Tensor]  # ppg [B, L] -> [B, proj_dim]
ONNX_RUNTIME, OPENVINO = "ONNX Runtime", "OpenVINO"
PACKAGES = {ONNX_RUNTIME: "onnxruntime", OPENVINO: "openvino"}
EXPORTER = ("onnx", "onnxscript")
OPSET = 20  # the first with Gelu; both runtimes have kernels for all of it


def not_installed(runtime: str) -> str:
    """Which packages `runtime` lacks and how to get them, or ''."""
    missing = [name for name in (PACKAGES[runtime], *EXPORTER) if importlib.util.find_spec(name) is None]
    return f"not installed: {', '.join(missing)}; pip install xmae-fast[bench]" if missing else ""


class _Embed(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, ppg: Tensor) -> Tensor:
        return self.model.embed(ppg)


def export_embed(model: nn.Module, B: int, L: int) -> bytes:
    """`model.embed` in evaluation mode for [B, L], and no other shape, as an ONNX file's contents."""
    with torch.no_grad(), _quiet():
        program = torch.onnx.export(_Embed(model).eval(), (torch.zeros(B, L),), opset_version=OPSET, verbose=False)
    return program.model_proto.SerializeToString()


def onnx_runtime(onnx: bytes) -> Embedding:
    """All graph optimisations, torch's number of threads; they spin within a call, but not on into the next one's."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.intra_op_num_threads, options.inter_op_num_threads = torch.get_num_threads(), 1
    options.add_session_config_entry("session.force_spinning_stop", "1")
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(onnx, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda ppg: torch.from_numpy(session.run(None, {name: ppg.numpy()})[0])


def openvino(onnx: bytes) -> Embedding:
    """One call at a time on all of torch's threads. OpenVINO would take bfloat16 where the processor has it."""
    request = _compile_openvino(onnx, "LATENCY", 1).create_infer_request()

    def run(ppg: Tensor) -> Tensor:
        return torch.from_numpy(request.infer([ppg.numpy()], share_inputs=True, share_outputs=True)[0])

    return run


def openvino_streams(onnx: bytes, rows: int, B: int) -> Embedding:
    """B rows as B / rows requests, one stream per thread: no thread waits for another within a request.

    `onnx` is exported for `rows`.
    """
    from openvino import AsyncInferQueue

    queue = AsyncInferQueue(_compile_openvino(onnx, "THROUGHPUT", torch.get_num_threads()))
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


@cache
def _openvino_core():
    """One for the life of the process.

    OpenVINO's CPU plugin (seen in 2026.4) gives the thread an alternate signal stack and unmaps it when it goes; where
    two overlapped, the thread is left with an unmapped one, and the next signal with a Python handler (SIGCHLD, as soon
    as a DataLoader's worker ends) kills the process.
    """
    from openvino import Core

    return Core()


def _compile_openvino(onnx: bytes, hint: str, streams: int):
    core = _openvino_core()
    options = {
        "INFERENCE_PRECISION_HINT": "f32",
        "PERFORMANCE_HINT": hint,
        "NUM_STREAMS": streams,
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
    }
    return core.compile_model(core.read_model(onnx), "CPU", options)


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporter tells about packages that it does not need here; its errors are still raised."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
