"""int8: ONNX files quantised on segments by ONNX Runtime and by NNCF."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from torch import Tensor

from benchmarks.models.runtimes import OPENVINO, OpenVINO, not_installed, openvino
from xmae_fast.export import onnx_file
from xmae_fast.export.runtimes import Arrays, installed, openvino_core

NNCF = "nncf"


def without_nncf() -> str:
    """Which packages are missing for NNCF under OpenVINO, or ''."""
    if reason := not_installed(OPENVINO):
        return reason
    return "" if installed(NNCF) else f"not installed: {NNCF}; pip install {NNCF}"


def static_qdq(onnx: bytes, segments: Tensor, B: int) -> bytes:
    """The file in int8 by ONNX Runtime's static quantisation, in QDQ form, as `xmae-fast export` makes int8.

    Args:
        onnx: in float32.
        segments: [n, L], which give the ranges of activations.
        B: the batch size that the file takes.
    """
    import onnx as package

    model = package.load_from_string(onnx)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "int8.onnx"
        onnx_file.quantize(model, path, _batches(segments, B))
        return path.read_bytes()


def nncf_openvino(onnx: bytes, segments: Tensor, B: int) -> OpenVINO:
    """The file in int8 by NNCF's static quantisation, compiled by OpenVINO; arguments as of `static_qdq`."""
    import nncf
    from openvino import save_model

    batches = _batches(segments, B)
    model = nncf.quantize(openvino_core().read_model(onnx), nncf.Dataset(batches), subset_size=len(batches))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "int8.xml"
        save_model(model, path, compress_to_fp16=False)
        return openvino(path, precision="")


def _batches(segments: Tensor, B: int) -> list[Arrays]:
    whole = len(segments) // B * B
    return [{"ppg": np.ascontiguousarray(part.numpy())} for part in segments[:whole].split(B)]
