"""The benchmark command: what it prints and writes, and that wrong numbers are never timed. No timing is asserted."""

from __future__ import annotations

import importlib.util
import io
import json
from types import SimpleNamespace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

pytest.importorskip("rich", reason="the benchmarks need rich (pip install xmae-fast[bench])")

from rich.console import Console

from benchmarks import run
from benchmarks.harness import report
from benchmarks.harness.contest import BASELINE, LEFT_OUT, OURS, PLAIN, Contestant, Group, Result, Row, measure
from benchmarks.harness.context import Context
from benchmarks.harness.counts import embed_flops, forward_flops
from benchmarks.harness.machine import Machine
from benchmarks.harness.peak_memory import peak_in_new_process
from benchmarks.harness.timing import Effort
from benchmarks.models import runtimes
from benchmarks.models.contestants import batches, plain_model
from benchmarks.models.parts import WHOLE
from benchmarks.models.stock import stock_model
from benchmarks.suites import loader, model, stages, stems, train
from xmae_fast import ModelCfg
from xmae_fast.testing import Error, relative_error

CPU = torch.device("cpu")
MACHINE = Machine("CPU", 1, 1, 0.0, "2", "", "float32", 80e9, 100e9, "", 40e9)


@pytest.fixture(scope="module")
def context() -> Context:
    return Context(CPU, quick=True, compiling="none")


def suite(*contestants: Contestant) -> SimpleNamespace:
    return SimpleNamespace(groups=lambda context: [Group("addition", list(contestants))])


def contestant(name: str, role: str, check) -> Contestant:
    return Contestant(name, lambda: lambda i: i + 1, check, role)


def right(_) -> list[Error]:
    return [Error("output", 0.0, 1e-6)]


def wrong(_) -> list[Error]:
    raise AssertionError("output is off by 1.0e-01, allowed 1.0e-06")


def test_wrong_numbers_are_not_timed_and_fail_the_command(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(run.SUITES, "loader", suite(contestant("plain", PLAIN, right), contestant("ours", OURS, wrong)))
    monkeypatch.setattr(run, "measure_machine", lambda device: MACHINE)  # the next test measures it
    assert run.main(["--quick", "--suite", "loader", "--json", str(tmp_path / "out.json")]) == 1
    assert "FAILED addition, ours: output is off by 1.0e-01" in capsys.readouterr().out
    written = (tmp_path / "out.json").read_text()
    rows = {row["name"]: row for row in json.loads(written)["suites"]["loader"][0]["rows"]}
    assert rows["ours"]["status"] == "FAILED"
    assert rows["ours"]["seconds"] == []
    assert rows["plain"]["seconds"]


def test_quick_loader_suite(tmp_path, capsys, monkeypatch):
    """All contests as with --quick, on 8 batches, checked and timed; few segments, a small model and one round each."""
    monkeypatch.setattr(loader, "B", 64)
    monkeypatch.setattr(Context, "cfg", ModelCfg(patch_len=50, d_model=32, nhead=4, proj_dim=16, stem_ch=8))
    monkeypatch.setattr(Context, "effort", Effort(0.0, 1, 1))
    files = tmp_path / "out.json", tmp_path / "out.png"
    assert run.main(["--quick", "--suite", "loader", "--json", str(files[0]), "--plot", str(files[1])]) == 0
    assert "GEMM peak" in capsys.readouterr().out
    assert json.loads(files[0].read_text())["settings"]["signals"].endswith("simulated segments (seed 77)")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.json", "out.png"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "nothing.h5"], "shard nothing.h5: expected an HDF5 file, found nothing"),
        (["--suite", "speed"], "--suite: expected some of ops, model, train, stages, stems, loader, got speed"),
        (["--json", "no/such/out.json"], "--json: expected a file in an existing folder, got no/such/out.json"),
    ],
)
def test_bad_arguments_end_with_one_line_and_exit_code_2(arguments, message, capsys):
    assert run.main(arguments) == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    assert message in said[0]


def printed(show, *results: Result) -> str:
    console = Console(file=io.StringIO(), width=140)
    show(console, list(results), MACHINE)
    return console.file.getvalue()


def test_counted_operations_are_those_that_torch_counts(context):
    plain, batch = plain_model(context, training=True), batches(context, 2)[0]
    with FlopCounterMode(display=False) as embedding:
        plain.embed(batch.ppg)
    with FlopCounterMode(display=False) as forward:
        plain(*batch)
    assert embedding.get_total_flops() == embed_flops(context.cfg, 2)
    assert forward.get_total_flops() == forward_flops(context.cfg, 2, context.kept)


def test_parts_have_shares_of_the_sum():
    rows = [
        Row(f"{part} {role}", role, seconds=[seconds] * 3, part=part, flops=10**9)
        for part, times in {"stem": (3.0, 1.0), "head": (1.0, 1.0), WHOLE: (4.1, 2.1)}.items()
        for role, seconds in zip((PLAIN, OURS), times, strict=True)
    ]
    result = Result(Group("stages of work", [], not_in_sum=(WHOLE,)), rows)
    text = printed(report.print_parts, result)
    lines = {line.split()[0]: line.split() for line in text.splitlines() if line.strip()}
    assert lines["stem"][1:4] == ["3,000", "75", "%"]
    assert "50" in lines["head"]
    assert "sum of the parts" in text
    assert list(result.parts()) == ["stem", "head", WHOLE]
    assert report.headline(result, MACHINE) == "=> stages of work: the longest part of ours is stem, 50 % (1e+03 ms)"


