"""Contests by class of precision: each has its own baselines and its own check, and no ratio leads to another class."""

from __future__ import annotations

import contextlib
import io

import numpy as np
import pytest
import torch

pytest.importorskip("rich", reason="the benchmarks need rich (pip install xmae-fast[bench])")

from rich.console import Console

from benchmarks.harness import interruption, report
from benchmarks.harness.apart import measure_apart
from benchmarks.harness.contest import (
    BASELINE,
    FAILED,
    INFO,
    LEFT_OUT,
    OK,
    OURS,
    PLAIN,
    Contestant,
    Group,
    Result,
    Row,
    measure,
)
from benchmarks.harness.context import ROTATION, Context
from benchmarks.harness.interruption import Interruption
from benchmarks.harness.machine import Machine, has_bfloat16, instruction_sets
from benchmarks.harness.numerics import check_cosine
from benchmarks.harness.timing import Effort, interleave
from benchmarks.models import quantised, runtimes
from benchmarks.models.bfloat16 import Ours, by_mkldnn
from benchmarks.suites import embed_bfloat16, embed_int8, model, train
from benchmarks.suites.inference import Inference, warm_and_after_other_work
from xmae_fast.testing import Error, relative_error

CPU = torch.device("cpu")
MACHINE = Machine("CPU", 1, 1, 0.0, "2", "", "float32", 80e9, 100e9, "", 40e9, ("avx2", "amx_bf16"), 800e9)


@pytest.fixture
def context(monkeypatch) -> Context:
    """Of a processor with bfloat16; PyTorch computes the same in its absence, more slowly."""
    monkeypatch.setattr(Context, "without_bfloat16", lambda self: "")
    return Context(CPU, quick=True, compiling="none")


def right(_) -> list[Error]:
    return [Error("output", 0.0, 1e-6)]


def printed(*results: Result) -> str:
    console = Console(file=io.StringIO(), width=140)
    report.print_suite(console, list(results), MACHINE)
    return console.file.getvalue()


def test_every_class_has_its_contest_and_one_call_is_timed_twice(context):
    names = ["embed: B=1", "embed, bfloat16: B=1", "embed, int8: B=1", "embed: B=16", "embed, bfloat16: B=16"]
    groups = {group.title: group for group in model.groups(context)}
    after = [f"{name}, after other work" for name in names[:2]]
    assert set(groups) == {*names, *after, "embed, int8: B=16", "forward: B=1", "forward: B=16"}
    assert {group.precision for title, group in groups.items() if "," not in title} == {"float32"}
    assert [title for title, group in groups.items() if group.after_other_work] == after
    roles = [one.role for one in groups["embed, bfloat16: B=16"].contestants]
    assert (roles.count(PLAIN), roles.count(OURS), roles.count(INFO)) == (1, 1, 0)
    on_gpu = {group.title for group in model.groups(Context(torch.device("cuda"), quick=True))}
    assert on_gpu == {"embed: B=1", "embed: B=16", "forward: B=1", "forward: B=16"}


def test_without_bfloat16_one_row_says_why_and_nothing_is_built(monkeypatch):
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.delattr(torch.cpu, name, raising=False)
    context = Context(CPU, quick=True, compiling="none")
    reason = "torch reports no bfloat16 arithmetic of this processor"
    groups = [group for group in model.groups(context) if group.precision == "bfloat16"]
    assert [group.title for group in groups] == ["embed, bfloat16: B=1", "embed, bfloat16: B=16"]
    for group in (*groups, train.bfloat16_group(context, 4)):
        (row,) = measure(group, CPU, Effort(), lambda text: pytest.fail(text)).rows
        assert (row.status, row.note) == (LEFT_OUT, reason)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True, raising=False)
    assert context.without_bfloat16() == ""


def test_rows_in_bfloat16_are_within_twice_the_error_of_stock_autocast(context):
    groups = embed_bfloat16.group(Inference(context, "embed", 1)), train.bfloat16_group(context, 4)
    for group in groups:
        for one in (one for one in group.contestants if not one.left_out and "mkldnn" not in one.name):
            errors = one.check(one.build())
            assert all(error.error <= error.bound < 0.2 for error in errors), one.name
            assert one.role == OURS or max(error.error for error in errors) > 1e-3


def test_wrong_results_in_bfloat16_are_seen(context):
    """Two percent too large, which no cosine sees, and one number that is off."""
    group = embed_bfloat16.group(Inference(context, "embed", 2))
    one = group.contestants[0]
    run = one.build()
    one.check(run)
    with pytest.raises(AssertionError, match=r"embedding is off by 2.*e-02, allowed"):
        one.check(lambda i: run(i) * 1.02)
    want = torch.randn(4, 64, dtype=torch.float64)
    assert check_cosine(want.float(), want, 1e-4)
    tilted = want.clone()
    tilted[3, 0] += 0.02 * want[3].norm()
    with pytest.raises(AssertionError, match="1 - cosine is off by"):
        check_cosine(tilted, want, 1e-4)


