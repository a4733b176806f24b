"""Benchmarks that go on after an end: of the process by a fault, of a contestant that hangs, of the time."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("rich", reason="the benchmarks need rich (pip install xmae-fast[bench])")

from benchmarks import run
from benchmarks.gpu.supervised import supervise
from benchmarks.harness import contest
from benchmarks.harness.choosing import parse_config, parse_without
from benchmarks.harness.contest import BASELINE, OURS, PLAIN, WITHOUT, Contestant, ContextLost, Group, measure
from benchmarks.harness.context import Context
from benchmarks.harness.machine import Machine
from benchmarks.harness.timing import Effort
from benchmarks.suites import train
from xmae_fast import available, backend
from xmae_fast.backend import registry, resolving
from xmae_fast.testing import Error

CPU = torch.device("cpu")
MACHINE = Machine("CPU", 1, 1, 0.0, "2", "", "float32", 80e9, 100e9, "", 40e9)


class End(BaseException):
    """Ends a run as a signal does."""


def right(_) -> list[Error]:
    return [Error("output", 0.0, 1e-6)]


def contestant(name: str, role: str = BASELINE, built: list[str] | None = None, error: BaseException | None = None):
    def build():
        if built is not None:
            built.append(name)
        if error is not None:
            raise error
        return lambda i: i + 1

    return Contestant(name, build, right, role)


@pytest.fixture
def resumed(monkeypatch, tmp_path):
    """resumed(groups, *options) -> exit code, rows by group and name, of a suite of these groups."""
    monkeypatch.setattr(run, "measure_machine", lambda device: MACHINE)
    monkeypatch.setattr(Context, "effort", Effort(0.0, 2, 2))
    monkeypatch.setattr(contest, "FIRST_LOOK", Effort(0.0, 3, 3))
    file = tmp_path / "out.json"

    def start(groups, *options):
        monkeypatch.setattr(run, "SUITES", {"ops": SimpleNamespace(groups=lambda context: iter(groups))})
        arguments = ["--quick", "--device", "cpu", "--suite", "ops", "--json", str(file), "--resume", str(file)]
        code = run.main([*arguments, *options])
        return code, rows_of(file)

    start.file = file
    return start


def rows_of(file) -> dict[tuple[str, str], dict]:
    suites = json.loads(file.read_text())["suites"]
    return {
        (group["title"], row["name"]): row for groups in suites.values() for group in groups for row in group["rows"]
    }


def test_what_was_timed_is_kept_and_not_run_again(resumed):
    built = []
    one = Group("one", [contestant("plain", PLAIN, built), contestant("ours", OURS, built)])
    cut_off = contestant("compiled", BASELINE, built, End())
    with pytest.raises(End):
        resumed([one, Group("two", [contestant("ours", OURS, built), cut_off])])
    rows = rows_of(resumed.file)
    assert rows["one", "plain"]["alone"] is False
    assert len(rows["two", "ours"]["seconds"]) == 3
    assert rows["two", "ours"]["alone"] is True
    assert rows["two", "compiled"]["status"] == "running"
    built.clear()
    finished = Group("two", [contestant("ours", OURS, built), contestant("compiled", BASELINE, built)])
    code, after = resumed([one, finished])
    assert code == 0
    assert built == ["compiled"]
    assert after["two", "ours"]["seconds"] == rows["two", "ours"]["seconds"]
    assert after["two", "compiled"]["status"] == "ok"
    assert json.loads(resumed.file.read_text())["finished"] is True


def test_ratios_to_kept_rows_are_those_of_medians():
    rows = [
        contest.Row("ours", OURS, seconds=[1.0, 2.0, 3.0], alone=True),
        contest.Row("plain", PLAIN, seconds=[8.0] * 2),
    ]
    result = contest.Result(Group("work", []), rows)
    assert result.speed(rows[0], rows[1]) == (4.0, 4.0, 4.0)


def test_what_ended_the_process_is_not_run_again(resumed):
    built = []
    with pytest.raises(End):
        resumed([Group("one", [contestant("ours", OURS, built, End()), contestant("plain", PLAIN)])])
    code, rows = resumed(
        [Group("one", [contestant("ours", OURS, built), contestant("plain", PLAIN)])], "--after", "died"
    )
    assert code == 1
    assert built == ["ours"]
    assert rows["one", "ours"]["status"] == "FAILED"
    assert rows["one", "ours"]["note"] == "the process died while it was built, checked or first timed"
    assert rows["one", "plain"]["seconds"]


def test_kept_rows_outlive_an_end_before_their_turn(resumed):
    """Failures of an earlier call are tried again; what was timed then is kept, though the process ends before it."""
    built = []
    fails = contestant("ours", OURS, built, RuntimeError("no"))
    resumed([Group("one", [fails, contestant("plain", PLAIN, built)])])
    with pytest.raises(End):
        resumed([Group("one", [contestant("ours", OURS, built, End()), contestant("plain", PLAIN, built)])])
    assert rows_of(resumed.file)["one", "plain"]["seconds"]
    assert built == ["ours", "plain", "ours"]
    _, rows = resumed([Group("one", [contestant("ours", OURS, built), contestant("plain", PLAIN, built)])])
    assert built == ["ours", "plain", "ours", "ours"]
    assert rows["one", "ours"]["status"] == "ok"


def test_suites_and_groups_that_are_not_run_again_stay_in_the_file(resumed):
    groups = [Group("one", [contestant("ours", OURS)]), Group("two", [contestant("ours", OURS)])]
    resumed(groups)
    payload = json.loads(resumed.file.read_text())
    payload["suites"] = {"model": [{"title": "embed", "rows": []}], **payload["suites"]}
    resumed.file.write_text(json.dumps(payload))
    _, rows = resumed(groups[:1])
    assert ("two", "ours") in rows
    assert json.loads(resumed.file.read_text())["suites"]["model"] == [{"title": "embed", "rows": []}]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda payload: payload["machine"].update(torch="1"), "measured with torch '1', this machine has '2'"),
        (lambda payload: payload["machine"].update(gpu="NVIDIA H100"), "measured with gpu 'NVIDIA H100'"),
        (lambda payload: payload["settings"].update(quick=False), "measured with other settings: quick"),
        (lambda payload: payload.pop("suites"), "expected what --json wrote"),
    ],
)
def test_other_machines_and_settings_are_refused(resumed, change, message, capsys):
    groups = [Group("one", [contestant("ours", OURS)])]
    resumed(groups)
    payload = json.loads(resumed.file.read_text())
    change(payload)
    resumed.file.write_text(json.dumps(payload))
    capsys.readouterr()
    arguments = ["--quick", "--device", "cpu", "--suite", "ops", "--resume", str(resumed.file)]
    assert run.main(arguments) == 2
    assert message in capsys.readouterr().err


def test_a_lost_context_ends_the_process_after_the_row_is_saved(monkeypatch):
    def lost(device):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(torch.cuda, "synchronize", lost)
    error = RuntimeError("CUDA error: an illegal memory access was encountered")
    error.launch = "_stem_kernel(BLOCK=64)"
    saved, built = [], []
    group = Group("one", [contestant("ours", OURS, None, error), contestant("plain", PLAIN, built)])
    with pytest.raises(ContextLost):
        measure(
            group, torch.device("cuda"), Effort(), lambda text: None, save=lambda result: saved.append(result.to_dict())
        )
    (row,) = saved[-1]["rows"]
    assert row["status"] == "FAILED"
    assert "illegal memory access was encountered in _stem_kernel(BLOCK=64) (the GPU context is lost" in row["note"]
    assert not built


SUPERVISED = """
import os, sys, time
sys.path.insert(0, {root!r})
from types import SimpleNamespace
from benchmarks import run
from benchmarks.harness.contest import BASELINE, OURS, PLAIN, Contestant, Group
from benchmarks.harness.context import Context
from benchmarks.harness.machine import Machine
from benchmarks.harness.timing import Effort
from xmae_fast.testing import Error

