"""Exported files give the numbers of the model for any batch, are refused if they do not, and run without torch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import xmae_fast
from xmae_fast.cli import main
from xmae_fast.data import SimulationCfg, simulate
from xmae_fast.export import CheckError, export_model, graphs, make_graph, speed
from xmae_fast.export import export as run
from xmae_fast.ops.conv_stem import reference
from xmae_fast.testing import relative_error

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")
ROOT = Path(__file__).parents[2]
CFG = {
    "seq_len": 500, "patch_len": 100, "d_model": 32, "nhead": 2, "depth_ecg": 1, "depth_ppg": 1, "depth_bridge": 1,
    "stem_ch": 8, "proj_dim": 24,
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def _two_rounds():
    """Measure latencies in 2 rounds and not in 40: they are measured and reported, but no test looks at their size."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(speed, "ROUNDS", 2)
        yield


def seasoned(**changes) -> xmae_fast.xMAE:
    """A tiny model whose statistics, scales and offsets have values like those of a trained one.

    Of random models this small not every one can do with 8 bits, as trained ones can: that of this seed can.
    """
    torch.manual_seed(3)
    model = xmae_fast.xMAE(xmae_fast.ModelCfg(**(CFG | changes))).eval()
    for name, x in model.state_dict().items():
        if name.endswith("running_var"):
            x.uniform_(0.5, 1.5)
        elif x.is_floating_point() and x.dim() == 1:
            x.add_(0.1 * torch.randn(x.shape))
    return model


@pytest.fixture(scope="module")
def model() -> xmae_fast.xMAE:
    return seasoned()


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("shards")
    simulate(8, 6, seed=5, cfg=SimulationCfg(seg_len=5.0)).write_shards(folder)
    return str(folder)


@pytest.fixture(scope="module")
def program(model):
    """The embedding as torch.export exports it, which takes seconds, so that the tests of two formats share it."""
    return run.programs.trace(make_graph(model, "embed"), model.cfg)


@pytest.fixture(scope="module")
def exported(model, program, shards, tmp_path_factory) -> Path:
    """The embedding as ONNX in float32, which the command has written."""
    folder = tmp_path_factory.mktemp("exported")
    xmae_fast.save_checkpoint(model, folder / "model.safetensors")
    out = folder / "embed.onnx"
    checkpoint = str(folder / "model.safetensors")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "TIMED_BATCHES", (1, 2))
        patch.setattr(run.onnx_file, "trace", lambda graph, cfg: program)
        assert main(["export", checkpoint, "--to", "onnx", "-o", str(out), "--data", shards]) == 0
    return out


def segments(count: int, seed: int = 9) -> np.ndarray:
    """PPG [count, 500]."""
    return simulate(count, 1, seed=seed, cfg=SimulationCfg(seg_len=5.0)).ppg


@pytest.mark.parametrize("B", [1, 2, 5])
def test_embeddings_are_the_models_for_any_batch(model, exported, B):
    ppg = segments(B)
    session = onnxruntime.InferenceSession(exported, providers=["CPUExecutionProvider"])
    projected, pooled, tokens = (torch.from_numpy(x) for x in session.run(None, {"ppg": ppg}))
    want = model.ppg_path.encode(torch.from_numpy(ppg)[:, None], None)
    assert relative_error(projected, model.embed(torch.from_numpy(ppg))) < 2e-6
    assert relative_error(pooled, want.mean(1)) < 2e-6
    assert relative_error(tokens, want) < 2e-6


def test_the_graph_is_plain_and_names_no_place(exported):
    graph = onnx.load(exported)
    used = {node.op_type for node in graph.graph.node}
    assert {node.domain for node in graph.graph.node} <= {"", "ai.onnx"}
    assert not graph.functions
    assert "BatchNormalization" not in used
    assert graph.graph.input[0].type.tensor_type.shape.dim[0].dim_param
    assert str(ROOT).encode() not in exported.read_bytes()


def test_what_is_known_lies_beside_the_file(model, exported):
    known = json.loads(exported.with_name("embed.onnx.json").read_text())
    assert known["size_bytes"] == exported.stat().st_size
    assert {d["output"] for d in known["differences"]["ONNX Runtime"]} == {"projected", "pooled", "tokens"}
    assert all(d["ok"] and 0 < d["relative_norm"] <= d["bound"] < 1e-5 for d in known["differences"]["ONNX Runtime"])
    assert known["milliseconds"]["ONNX Runtime"].keys() == known["milliseconds"]["xmae_fast"].keys() == {"1", "2"}
    assert known["cfg"] == model.cfg.to_dict()
    stored = onnxruntime.InferenceSession(exported).get_modelmeta().custom_metadata_map["xmae_fast"]
    assert json.loads(stored)["cfg"] == known["cfg"]
    assert sorted(path.name for path in exported.parent.iterdir()) == [
        "embed.onnx", "embed.onnx.json", "model.safetensors",
    ]  # fmt: skip


