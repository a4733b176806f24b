"""ONNX Runtime and OpenVINO on a CPU in float32, and the form in which all runtimes are called."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Mapping
from functools import cache
from importlib import metadata
from typing import Any

import numpy as np
import torch
from torch import Tensor

Arrays = dict[str, np.ndarray]
Run = Callable[[Arrays], list[np.ndarray]]  # inputs by name, in the graph's order -> outputs in the graph's order
ONNX_RUNTIME, OPENVINO = "ONNX Runtime", "OpenVINO"
PACKAGES = {ONNX_RUNTIME: "onnxruntime", OPENVINO: "openvino"}


def installed(package: str) -> bool:
    """Whether a package can be imported."""
    try:
        return importlib.util.find_spec(package) is not None
    except (ImportError, ValueError):  # hidden by an import hook, or half imported
        return False


def version(package: str) -> str:
    """The version of an installed package."""
    return metadata.version(package)


def onnx_session(onnx: bytes | str | os.PathLike):
    """A session of ONNX Runtime with all graph optimisations and torch's number of threads; they spin only in a call.

    Args:
        onnx: a file or its contents.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.intra_op_num_threads, options.inter_op_num_threads = torch.get_num_threads(), 1
    options.add_session_config_entry("session.force_spinning_stop", "1")
    options.log_severity_level = 3
    model = onnx if isinstance(onnx, bytes) else os.fspath(onnx)
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def run_onnx_runtime(onnx: bytes | str | os.PathLike) -> Run:
    """What runs an ONNX file, or its contents, in ONNX Runtime."""
    run: Any = onnx_session(onnx).run  # of these graphs, all outputs are arrays
    return lambda inputs: run(None, inputs)


@cache
def openvino_core():
    """The one core of OpenVINO that this process ever makes.

    The CPU plugin of a core (seen in 2026.4) gives the thread an alternate signal stack, and unmaps it when the core is
    deleted. Where two cores overlapped in time, the thread is left with an unmapped stack, and the next signal with a
    handler in Python kills the process (such as SIGCHLD, as soon as a worker of a DataLoader ends).
    """
    from openvino import Core

    return Core()


def openvino_model(
    onnx: bytes | str | os.PathLike,
    hint: str = "LATENCY",
    streams: int = 1,
    shapes: Mapping[str, list[int]] | None = None,
    precision: str = "f32",
) -> Any:
    """A model compiled for float32 and torch's number of threads; OpenVINO itself would choose bfloat16 where it can.

    Args:
        onnx: a file or its contents.
        hint, streams: OpenVINO's PERFORMANCE_HINT and NUM_STREAMS.
        shapes: of inputs by name, for which alone it is compiled; None for any batch size.
        precision: OpenVINO's INFERENCE_PRECISION_HINT; "" leaves the choice to OpenVINO.
    """
    core = openvino_core()
    options: dict[str, Any] = {"INFERENCE_PRECISION_HINT": precision} if precision else {}
    options |= {
        "PERFORMANCE_HINT": hint,
        "NUM_STREAMS": streams,
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
    }
    model = core.read_model(onnx)
    if shapes is not None:
        model.reshape(dict(shapes))
    return core.compile_model(model, "CPU", options)


def run_openvino(onnx: bytes | str | os.PathLike, shapes: Mapping[str, list[int]] | None = None) -> Run:
    """What runs an ONNX file, or its contents, in OpenVINO. The results are valid until the next call."""
    request = openvino_model(onnx, shapes=shapes).create_infer_request()

    def run(inputs: Arrays) -> list[np.ndarray]:
        return list(request.infer(inputs, share_inputs=True, share_outputs=True).values())

    return run


def as_arrays(function: Callable[..., Tensor | tuple[Tensor, ...]]) -> Run:
    """A function of tensors as a function of arrays, without gradients."""

    def run(inputs: Arrays) -> list[np.ndarray]:
        with torch.no_grad():
            result = function(*(torch.from_numpy(x) for x in inputs.values()))
        return [x.numpy() for x in ([result] if isinstance(result, Tensor) else result)]

    return run