run.measure_machine = lambda device: Machine(*{machine!r})
Context.effort = Effort(0.0, 2, 2)

def contestant(name, role, act=lambda: None):
    def build():
        print("building", name, flush=True)
        act()
        return lambda i: i + 1
    return Contestant(name, build, lambda _: [Error("output", 0.0, 1e-6)], role)

group = Group("one", [
    contestant("ours", OURS), contestant("faults", OURS, os.abort), contestant("plain", PLAIN),
    contestant("hangs", BASELINE, lambda: time.sleep(600)), contestant("last", BASELINE),
])
run.SUITES = {{"ops": SimpleNamespace(groups=lambda context: [group])}}
sys.exit(run.main())
"""


def test_a_fault_and_a_hang_cost_their_own_rows(tmp_path, capsys):
    """Real processes: one is ended by a signal, the next is stopped, the third finishes."""
    script, file = tmp_path / "script.py", tmp_path / "out.json"
    machine = tuple(vars(MACHINE).values())
    script.write_text(SUPERVISED.format(root=str(run.Path(run.__file__).parents[1]), machine=machine))
    assert supervise(file, ["--quick", "--device", "cpu", "--suite", "ops"], 10, script) == 1
    rows = {name: row for (_, name), row in rows_of(file).items()}
    assert {name: row["status"] for name, row in rows.items()} == {
        "ours": "ok", "faults": "FAILED", "plain": "ok", "hangs": "could not run", "last": "ok",
    }  # fmt: skip
    assert "ended by signal 6 (SIGABRT) while it was built" in rows["faults"]["note"]
    assert "was stopped after 10 s while it was built" in rows["hangs"]["note"]
    said = capsys.readouterr().out
    assert [said.count(f"building {name}\n") for name in rows] == [1, 1, 1, 1, 1]


def test_an_implementation_is_left_out(monkeypatch):
    monkeypatch.setattr(registry, "_LEFT_OUT", {})
    monkeypatch.setitem(registry.USABLE, ("token_gather", "triton"), True)
    monkeypatch.setitem(resolving.DEVICE_OF, "triton", None)
    backend.leave_out("token_gather", "triton", WITHOUT)
    assert available()["token_gather"]["triton"] == (False, WITHOUT)
    with pytest.raises(backend.BackendError, match=WITHOUT) as caught:
        backend.check_usable("token_gather", "triton", CPU)
    assert "token_gather: nothing can run" in backend.explain("token_gather", impl="triton")
    group = Group("one", [contestant("ours, impl=triton", OURS, None, caught.value)])
    (row,) = measure(group, CPU, Effort(), lambda text: None).rows
    assert (row.status, row.note) == ("left out", WITHOUT)


def test_options_that_go_round_a_kernel_are_checked(capsys):
    assert parse_without("conv_stem=triton") == ("conv_stem", "triton")
    assert parse_config("3") == ("", 3)
    assert parse_config("_masks_kernel=1") == ("_masks_kernel", 1)
    for parse, text in ((parse_without, "conv_stem"), (parse_without, "stem=triton"), (parse_config, "first")):
        with pytest.raises(ValueError, match="expected"):
            parse(text)
    assert run.main(["--suite", "ops", "--without", "conv_stem=reference"]) == 2
    assert "--without: expected an operator" in capsys.readouterr().err


def test_on_a_gpu_ours_come_first_and_the_most_tuned_baseline_last(monkeypatch):
    usable = SimpleNamespace(usable=True)
    monkeypatch.setattr(train, "available", lambda: {"conv_stem": {"cuda": usable}})
    contestants = train.group(Context(torch.device("cuda")), 512).contestants
    names = [one.name for one in contestants]
    assert [one.role == OURS for one in contestants] == [True] * 3 + [False] * (len(names) - 3)
    assert names[0] == "xmae_fast GraphedStep"
    assert names[-1] == "stock: the same, max-autotune, CUDA graphs"
    assert names.index("stock: fused AdamW + torch.compile") < names.index("stock: the same + torch.compile")
    assert not any(one.left_out for one in contestants)