@pytest.mark.parametrize("training", [False, True])
def test_stages_are_right_and_add_up(context, training):
    group = stages.group(context, 2, training=training)
    parts = {one.part: one.flops for one in group.contestants}
    whole = parts.pop(WHOLE)
    assert sum(parts.values()) == pytest.approx(whole, rel=1e-3)
    for contestant in group.contestants:
        timed = contestant.build()
        timed(0)
        assert contestant.check(timed)


def test_stages_see_a_wrong_result(context):
    """The check of a stage compares what is timed."""
    stem = stages.group(context, 2, training=False).contestants[1]
    timed = stem.build()
    with pytest.raises(AssertionError, match="output is off by"):
        stem.check(lambda i: tuple(x * 1.001 for x in timed(i)))


@pytest.fixture
def need_runtime():
    def need(runtime: str) -> None:
        if reason := runtimes.not_installed(runtime):
            pytest.skip(reason)

    return need


@pytest.mark.parametrize("two_dimensional", [False, True])
@pytest.mark.parametrize("runtime", [runtimes.ONNX_RUNTIME, runtimes.OPENVINO])
def test_other_runtimes_compute_the_embedding(context, need_runtime, runtime, two_dimensional, capfd):
    need_runtime(runtime)
    plain, ppg = plain_model(context), context.batches(4)[0][0]
    want = plain.embed(ppg).detach()
    exported = stock_model(plain) if two_dimensional else plain
    start = runtimes.onnx_runtime if runtime == runtimes.ONNX_RUNTIME else runtimes.openvino
    assert relative_error(start(runtimes.export_embed(exported, 4, 1000))(ppg), want) < 2e-6
    if runtime == runtimes.OPENVINO:
        streams = runtimes.openvino_streams(runtimes.export_embed(exported, 2, 1000), 2, 4)
        assert relative_error(streams(ppg), want) < 2e-6
    assert capfd.readouterr() == ("", "")


def test_missing_runtimes_are_named(context, monkeypatch):
    monkeypatch.setattr(Context, "without_bfloat16", lambda self: "")
    find = importlib.util.find_spec
    absent = {"onnxruntime", "openvino"}
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *_: None if name in absent else find(name))
    groups = {group.title: group for group in model.groups(context)}
    rows = {one.name: one.left_out for one in groups["embed: B=16"].contestants}
    assert "not installed: onnxruntime" in rows["ONNX Runtime"]
    assert "not installed: openvino" in rows["OpenVINO, the same, streams of 8"]
    in_bfloat16 = {one.name: one.left_out for one in groups["embed, bfloat16: B=16"].contestants}
    assert "not installed: openvino" in in_bfloat16["OpenVINO, as installed"]
    assert not in_bfloat16["published-style model, autocast"]
    in_int8 = {one.name: one.left_out for one in groups["embed, int8: B=16"].contestants}
    assert all("not installed" in reason for reason in in_int8.values())
    assert not any("OpenVINO" in one.name for one in groups["forward: B=16"].contestants)
    row = Row("OpenVINO", BASELINE, LEFT_OUT, note=rows["OpenVINO"])
    assert "pip install xmae-fast[bench]): OpenVINO" in printed(report.print_suite, Result(Group("embed", []), [row]))


def test_peak_memory_grows_with_the_batch(context):
    ours = "xmae_fast impl=auto, fused AdamW"
    small, large = (peak_in_new_process(context, train.__name__, B, ours) for B in (4, 12))
    assert 8 * 2e6 < large - small < 8 * 40e6  # activations of a sample: 11 MB in plain PyTorch, 3.8 MB in C++ for AVX2
    with pytest.raises(RuntimeError, match="no such contestant"):
        peak_in_new_process(context, train.__name__, 4, "no such contestant")


def test_peak_memory_that_cannot_be_measured_is_said_and_the_row_is_timed():
    def peak() -> int:
        raise RuntimeError("no room")

    group = Group("addition", [Contestant("ours", lambda: lambda i: i + 1, right, OURS, peak=peak)])
    result = measure(group, CPU, Effort(0.01, 1, 1), lambda text: None)
    assert result.rows[0].seconds
    assert "peak memory not measured: no room" in printed(report.print_suite, result)


@pytest.mark.parametrize("backward", [False, True])
def test_both_stems(context, backward):
    """Every contestant computes the same features and gradients, and again after another batch."""
    group = stems.group(context, 3, backward=backward)
    plain, stock, compiled, *ours = group.contestants
    assert compiled.left_out == "needs --compile all"
    assert all(one.name.startswith("xmae_fast impl=") for one in ours)
    for one in (plain, stock, *ours):
        timed = one.build()
        names = [error.name for error in one.check(timed)]
        assert names == ["PPG features", "ECG features", *["gradients"][: int(backward)]]
        first = [x.clone() for x in timed(0)]
        assert not torch.equal(timed(1)[0], first[0])
        torch.testing.assert_close(timed(0)[0], first[0])
        assert len(first) == 2 + backward * len(timed.parameters)