def test_int8_is_small_and_near(model, shards, exported, tmp_path, monkeypatch):
    monkeypatch.setattr(run.onnx_file, "to_onnx", lambda *_: onnx.load(exported))  # saves seconds
    out = tmp_path / "int8.onnx"
    report = export_model(model, out, weights="int8", data=shards, benchmark=False)
    assert out.stat().st_size < 0.5 * exported.stat().st_size
    assert all(1e-9 < 1 - d.worst_cosine < 5e-3 for d in report.differences["ONNX Runtime"])
    weights = [x for x in onnx.load(out).graph.initializer if x.data_type == onnx.TensorProto.INT8 and len(x.dims) == 4]
    scales = {x.name: x.dims for x in onnx.load(out).graph.initializer if x.name.endswith("_scale")}
    assert len(weights) == 32
    largest = max(np.abs(onnx.numpy_helper.to_array(x).astype(int)).max() for x in weights)
    assert 32 < largest <= 64, "two products with 255 fit into 16 bits, which is how processors without VNNI add them"
    assert all(list(scales[x.name.replace("_quantized", "_scale")]) == [x.dims[0]] for x in weights)


def reconstructions(model):
    """Inputs of a reconstruction graph and the output of the model, for one, two and all patches visible."""
    P, N = model.cfg.patch_len, model.cfg.num_patches
    simulation = simulate(2, 1, seed=3, cfg=SimulationCfg(seg_len=5.0))
    ppg, ecg = torch.from_numpy(simulation.ppg), torch.from_numpy(simulation.ecg)
    for kept in (1, 2, N):
        mask = xmae_fast.random_masking(2, N, (N - kept) / N, mode="scatter")
        visible = ecg.view(2, N, P).gather(1, mask.ids_keep[:, :, None].expand(-1, -1, P))
        want = model(ppg, ecg, ids_keep_ecg=mask.ids_keep, ids_restore_ecg=mask.ids_restore)["ecg_reconstructed"]
        yield {"ppg": ppg, "ecg_visible": visible, "ids_keep": mask.ids_keep}, want[:, 0].detach()


def test_reconstruction_with_a_lag_in_float16(tmp_path, monkeypatch):
    monkeypatch.setattr(run, "TIMED_BATCHES", (1, 2))
    monkeypatch.setattr(run, "_CHECKED", 6)
    model, out = seasoned(lag="window(0.0, 1.0)"), tmp_path / "file.onnx"
    report = export_model(model, out, weights="float16", entry="reconstruct")
    assert all(ms > 0 for taken in report.milliseconds.values() for ms in taken.values())
    session = onnxruntime.InferenceSession(out, providers=["CPUExecutionProvider"])
    for inputs, want in reconstructions(model):
        (got,) = session.run(None, {name: x.numpy() for name, x in inputs.items()})
        assert relative_error(torch.from_numpy(got), want) < 1e-3
    assert out.stat().st_size < 0.65 * 4 * sum(p.numel() for p in make_graph(model, "reconstruct").parameters())


def test_reconstruction_without_a_bridge():
    model = seasoned(use_cross_bridge=False)
    program = run.programs.trace(make_graph(model, "reconstruct"), model.cfg).module()
    for inputs, want in reconstructions(model):
        assert relative_error(program(inputs["ecg_visible"], inputs["ids_keep"]), want) < 5e-6


def test_torch_export(model, program, tmp_path, monkeypatch):
    monkeypatch.setattr(run.programs, "trace", lambda graph, cfg: program)
    report = export_model(model, tmp_path / "model.pt2", to="torch-export", benchmark=False)
    ppg = torch.from_numpy(segments(5))
    extra = {"xmae_fast": ""}
    program = torch.export.load(tmp_path / "model.pt2", extra_files=extra).module()
    assert relative_error(program(ppg)[0], model.embed(ppg)) < 2e-6
    assert json.loads(extra["xmae_fast"])["cfg"] == report.about["cfg"] == model.cfg.to_dict()


@pytest.mark.parametrize("block", [1, 16, 1000])
def test_merged_branches_are_the_branches(model, block):
    params = model.ppg_path.stem.params().enc2[1]
    x = torch.randn(2, 64, 21)
    got = graphs.FoldedInception(params, block)(x[:, :, None])[:, :, 0]
    assert relative_error(got, reference.inception(x, params, training=False)) < 1e-6


@pytest.mark.parametrize("L", [1, 49, 50, 500])
def test_the_folded_stem_is_the_stem(model, L):
    x = torch.randn(2, 1, L)
    got = graphs.FoldedStem(model.ppg_path.stem)(x[:, :, None])[:, :, 0]
    assert relative_error(got, reference.conv_stem(x, model.ppg_path.stem.params(), training=False)) < 1e-6


def test_a_wrong_graph_is_not_written(model, tmp_path, monkeypatch):
    monkeypatch.setattr(graphs, "EPS", 1e-3)
    with pytest.raises(CheckError, match=r"projected: relative_norm .* allowed .*e-0[67]"):
        export_model(model, tmp_path / "model.pt2", to="torch-export", benchmark=False)
    assert list(tmp_path.iterdir()) == []


