"""ONNX: a model of standard operators from a graph, and the same model in int8."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from xmae_fast.config import ModelCfg
from xmae_fast.export.graphs import Graph
from xmae_fast.export.programs import trace
from xmae_fast.export.runtimes import Arrays, installed

OPSET = 20  # the first that has Gelu; ONNX Runtime >= 1.17 and OpenVINO have kernels for all its operators
PACKAGES = ("onnx", "onnxscript")
QUANTIZED = ("Conv", "MatMul", "Gemm")


def need_packages(*packages: str) -> None:
    """Raise ImportError, which names the extra, unless all packages are installed."""
    if missing := [name for name in packages if not installed(name)]:
        raise ImportError(f'ONNX needs {", ".join(missing)}: pip install "xmae-fast[export]"')


@contextmanager
def quiet_exporter() -> Iterator[None]:
    """A context in which PyTorch's exporter raises errors, but does not tell about packages that it does not need."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def check_opset(opset: int | None) -> None:
    """Raise ValueError for a version of the operators that is too old, or that the package onnx does not know."""
    if opset is None:
        return
    from onnx import defs

    newest = defs.onnx_opset_version()
    if not OPSET <= opset <= newest:
        raise ValueError(f"opset: expected {OPSET}, the first that has Gelu, to {newest}, got {opset}")


def to_onnx(graph: Graph, cfg: ModelCfg, metadata: Mapping[str, str] | None = None, opset: int | None = None) -> Any:
    """Convert a graph to an onnx.ModelProto of standard operators, for any batch size.

    Args:
        graph: as `make_graph` returns it.
        cfg: of the model.
        metadata: texts that the model carries.
        opset: version of the operators; None for `OPSET`.

    Raises:
        ImportError: onnx or onnxscript is missing.
        RuntimeError: an operator of the graph is no standard one in ONNX.
    """
    need_packages(*PACKAGES)
    import onnx

    with torch.no_grad(), quiet_exporter():
        exported = torch.onnx.export(
            trace(graph, cfg), input_names=list(graph.inputs), output_names=list(graph.outputs),
            opset_version=opset or OPSET, verbose=False,
        )  # fmt: skip
    if exported is None:
        raise RuntimeError("expected a program of torch.onnx.export, got none")
    model = exported.model_proto
    foreign = {f"{node.domain}::{node.op_type}" for node in model.graph.node if node.domain not in ("", "ai.onnx")}
    if foreign or model.functions:
        names = sorted(foreign | {function.name for function in model.functions})
        raise RuntimeError(f"expected standard ONNX operators alone, the exporter made {', '.join(names)}")
    _forget_origins(model)
    if cfg.patch_len % 4 == 0:
        _resize_by_two(model)
    onnx.helper.set_model_props(model, dict(metadata or {}))
    onnx.checker.check_model(model)
    return model


def _forget_origins(model) -> None:
    """Remove the stack traces, with paths of this machine, that the exporter writes into every node."""
    graph = model.graph
    for part in (*graph.node, *graph.value_info, *graph.input, *graph.output, *graph.initializer, graph):
        part.doc_string = ""
        del part.metadata_props[:]


def _resize_by_two(model) -> None:
    """Replace every Resize to a computed size by a Resize by two, so that runtimes know all sizes but the batch before.

    This is right for lengths that are multiples of 4, which the stem halves twice without a rest.
    """
    from onnx import helper, numpy_helper

    scales = numpy_helper.from_array(np.array([1, 1, 1, 2], np.float32), "twice_as_long")
    nodes = [node for node in model.graph.node if node.op_type == "Resize"]
    for node in nodes:
        attributes = [helper.make_attribute(a.name, helper.get_attribute_value(a)) for a in node.attribute]
        resize = helper.make_node("Resize", [node.input[0], "", scales.name], list(node.output), name=node.name)
        resize.attribute.extend(attributes)
        node.CopyFrom(resize)
    if nodes:
        model.graph.initializer.append(scales)
        _drop_unused(model.graph)


def _drop_unused(graph) -> None:
    """Remove nodes whose results no node reads, from the last to the first."""
    used = {output.name for output in graph.output}
    for node in reversed(list(graph.node)):
        if used.isdisjoint(node.output):
            graph.node.remove(node)
        else:
            used.update(node.input)
    for tensor in [tensor for tensor in graph.initializer if tensor.name not in used]:
        graph.initializer.remove(tensor)


def quantize(model, path: Path, batches: Sequence[Arrays]) -> None:
    """Write a model with int8 weights (7 bits, scaled per output channel) and uint8 activations, in QDQ form.

    With 8 bits, x86 processors without VNNI would saturate where they add two products in 16 bits: 2 * 255 * 64 fits.

    Convolutions and linear layers are quantised. The products of attention are not, and neither is the last layer of a
    reconstruction: on the worst of 33 real segments that layer alone cost 12 % of cosine in int8, all others together
    0.4 %.

    Args:
        model: in float32, as `to_onnx` returns it.
        path: of the file.
        batches: inputs whose activations give the ranges.
    """
    need_packages(*PACKAGES, "onnxruntime")
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)  # it recommends a preprocessing that the graph has had already
    reader: Any = _Calibration(batches)  # it has the one method of a CalibrationDataReader that is called
    try:
        quantize_static(
            model, path, reader, quant_format=QuantFormat.QDQ, op_types_to_quantize=list(QUANTIZED),
            nodes_to_exclude=_decoders(model.graph), per_channel=True, activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8, calibrate_method=CalibrationMethod.MinMax, reduce_range=True,
        )  # fmt: skip
    finally:
        root.setLevel(level)


def _decoders(graph) -> list[str]:
    """Names of the linear layers that compute the samples of a waveform; an empty list if there are none."""
    maker = {name: node for node in graph.node for name in node.output}
    found = []
    for output in graph.output:
        if output.name == "ecg_reconstructed":
            node = maker[output.name]
            while node.op_type not in QUANTIZED:
                node = maker[node.input[0]]
            found.append(node.name)
    return found


class _Calibration:
    """Gives batches to the calibration of ONNX Runtime, which asks for one after the other."""

    def __init__(self, batches: Sequence[Arrays]) -> None:
        self.batches = iter(batches)

    def get_next(self) -> Arrays | None:
        return next(self.batches, None)
