"""Results as a page of HTML: the tables of the console, a chart of ratios, and what was left out and why.

`python -m benchmarks.harness.page F.json F.html` makes the page of what `benchmarks/run.py --json` has written.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.harness import report
from benchmarks.harness.contest import BASELINE, FAILED, INFO, OK, OURS, PLAIN, Result, Row, failures
from benchmarks.harness.machine import Machine
from benchmarks.harness.plot import draw_ratios
from benchmarks.harness.timing import Spread
from xmae_fast.reports import Block, Bullets, Cell, Heading, Page, Table, check_page, figure_picture, write_page
from xmae_fast.reports import Row as Line

_TONES = {OURS: "ours", PLAIN: "strong", BASELINE: "", INFO: "dim"}


def write(file: str | os.PathLike[str], payload: dict[str, Any]) -> None:
    """Write the page of what `report.payload` returns; the file appears whole or not at all."""
    write_page(file, page_of(payload))


def page_of(payload: dict[str, Any]) -> Page:
    """The page of what `report.payload` returns."""
    machine = Machine.from_dict(payload["machine"])
    suites = {name: [Result.from_dict(one) for one in groups] for name, groups in payload["suites"].items()}
    results = [result for groups in suites.values() for result in groups]
    settings, run = payload["settings"], payload.get("run", {})
    unfinished = "" if payload.get("finished", True) else " The run was not finished: groups are missing."
    return Page(
        title="Benchmarks of xmae_fast",
        about=f"{len(results):,} groups of implementations that do the same work, checked against float64 before they"
        f" are timed.{unfinished}",
        facts={
            "command": run.get("command", ""),
            "data": settings["signals"],
            "settings": ", ".join(f"{name} {value}" for name, value in settings.items() if name != "signals"),
            "date": run.get("date", ""),
            "machine": machine.line(),
            "version": ", ".join(f"{name} {version}" for name, version in payload["versions"].items()),
            "impl='auto' is": ", ".join(f"{op} {chosen}" for op, chosen in payload["auto"].items()),
        },
        summary=_summary(results, machine),
        blocks=[block for name, groups in suites.items() if groups for block in _suite(name, groups, machine)],
        left_out=_left_out(suites),
        how=[" ".join(report.LEGEND.replace("`", "'").split())],
    )


def _contests(results: list[Result]) -> Iterator[tuple[Result, Row, Row, Spread]]:
    """Groups that have a headline: the result, our best row, the best of the others, and the ratio of their times."""
    for result in results:
        ours, best = result.best_ours, result.best_baseline
        if result.parts() or result.group.informative or ours is None or best is None:
            continue
        if (ratio := result.speed(ours, best)) is not None:
            yield result, ours, best, ratio


def _summary(results: list[Result], machine: Machine) -> list[Block]:
    contests = list(_contests(results))
    behind = [one for one in contests if one[3].median < 1]
    lines = [
        f"In {len(contests) - len(behind):,} of {len(contests):,} groups ours is at least as fast as the best other."
    ]
    lines += [f"FAILED: {line}" for line in failures(results)]
    if busy := sum(result.other_work > report.BUSY for result in results):
        lines.append(f"WARNING: {busy:,} groups were timed while other processes were at work.")
    lines += [report.headline(r, machine).removeprefix("=> ") + "." for r in results if r.parts() and r.best_ours]
    blocks: list[Block] = [Bullets(lines)]
    if not contests:
        return blocks
    caption = (
        "Time of the best other implementation divided by the time of ours, for every group, on a logarithmic axis;"
        " right of the line ours is faster, orange bars are groups where another one is. Whiskers: 10 % to 90 % of the"
        " paired rounds."
    )
    figure = draw_ratios([(one.group.heading, ratio) for one, _, _, ratio in contests])
    blocks.append(figure_picture(figure, "ratios.svg", caption))
    rows = []
    for result, ours, best, ratio in contests:
        cells = dict(zip((*report.COLUMNS, report.MEMORY), report.cells(result, ours, machine), strict=True))
        text = f"{ratio.median:.2f} [{ratio.low:.2f}, {ratio.high:.2f}]"
        said = "another is faster" if ratio.high < 1 else "ours is faster" if ratio.low > 1 else "too close to tell"
        columns = result.group.heading, ours.name, cells["ms"], text, best.name, cells["x plain"], cells["error"], said
        rows.append(Line(columns, "behind" if ratio.median < 1 else ""))
    header = ["group", "ours", "ms", "x best [10 %, 90 %]", "best other", "x plain", "error", "verdict"]
    return [
        *blocks,
        Table(header, rows, "Ours against the best of the others; rows where another one is faster stand out"),
    ]


def _suite(name: str, results: list[Result], machine: Machine) -> Iterator[Block]:
    yield Heading(2, f"Suite {name}")
    for result in results:
        yield Heading(3, report.title_of(result))
        yield _parts(result, machine) if result.parts() else _group(result, machine)
        if said := list(report.remarks(result)):
            yield Bullets(said)


def _group(result: Result, machine: Machine) -> Table:
    shown = [row for row in result.rows if row.seconds or row.status == FAILED]
    with_memory = any(row.peak_bytes for row in shown)
    names = (*report.COLUMNS, report.MEMORY) if with_memory else report.COLUMNS
    speeds = [result.speed(row, result.plain) for row in shown]
    fastest = max((speed.median for speed in speeds if speed), default=1.0)
    best, lines = result.best_ours, []
    for row, speed in zip(shown, speeds, strict=True):
        cells: list[str | Cell] = list(report.cells(result, row, machine))[: len(names)]
        cells += [""] * (len(names) - len(cells))
        if row.role != INFO and speed is not None:
            at = names.index("x plain")
            cells[at] = Cell(str(cells[at]), sort=speed.median, bar=speed.median / fastest)
        if row is best and (ratio := result.speed(row, result.best_baseline)) and ratio.median < 1:
            cells[names.index("x best")] = Cell(f"{ratio.median:.2f}", tone="behind")
        lines.append(Line(cells, "bad" if row.status == FAILED else _TONES[row.role]))
    return Table(names, lines)


def _parts(result: Result, machine: Machine) -> Table:
    *lines, total = report.part_lines(result, machine)
    return Table(report.PART_COLUMNS, lines, foot=[total])


def _left_out(suites: dict[str, list[Result]]) -> list[Block]:
    lines = [
        Line([name, result.group.title, row.name, row.status, row.note], "bad" if row.status == FAILED else "")
        for name, groups in suites.items()
        for result in groups
        for row in result.rows
        if row.status != OK
    ]
    return [Table(["suite", "group", "implementation", "what", "why"], lines)] if lines else []


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.harness.page", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("json", type=Path, help="what benchmarks/run.py --json has written")
    parser.add_argument("html", type=Path, help="the page")
    options = parser.parse_args(arguments)
    try:
        check_page(options.html)
        write(options.html, json.loads(options.json.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError) as error:
        print(f"error: {options.json}: expected what --json wrote, and a page to write: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
