"""What a person reads of a GPU run in a minute, and the report with all tables."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.gpu.expected import CUDA_STEMS, targets
from benchmarks.gpu.stages import RESULTS
from benchmarks.harness.contest import BROKEN, FAILED, OK

MOST_LINES, WIDTH = 60, 110
MOST_CHARACTERS = 4_400  # with a look at its longest, all of it is in the last 12,000 characters of the output
MOST_WRONG = 12
SLOWEST = 3


class Outcome(NamedTuple):
    """What came of a stage: "passed", "failed (...)", "timed out ..." or "not run: ..."; `tail`: its last lines."""

    name: str
    what: str
    state: str
    seconds: float
    tail: str


def read(path: Path) -> dict[str, Any]:
    """A JSON file, {} where there is none or a killed process has left half of one."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return {}


def summary(machine: str, outcomes: Sequence[Outcome], out: Path) -> str:
    """At most MOST_LINES lines of at most WIDTH characters; of what was wrong, what MOST_CHARACTERS leave room for."""
    results, look, profile = (read(out / name) for name in (RESULTS, "look.json", "profile.json"))
    about = results.get("machine", {})
    peaks = (
        [f"GEMM {about['gemm'] / 1e12:.0f} TFLOP/s, copy {about['copy'] / 1e12:.2f} TB/s"] if "gemm" in about else []
    )
    head = ["# gpu_check", *machine.splitlines()[:2], *peaks, "", "## What ran"]
    head += [f"{o.name}: {o.state}, {o.seconds:.0f} s" for o in outcomes]
    rest = ["", "## Slowest kernels, beside what their bytes alone take", *slowest_of(profile)]
    rest += ["", "## Targets", *map(str, targets(results, look))]
    wrong = [line[:WIDTH] for line in wrong_of(outcomes, results, look)]
    room = MOST_CHARACTERS - sum(len(line[:WIDTH]) + 1 for line in (*head, *rest)) - 60
    shown = 0
    while shown < min(len(wrong), MOST_WRONG) and (room := room - len(wrong[shown]) - 1) > 0:
        shown += 1
    more = [f"and {len(wrong) - shown} more, see report.md"] if len(wrong) > shown else []
    lines = [*head, "", "## What was wrong", *(wrong[:shown] if wrong else ["nothing"]), *more, *rest]
    return "\n".join(line[:WIDTH] for line in lines[:MOST_LINES]) + "\n"


def wrong_of(outcomes: Sequence[Outcome], results: dict[str, Any], look: dict[str, Any]) -> list[str]:
    """A line for each failure: of the look, of tests, of contestants, of stages that say nothing else."""
    lines = [
        f"look, {job['name']}: {job['lines'][-1] if job['lines'] else job['state']}"
        for job in look.get("jobs", ())
        if job["state"] not in ("passed", "")
    ]
    for o in outcomes:
        tests = [line for line in o.tail.splitlines() if line.startswith(("FAILED ", "ERROR "))]
        lines += [f"{o.name}: {line}" for line in tests]
        silent = not tests and o.name not in ("look", *results.get("suites", ()))
        if silent and o.state.startswith(("failed", "timed out")):
            last = o.tail.splitlines()[-1:] or ["no output"]
            lines.append(f"{o.name}: {o.state}: {last[0]}")
    for groups in results.get("suites", {}).values():
        for group in groups:
            bad = (row for row in group["rows"] if row["status"] in (FAILED, BROKEN))
            lines += [f"{group['title']}, {row['name']}: {row['status']}: {row['note']}" for row in bad]
    return lines


def slowest_of(profile: dict[str, Any]) -> list[str]:
    """The slowest kernels of a step and of an embedding, with their predictions."""
    if not profile:
        return ["not profiled"]
    lines = []
    for name, found in profile.items():
        predicted = CUDA_STEMS.get(name)
        aim = f", predicted {predicted / 1e3:.2f} ms" if predicted else ""
        planned = f" ({found['planned_launches']} planned)" if "planned_launches" in found else ""
        launches = sum(row["launches"] for row in found["kernels"])
        lines.append(f"{name}: {found['ms']:.3f} ms{aim}, {launches:.0f} launches{planned}")
        if "planned_launches" not in found:
            continue
        for row in found["kernels"][:SLOWEST]:
            aim = f"{row['predicted_us']:.0f} us" if "predicted_us" in row else "no prediction"
            lines.append(f"  {row['us']:.0f} us ({aim}), {row['launches']:.0f} launches: {row['kernel'][:60]}")
    return lines


def report(machine: str, outcomes: Sequence[Outcome], out: Path) -> str:
    """All outcomes as markdown, with the tables that the benchmarks wrote and the last lines of each stage."""
    lines = ["# gpu_check", "", "```", machine, "```", "", "| stage | what | state | seconds |", "|---|---|---|---|"]
    lines += [f"| {o.name} | {o.what} | {o.state} | {o.seconds:.0f} |" for o in outcomes]
    lines += ["", "## look", ""]
    for job in read(out / "look.json").get("jobs", ()):
        lines += [f"- {job['name']}: {line}" for line in job["lines"]]
    for name, groups in read(out / RESULTS).get("suites", {}).items():
        lines += ["", f"## {name}", "", "| group | row | role | ms | peak MB | worst error | note |", "|---" * 7 + "|"]
        lines += [_row(group["title"], row) for group in groups for row in group["rows"]]
    for o in outcomes:
        if o.tail:
            lines += ["", f"## {o.name}: last lines", "", "```", o.tail, "```"]
    return "\n".join(lines) + "\n"


def _row(title: str, row: dict) -> str:
    milliseconds = f"{1e3 * statistics.median(row['seconds']):.4g}" if row["seconds"] else row["status"]
    worst = f"{max((e['error'] for e in row['errors']), default=0.0):.1e}"
    name = f"{row['part']}: {row['name']}" if row["part"] else row["name"]
    peak = f"{row['peak_bytes'] / 1e6:.0f}" if row["peak_bytes"] else ""
    alone = "timed by itself; " if row.get("alone") and row["status"] == OK else ""
    return f"| {title} | {name} | {row['role']} | {milliseconds} | {peak} | {worst} | {alone}{row['note'][:200]} |"