def test_losses_and_gradients_in_bfloat16_are_checked(context):
    group = train.bfloat16_group(context, 4)
    published = group.contestants[0]
    trainer = published.build()
    probed = trainer.probe()
    assert {error.name for error in published.check(trainer)} == set(probed)
    for name in ("prediction", "gradient", "loss"):
        trainer.probe = lambda name=name: probed | {name: 1.3 * probed[name]}
        with pytest.raises(AssertionError, match=f"{name} is off by"):
            published.check(trainer)


def test_ours_stands_in_its_class_only_by_operators_that_ran_in_bfloat16(context, monkeypatch):
    ours = Ours(lambda: lambda i: torch.ops.xmae_fast.test_eval_bf16(torch.zeros(1)))
    library = torch.library.Library("xmae_fast", "FRAGMENT")
    library.define("test_eval_bf16(Tensor x) -> Tensor")
    library.impl("test_eval_bf16", lambda x: x + 1, "CPU")
    ours.build()
    assert ours.stands()
    assert ours.remark() == "operators that ran in bfloat16: test_eval_bf16"
    in_float32 = Ours(lambda: lambda i: torch.zeros(1) + 1)
    rows = [
        Contestant("plain", lambda: lambda i: i, right, PLAIN),
        Contestant("ours", in_float32.build, right, OURS, remark=in_float32.remark, stands=in_float32.stands),
    ]
    result = measure(Group("work", rows, precision="bfloat16"), CPU, Effort(0.0, 2, 2), lambda text: None)
    assert [row.role for row in result.rows] == [PLAIN, INFO]
    assert report.headline(result, MACHINE) == ""
    assert "ours: information alone, as none of its operators ran in bfloat16" in printed(result)


def test_another_class_is_shown_but_has_no_ratio():
    rows = [
        Row("plain", PLAIN, seconds=[4.0] * 3),
        Row("float32", INFO, seconds=[1.0] * 3),
        Row("wrong", BASELINE, FAILED, note="embedding is off by 1.0e-01, allowed 9.2e-03"),
        Row("ours", OURS, seconds=[2.0] * 3),
    ]
    result = Result(Group("work", [], flops=800_000_000_000, precision="bfloat16"), rows)
    assert result.best_baseline.name == "plain"
    text = printed(result)
    lines = {line.split()[0]: line.split() for line in text.splitlines() if line.strip()}
    assert "work, bfloat16" in text
    assert lines["float32"] == ["float32", "1,000", "0", "%", "1", "800", "exact"]
    assert lines["ours"][5:] == ["400", "50", "%", "2.00", "2.00", "exact"]
    assert "FAILED (embedding is off by 1.0e-01, allowed 9.2e-03): wrong" in text
    said = "=> work, bfloat16: ours is 2.00x the best baseline (plain), 50 % of the GEMM peak"
    assert report.headline(result, MACHINE) == said
    informative = Result(Group("work", [], informative=True), rows)
    assert report.headline(informative, MACHINE) == ""


def test_peaks_are_those_of_the_class():
    assert MACHINE.peaks("float32") == MACHINE.peaks("") == (80e9, 100e9)
    assert MACHINE.peaks("bfloat16") == (800e9, 0.0)
    assert MACHINE.peaks("int8") == (0.0, 0.0)
    assert "avx2 amx_bf16" in MACHINE.line()
    assert "GEMM peak 80 GFLOP/s (float32), 800 (bfloat16)" in MACHINE.line()
    assert set(instruction_sets()) <= {
        "avx2", "avx512f", "avx_vnni", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_bf16", "amx_int8",
    }  # fmt: skip


def test_other_work_comes_before_each_timed_call():
    calls = []
    runs = {"a": lambda i: calls.append("a"), "b": lambda i: calls.append("b")}
    seconds = interleave(runs, CPU, Effort(0.0, 3, 3), between=lambda: calls.append("between"))
    assert [len(found) for found in seconds.values()] == [3, 3]
    assert calls[-12:] == ["between", "a", "between", "b"] * 3


def test_an_interruption_touches_every_line(monkeypatch):
    monkeypatch.setattr(interruption, "PAUSE_S", 0.0)
    between = Interruption(2)
    assert sum(part.nbytes for part in between.parts) == interruption.STREAMED_BYTES
    between()
    assert all(np.array_equal(part, np.ones_like(part)) for part in between.parts)