def test_executorch_is_asked_for_by_name(model, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "executorch", None)
    with pytest.raises(ImportError, match="pip install executorch"):
        export_model(model, tmp_path / "model.pte", to="executorch")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"to": "tflite"}, r"to: expected one of 'onnx', .*, got 'tflite'"),
        ({"entry": "classify"}, r"entry: expected one of 'embed', 'reconstruct', got 'classify'"),
        ({"weights": "int4"}, r"weights: expected one of .*, got 'int4'"),
        ({"weights": "int8"}, r"data: expected shards, .* got None"),
        ({"weights": "int8", "to": "torch-export"}, r"weights: expected 'float32' or 'float16' .* got 'int8'"),
        ({"calibration_segments": 0}, r"calibration_segments: expected at least 1, got 0"),
    ],
)
def test_bad_arguments_are_named(model, tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        export_model(model, tmp_path / "model.onnx", **arguments)
    assert list(tmp_path.iterdir()) == []


def test_files_and_folders_are_respected(model, exported, tmp_path):
    with pytest.raises(FileExistsError, match="path: expected a new file"):
        export_model(model, exported)
    with pytest.raises(FileNotFoundError, match="path: expected a file in an existing folder"):
        export_model(model, tmp_path / "nowhere" / "model.onnx")
    with pytest.raises(ValueError, match="entry: expected a model with a PPG encoder for 'embed', got source='ecg'"):
        make_graph(seasoned(source="ecg"), "embed")


def test_the_example_embeds_without_torch(model, exported, tmp_path):
    recording = np.concatenate([3 + 2 * segments(3).ravel(), np.zeros(7, np.float32)])  # 7 samples fill no segment
    np.save(tmp_path / "recording.npy", recording)
    code = (
        "import runpy, sys\n"
        "sys.modules['torch'] = sys.modules['xmae_fast'] = None\n"
        "script, *sys.argv[1:] = sys.argv[1:]\n"
        "runpy.run_path(script, run_name='__main__')\n"
    )
    arguments = [ROOT / "examples" / "embed_without_torch.py", exported, tmp_path / "recording.npy", "100", "out.npy"]
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        cwd=tmp_path, env=os.environ | {"PYTHONPATH": ""}, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    want = model.ppg_path.encode(torch.from_numpy(segments(3))[:, None], None).mean(1)
    assert relative_error(torch.from_numpy(np.load(tmp_path / "out.npy")), want) < 5e-6
    assert len((ROOT / "examples" / "embed_without_torch.py").read_text().splitlines()) <= 30


@pytest.mark.skipif("XMAE_FAST_REAL_DATA" not in os.environ, reason="XMAE_FAST_REAL_DATA names no shard of real data")
def test_int8_of_a_default_size_model_on_real_segments(tmp_path):
    torch.manual_seed(0)
    model = xmae_fast.build_model_from_cfg({"model_params": {"d_model": 64, "depth_ppg": 2}}).eval()
    data = os.environ["XMAE_FAST_REAL_DATA"]
    report = export_model(model, tmp_path / "model.onnx", weights="int8", data=data, benchmark=False)
    assert all(d.worst_cosine > 0.995 for d in report.differences["ONNX Runtime"])


def test_nothing_but_exports_is_replaced(model, exported, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(run.onnx_file, "to_onnx", lambda *_: onnx.load(exported))  # saves seconds
    monkeypatch.setattr(run, "_CHECKED", 6)
    checkpoint, hard, out = tmp_path / "model.ckpt", tmp_path / "hard.ckpt", tmp_path / "model.onnx"
    xmae_fast.save_checkpoint(model, checkpoint)
    os.link(checkpoint, hard)
    before = checkpoint.read_bytes()
    for place in (checkpoint, hard):
        arguments = ["export", str(checkpoint), "--to", "onnx", "--no-benchmark", "--overwrite"]
        assert main([*arguments, "-o", str(place)]) == 2
        assert "--output: expected another file than the input" in capsys.readouterr().err
        assert checkpoint.read_bytes() == before
    out.write_text("precious")
    with pytest.raises(FileExistsError, match=r"is there and is not the export that model\.onnx\.json tells"):
        export_model(model, out, benchmark=False, overwrite=True)
    out.unlink()
    listing = tmp_path / "model.onnx.json"
    listing.write_text('{"precious": true}')
    with pytest.raises(FileExistsError, match=r"model\.onnx\.json is there and is not the description of an export"):
        export_model(model, out, benchmark=False)
    listing.unlink()
    for _ in range(2):
        export_model(model, out, benchmark=False, overwrite=True)
    with pytest.raises(FileExistsError, match="expected a new file"):
        export_model(model, out, benchmark=False)
    out.write_bytes(out.read_bytes() + b"\0")  # somebody has changed it
    with pytest.raises(FileExistsError, match="is not the export"):
        export_model(model, out, benchmark=False, overwrite=True)
