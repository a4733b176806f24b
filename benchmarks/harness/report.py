"""How results are shown: tables and headlines on the console, everything in a JSON file."""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from benchmarks.harness.contest import BASELINE, FAILED, INFO, OK, OURS, PLAIN, Result, Row
from benchmarks.harness.machine import Machine
from benchmarks.harness.timing import Spread, spread
from xmae_fast._files import atomic_path

STYLES = {OURS: "bold green", PLAIN: "bold", BASELINE: "", INFO: "dim"}
COLUMNS = ("implementation", "ms", "+-", "items/s", "GFLOP/s", "GEMM", "FMA", "copy", "x plain", "x best", "error")
PART_COLUMNS = (
    "part", *(name for role in (PLAIN, OURS) for name in (f"{role} ms", "share", "GFLOP/s", "FMA")), "x plain", "error",
)  # fmt: skip
MEMORY = "MB"
BUSY = 0.05  # share of the processors that others may use before times are called unreliable
LEGEND = """\
ms: median of the rounds; +-: half the distance between their 10 % and 90 % quantiles. GEMM, FMA, copy: share of the
peaks above, of the operations and the bytes that the work needs; in bfloat16 GEMM is the peak of bfloat16. x plain, x
best: time of the plain path (bold) and of the best baseline (*) of the same group, which has one class of precision
(float32, bfloat16 or int8), divided by the row's, median over paired rounds; above 1 is faster. error: the largest
against float64, relative to the norm; `exact` where results are equal bit for bit. FAILED rows were too far off: they
are not timed and are no baseline. `info` rows are of another class: they are no baseline and have no ratios. MB: most
memory of one call beyond weights, optimiser and data."""


