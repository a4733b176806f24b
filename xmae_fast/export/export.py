"""`export_model`: writes a file that other runtimes run, and checks it before it gets its name."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch

from xmae_fast._files import atomic_path, check_not_input, check_replaceable, is_json_of, read_json
from xmae_fast.backend.explaining import note_implementations
from xmae_fast.config import ModelCfg
from xmae_fast.data.index.segment_index import Paths
from xmae_fast.export import onnx_file, programs
from xmae_fast.export.checking import BATCHES, CheckError, check, raise_if_out_of_bounds
from xmae_fast.export.graphs import Graph, make_graph
from xmae_fast.export.report import ExportReport, describe
from xmae_fast.export.runtimes import (
    ONNX_RUNTIME,
    OPENVINO,
    PACKAGES,
    Arrays,
    Run,
    installed,
    run_onnx_runtime,
    run_openvino,
)
from xmae_fast.export.signals import Signals, feed, of_shards, simulated, visible_counts
from xmae_fast.export.speed import milliseconds
from xmae_fast.model.frozen import frozen
from xmae_fast.model.pretrained import from_pretrained
from xmae_fast.model.xmae import xMAE

_log = logging.getLogger("xmae_fast.export")
FORMATS = ("onnx", "torch-export", "executorch")
WEIGHTS = ("float32", "float16", "int8")
METADATA = "xmae_fast"  # key in the metadata of an ONNX file, and name of the extra file in a .pt2 file
TIMED_BATCHES = (1, programs.MAX_BATCH)
_CHECKED = sum(BATCHES) + programs.MAX_BATCH  # segments
_CALIBRATION_BATCH = 16
_LISTED = ("file", "size_bytes", "entry", "format", "weights", "differences")


def export_model(
    model: xMAE | str | os.PathLike,
    path: str | os.PathLike,
    *,
    to: str = "onnx",
    entry: str = "embed",
    weights: str = "float32",
    data: Paths | None = None,
    calibration_segments: int = 256,
    cfg: ModelCfg | Mapping[str, Any] | None = None,
    benchmark: bool = True,
    overwrite: bool = False,
    opset: int | None = None,
) -> ExportReport:
    """Write the inference of a model as a graph of standard operators for any batch size, and a description beside it.

    The description, `<path>.json`, holds inputs and outputs, configuration, differences from the model, latencies and
    versions.

    Args:
        model: a model, or what `from_pretrained` takes.
        path: of the file, in a folder that exists.
        to: "onnx", "torch-export" (.pt2) or "executorch" (.pte, for at most `programs.MAX_BATCH` segments a call).
        entry: "embed" takes ppg [B, L] and gives projected [B, proj_dim], pooled [B, D] and tokens [B, N, D].
            "reconstruct" takes ppg [B, L], ecg_visible [B, Nk, P] and ids_keep [B, Nk] int64, with Nk from 1 to N, and
            gives ecg_reconstructed [B, L]; it takes no ppg if the model has no bridge.
        weights: how they are stored. "float16" computes in float32. "int8", for ONNX alone, also computes in int8, with
            weights scaled per output channel and activations by the ranges that they have on `data`.
        data: shards, some segments of which calibrate and others check; None checks on simulated segments.
        calibration_segments: how many segments calibrate at most.
        cfg: for checkpoints that do not hold their configuration.
        benchmark: whether to measure latencies, which takes some seconds.
        overwrite: replace an earlier export that is there. No other file is replaced.
        opset: version of the operators of ONNX; None for 20, the first that has all of them.

    Returns:
        What was written, how far it is from the model, and how fast it is.

    Raises:
        CheckError: the file differs from the model by more than its bound (see `checking.check`); it is removed.
        ValueError, FileExistsError, FileNotFoundError: an argument is wrong; the message names it.
        ImportError: a package is missing.
    """
    path = Path(path)
    _check_arguments(path, to, weights, data, calibration_segments, opset)
    _check_place(path, model, overwrite)
    name = "a model in memory" if isinstance(model, xMAE) else Path(model).name
    model = model if isinstance(model, xMAE) else from_pretrained(model, cfg=cfg)
    note_implementations(model)
    graph = make_graph(model, entry)
    calibration, checked = _signals(model.cfg, data, calibration_segments)
    about = describe(name, model, graph, to, weights, checked)
    if weights == "float16":
        programs.store_in_float16(graph)
    with atomic_path(path) as temporary:
        began = perf_counter()
        run = _write(temporary, graph, model.cfg, about, calibration, opset)
        _log.debug("the graph was written after %.2f s", perf_counter() - began)
        own = ONNX_RUNTIME if to == "onnx" else to
        differences = {own: check(run, model, graph, checked, weights)}
        _log.debug("%s was compared with the model on %d segments", own, len(checked.ppg))
        raise_if_out_of_bounds(differences[own])
        report = ExportReport(path, temporary.stat().st_size, about, differences)
        runs = {own: run}
        if to == "onnx":
            _try_openvino(report, runs, temporary, lambda run: check(run, model, graph, checked, weights))
        if benchmark:
            report.milliseconds = _latencies(runs, model, graph, checked)
        with atomic_path(_listing(path)) as listing:
            listing.write_text(json.dumps(report.to_dict(), indent=1) + "\n", encoding="utf-8")
    return report


def _check_arguments(path: Path, to: str, weights: str, data, calibration_segments: int, opset: int | None) -> None:
    for argument, value, known in (("to", to, FORMATS), ("weights", weights, WEIGHTS)):
        if value not in known:
            raise ValueError(f"{argument}: expected one of {', '.join(map(repr, known))}, got {value!r}")
    if weights == "int8" and to != "onnx":
        raise ValueError(f"weights: expected 'float32' or 'float16' with to={to!r}, got 'int8', which ONNX alone takes")
    if weights == "int8" and data is None:
        raise ValueError("data: expected shards, on which int8 activations are calibrated, got None")
    if calibration_segments < 1:
        raise ValueError(f"calibration_segments: expected at least 1, got {calibration_segments}")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"path: expected a file in an existing folder, got {path}")
    if to == "onnx":
        onnx_file.need_packages(*onnx_file.PACKAGES, "onnxruntime")
        onnx_file.check_opset(opset)
    elif opset is not None:
        raise ValueError(f"opset: expected None with to={to!r}, got {opset}, which ONNX alone has")
    if to == "executorch":
        programs.need_executorch()


def _check_place(path: Path, model: xMAE | str | os.PathLike, overwrite: bool) -> None:
    """Raise FileExistsError or ValueError if a file is there that no export wrote, or that is to be kept."""
    if not isinstance(model, xMAE):
        check_not_input(path, [model], "path")
    listing = _listing(path)
    if path.exists() and not overwrite:
        listed = read_json(listing) or {}
        done = f", a finished export of {listed.get('checkpoint')}" if is_json_of(listing, *_LISTED) else ""
        raise FileExistsError(f"path: expected a new file, but {path} is there{done} (overwrite=True replaces it)")
    check_replaceable(listing, lambda file: is_json_of(file, *_LISTED), "the description of an export", "path")

    def is_own(file: Path) -> bool:
        listed = read_json(listing) or {}
        return listed.get("file") == file.name and listed.get("size_bytes") == file.stat().st_size

    check_replaceable(path, is_own, f"the export that {listing.name} tells of", "path")


def _listing(path: Path) -> Path:
    return path.with_name(path.name + ".json")


def _signals(cfg: ModelCfg, data: Paths | None, calibration_segments: int) -> tuple[Signals, Signals]:
    """The segments for calibration and for the check; of shards, every other segment for each."""
    if data is None:
        signals = simulated(cfg, _CHECKED)
        return signals, signals
    signals = of_shards(data, cfg, 2 * max(calibration_segments, _CHECKED))
    if len(signals.ppg) < 2:
        raise ValueError(f"data: expected at least 2 segments, got {len(signals.ppg)}")
    return signals[::2].evenly(calibration_segments), signals[1::2].evenly(_CHECKED)


def _write(
    path: Path, graph: Graph, cfg: ModelCfg, about: dict[str, Any], calibration: Signals, opset: int | None
) -> Run:
    """Write the file, and return what runs it."""
    known = ("entry", "weights", "inputs", "outputs", "signals", "cfg")
    metadata = {METADATA: json.dumps({key: about[key] for key in known})}
    to = about["format"]
    if to == "torch-export":
        programs.write_torch_export(programs.trace(graph, cfg), path, metadata)
        return programs.run_torch_export(path)
    if to == "executorch":
        programs.write_executorch(programs.trace(graph, cfg, programs.MAX_BATCH), path)
        return programs.run_executorch(path)
    model = onnx_file.to_onnx(graph, cfg, metadata, opset)
    if about["weights"] == "int8":
        onnx_file.quantize(model, path, _calibration_batches(graph, cfg, calibration))
    else:
        path.write_bytes(model.SerializeToString())
    return run_onnx_runtime(path)


def _calibration_batches(graph: Graph, cfg: ModelCfg, signals: Signals) -> list[Arrays]:
    size, visible = _CALIBRATION_BATCH, visible_counts(graph, cfg)
    starts = range(0, len(signals.ppg), size)
    return [feed(graph, cfg, signals[i : i + size], kept, seed=i) for i in starts for kept in visible]


def _try_openvino(report: ExportReport, runs: dict[str, Run], path: Path, check: Callable) -> None:
    """Check the file in OpenVINO, for the report; if it is within its bounds, OpenVINO is timed too."""
    if not installed(PACKAGES[OPENVINO]):
        report.notes.append(f"{OPENVINO}: not installed")
        return
    try:
        run = run_openvino(path.read_bytes())
        found = report.differences[OPENVINO] = check(run)
    except (RuntimeError, CheckError) as error:
        report.notes.append(f"{OPENVINO}: cannot run the file, {str(error).splitlines()[0]}")
        return
    if all(difference.ok for difference in found):
        runs[OPENVINO] = run
    else:
        report.notes.append(f"{OPENVINO}: not timed, its results are out of bounds")


def _latencies(runs: dict[str, Run], model: xMAE, graph: Graph, checked: Signals) -> dict[str, dict[int, float]]:
    """Milliseconds by runtime and batch size, those of the model first. It is frozen, as the weights of a file are."""
    taken: dict[str, dict[int, float]] = {name: {} for name in ("xmae_fast", *runs)}
    with frozen(model):
        for B in TIMED_BATCHES:
            segments = checked[np.resize(np.arange(len(checked.ppg)), B)]
            inputs = feed(graph, model.cfg, segments, visible_counts(graph, model.cfg)[0])
            calls: dict[str, Callable[[], object]] = {"xmae_fast": _model_call(model, inputs)}
            calls |= {name: lambda run=run, inputs=inputs: run(inputs) for name, run in runs.items()}
            for name, ms in milliseconds(calls).items():
                taken[name][B] = ms
    return taken


def _model_call(model: xMAE, inputs: Arrays) -> Callable[[], object]:
    """A call of the model that does the work of the graph with these inputs."""
    place = model.mask_token
    given = {name: torch.from_numpy(values).to(place.device) for name, values in inputs.items()}
    ppg = given.get("ppg")
    if "ids_keep" not in given:
        whole = given["ppg"]
        return lambda: model.embed(whole.to(place))
    visible, keep = given["ecg_visible"], given["ids_keep"]
    mode = model.training
    hidden = torch.ones(len(keep), model.cfg.num_patches, device=place.device).scatter(1, keep, 0.0)
    restore = hidden.argsort(dim=1, stable=True).argsort(1)
    ecg = visible.new_zeros(*hidden.shape, model.cfg.patch_len)
    ecg = ecg.scatter(1, keep[:, :, None].expand_as(visible), visible).flatten(1).to(place)
    ppg = None if ppg is None else ppg.to(place)

    @torch.no_grad()
    def call() -> None:
        model.eval()
        model(ppg, ecg, ids_keep_ecg=keep, ids_restore_ecg=restore, return_embeddings=False, return_recon=True)
        model.train(mode)

    return call