def test_what_is_built_serves_both_timings_and_is_dropped():
    built = []

    def build():
        built.append(lambda i: i)
        return built[-1]

    group = Group("work", [Contestant("ours", build, right, OURS), Contestant("other", build, right, left_out="no")])
    groups = warm_and_after_other_work(group)
    warm, after = next(groups), next(groups)
    assert [one.name for one in after.contestants] == ["ours"]
    assert warm.contestants[0].build() is after.contestants[0].build()
    assert len(built) == 1
    assert next(groups, None) is None
    after.contestants[0].build()
    assert len(built) == 2


def test_mkldnn_goes_back_to_float32(context, monkeypatch):
    rows = {one.name: one for one in embed_bfloat16.group(Inference(context, "embed", 2)).contestants}
    row = rows["stock: float32, mkldnn fp32_precision=bf16"]
    with monkeypatch.context() as changed:
        changed.setattr(embed_bfloat16, "by_mkldnn", contextlib.nullcontext)
        with pytest.raises(RuntimeError, match="changes nothing here, so this is float32"):
            row.build()
    parts = torch.backends.mkldnn.conv, torch.backends.mkldnn.matmul
    before = [part.fp32_precision for part in parts]
    with by_mkldnn():
        assert [part.fp32_precision for part in parts] == ["bf16", "bf16"]
    assert [part.fp32_precision for part in parts] == before


def test_openvino_says_in_which_precision_it_computes(context):
    if reason := runtimes.not_installed(runtimes.OPENVINO):
        pytest.skip(reason)
    inference = Inference(context, "embed", 2)
    exact = runtimes.openvino(inference.our_onnx, shapes={"ppg": [2, 1000]})
    assert exact.precision == "f32"
    assert relative_error(inference.results(exact_of(inference, exact)), inference.doubles) < 2e-6
    chosen = runtimes.openvino(inference.our_onnx, precision="")
    rows = {one.name: one for one in embed_bfloat16.group(inference).contestants}
    as_installed = rows["OpenVINO, as installed, xmae-fast export"]
    if chosen.precision == "bf16":
        as_installed.check(as_installed.build())
        assert as_installed.remark() == "INFERENCE_PRECISION_HINT is bf16"
    else:
        with pytest.raises(RuntimeError, match="it is not of this class here"):
            as_installed.build()


def exact_of(inference: Inference, embedding):
    return inference.run(lambda batch: embedding(batch.ppg))


def test_int8_is_checked_by_cosine(monkeypatch):
    if reason := runtimes.not_installed(runtimes.ONNX_RUNTIME):
        pytest.skip(reason)
    monkeypatch.setattr(quantised, "installed", lambda name: False)
    inference = Inference(Context(CPU, quick=True), "embed", 2)
    group = embed_int8.group(inference)
    rows = {one.name: one for one in group.contestants}
    assert group.informative
    ours = rows["xmae-fast export, int8: ONNX Runtime"]
    run = ours.build()
    error, distance = ours.check(run)
    assert 1e-3 < error.error < 0.2
    assert 1e-6 < distance.error < distance.bound == 5e-3
    with pytest.raises(AssertionError, match="1 - cosine is off by"):
        ours.check(lambda i: run(i).roll(1, dims=1))
    assert len(inference.results(run)) == 2 * ROTATION
    if not runtimes.not_installed(runtimes.OPENVINO):
        assert rows["OpenVINO, NNCF, Conv2d stem"].left_out == "not installed: nncf; pip install nncf"


def test_a_row_that_stands_keeps_its_role():
    one = Contestant("ours", lambda: lambda i: i, right, OURS, stands=lambda: True)
    (row,) = measure(Group("work", [one]), CPU, Effort(0.0, 2, 2), lambda text: None).rows
    assert (row.role, row.status) == (OURS, OK)


@pytest.mark.skipif(not has_bfloat16(), reason="the new process finds no bfloat16 on this processor")
def test_contestants_apart_run_in_processes_of_their_own(context):
    """A row that stands, one that is left out, and one of a name that the new process does not know."""
    group = embed_bfloat16.group(Inference(Context(CPU, quick=True, compiling="none"), "embed", 1))
    plain, compiled = group.contestants[:2]
    unknown = Contestant("unknown", lambda: pytest.fail("built here"), right, OURS)
    known = {("", "timed"): Row("timed", BASELINE, seconds=[1.0])}
    timed = Contestant("timed", lambda: pytest.fail("built here"), right)
    group = Group(group.title, [plain, compiled, unknown, timed], precision="bfloat16")
    result = measure_apart(group, context, "benchmarks.suites.model", [], lambda text: None, known)
    first, second, third, fourth = result.rows
    assert (first.status, first.alone, first.role) == (OK, True, PLAIN)
    assert first.seconds
    assert (second.status, second.note) == (LEFT_OUT, "needs --compile default")
    assert (third.status, third.note) == (FAILED, "StopIteration")
    assert fourth is known["", "timed"]
    assert result.speed(first, first).median == 1.0