def print_suite(console: Console, results: list[Result], machine: Machine) -> None:
    """One table with all groups of a suite, then what was left out or failed."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    with_memory = any(row.peak_bytes for result in results for row in result.rows)
    _add_columns(table, (*COLUMNS, MEMORY) if with_memory else COLUMNS)
    for result in results:
        table.add_row(Text(title_of(result), style="cyan"))
        for row in result.rows:
            if row.seconds or row.status == FAILED:
                style = "bold red" if row.status == FAILED else STYLES[row.role]
                table.add_row(*list(cells(result, row, machine))[: len(table.columns)], style=style)
        table.add_section()
    console.print(table)
    _print_remarks(console, results)


def print_parts(console: Console, results: list[Result], machine: Machine) -> None:
    """A table for each group that is divided into parts: time, share of the sum, and arithmetic rate of each part."""
    for result in results:
        table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
        _add_columns(table, PART_COLUMNS)
        table.add_row(Text(result.group.title, style="cyan"))
        for cells in part_lines(result, machine):
            table.add_row(*cells)
        console.print(table)
    _print_remarks(console, results)


def part_lines(result: Result, machine: Machine) -> Iterator[list[str]]:
    """The cells of PART_COLUMNS for each part of a group, and their sum as the last line."""
    parts = result.parts()
    inside = [part for name, part in parts.items() if name not in result.group.not_in_sum]
    sums = {role: sum(_median(part, role) for part in inside) for role in (PLAIN, OURS)}
    for part in parts.values():
        yield list(_part_cells(part, sums if part in inside else {}, machine))
    yield ["sum of the parts", *(cell for s in sums.values() for cell in (_number(s * 1e3), "", "", "")), "", ""]


def headline(result: Result, machine: Machine) -> str:
    """Our best against the best baseline and the plain path, and its share of the FMA peak; '' without ours.

    Of a group that is divided into parts: which of ours takes longest.
    """
    if parts := result.parts():
        return _longest_part(result, parts)
    ours, best, plain = result.best_ours, result.best_baseline, result.plain
    if ours is None or best is None or result.group.informative:
        return ""
    parts = [f"{result.speed(ours, best).median:.2f}x the best baseline ({best.name})"]
    if plain is not None and plain is not best:
        parts.append(f"{result.speed(ours, plain).median:.2f}x the plain path ({plain.name})")
    rate, (gemm, fma) = result.group.flops / spread(ours.seconds).median, machine.peaks(result.group.precision)
    if share := _share(rate, fma):
        parts.append(f"{share} of the FMA peak")
    elif share := _share(rate, gemm):
        parts.append(f"{share} of the GEMM peak")
    return f"=> {result.group.heading}: {ours.name} is {', '.join(parts)}"


def write_json(
    path: str | os.PathLike[str],
    machine: Machine,
    about: dict[str, Any],
    suites: dict[str, list[Result]],
    rest: dict[str, list[dict]] | None = None,
) -> None:
    """Machine, settings, every time and every error; the file appears complete or not at all.

    `rest`: groups of an earlier run by suite, as its file has them.
    """
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(payload(machine, about, suites, rest), indent=1))


def payload(
    machine: Machine,
    about: dict[str, Any],
    suites: dict[str, list[Result]],
    rest: dict[str, list[dict]] | None = None,
) -> dict[str, Any]:
    """What `write_json` writes."""
    rest = rest or {}
    measured = {name: [result.to_dict() for result in results] for name, results in suites.items()}
    return {
        "machine": asdict(machine) | {"line": machine.line()},
        **about,
        "suites": {name: measured.get(name, []) + rest.get(name, []) for name in {**measured, **rest}},
    }


def title_of(result: Result) -> str:
    """The heading of a group, with its unit."""
    unit = "" if result.group.unit == "calls" else f" ({result.group.unit})"
    return result.group.heading + unit


def cells(result: Result, row: Row, machine: Machine) -> Iterator[str]:
    """The cells of COLUMNS and MEMORY for a row that was timed; of one that FAILED only the first two."""
    group = result.group
    yield row.name + (" *" if row is result.best_baseline else "")
    if not row.seconds:
        yield FAILED
        return
    time, (gemm, fma) = spread(row.seconds), machine.peaks(group.precision)
    yield _number(time.median * 1e3)
    yield f"{50 * (time.high - time.low) / time.median:.0f} %"
    yield _number(group.items / time.median)
    yield _number(group.flops / time.median / 1e9) if group.flops else ""
    if row.role == INFO:
        gemm = fma = 0.0
    yield _share(group.flops / time.median, gemm)
    yield _share(group.flops / time.median, fma)
    yield _share(group.bytes_moved / time.median, machine.copy)
    for reference in (result.plain, result.best_baseline):
        yield _ratio(None if row.role == INFO else result.speed(row, reference))
    yield _error(row)
    yield f"{row.peak_bytes / 1e6:,.0f}" if row.peak_bytes else ""


def _part_cells(part: Result, sums: dict[str, float], machine: Machine) -> Iterator[str]:
    """One line of `print_parts`; a part outside the sum has no share of it."""
    yield part.group.title
    for role in (PLAIN, OURS):
        seconds = _median(part, role)
        rate = part.group.flops / seconds if seconds else 0.0
        yield _number(seconds * 1e3) if seconds else FAILED
        yield _share(seconds, sums.get(role, 0.0))
        yield _number(rate / 1e9) if rate else ""
        yield _share(rate, machine.fma)
    yield _ratio(part.speed(part.best_ours, part.plain) if part.best_ours else None)
    yield _error(part.best_ours) if part.best_ours else ""


def _longest_part(result: Result, parts: dict[str, Result]) -> str:
    """Our longest part of those that add up to the work."""
    times = {name: _median(part, OURS) for name, part in parts.items() if name not in result.group.not_in_sum}
    if not any(times.values()):
        return ""
    name = max(times, key=times.get)
    share = _share(times[name], sum(times.values()))
    return f"=> {result.group.title}: the longest part of ours is {name}, {share} ({times[name] * 1e3:.3g} ms)"


def _median(part: Result, role: str) -> float:
    """Seconds of the fastest row of that role; 0 where none was timed."""
    return next((spread(row.seconds).median for row in part.timed(role)), 0.0)


def _add_columns(table: Table, names: tuple[str, ...]) -> None:
    for i, name in enumerate(names):
        table.add_column(name, justify="right" if i else "left", no_wrap=i > 0, min_width=len(name))


def _print_remarks(console: Console, results: list[Result]) -> None:
    for result in results:
        for line in remarks(result):
            console.print(f"{result.group.heading}: {line}", style="dim", markup=False)
    console.print()


def remarks(result: Result) -> Iterator[str]:
    """What is said below a table: what makes times unreliable, notes, and what was left out or failed and why."""
    if result.other_work > BUSY:
        yield f"UNRELIABLE: other processes used {100 * result.other_work:.0f} % of the processors while this was timed"
    if alone := [row.name for row in result.rows if row.alone and row.seconds]:
        yield f"timed by themselves or in an earlier process, their ratios are those of medians: {'; '.join(alone)}"
    reasons, notes = defaultdict(list), defaultdict(list)
    for row in result.rows:
        if row.status != OK:
            reasons[row.status, row.note].append(row.name)
        elif row.note:
            notes[row.note].append(row.name)
        elif "compile" in row.name and row.setup_s >= 1:  # less, where it was compiled for an earlier group
            yield f"{row.name} took {row.setup_s:.0f} s to compile"
    for note, names in notes.items():
        yield f"{'; '.join(names)}: {note}"
    for (status, note), names in reasons.items():
        yield f"{status} ({note}): {'; '.join(names)}"
    if plain := result.plain and result.plain.peak_bytes:
        peaks = [f"{row.name} {row.peak_bytes / plain:.2f}x" for row in result.rows if row.peak_bytes]
        yield f"peak memory beyond weights, optimiser and data, against the plain path's: {', '.join(peaks)}"


def _number(x: float) -> str:
    """Three significant digits, without an exponent."""
    return f"{x:,.0f}" if x >= 100 else f"{x:.3g}" if x >= 1e-4 else f"{x:.0e}"


def _share(rate: float, peak: float) -> str:
    return f"{100 * rate / peak:.0f} %" if rate and peak else ""


def _ratio(ratio: Spread | None) -> str:
    return "" if ratio is None else f"{ratio.median:.0f}" if ratio.median >= 100 else f"{ratio.median:.2f}"


def _error(row: Row) -> str:
    worst = max((error.error for error in row.errors), default=0.0)
    return f"{worst:.1e}" if worst else "exact"
