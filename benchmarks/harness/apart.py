"""Every contestant of a group in a process of its own, so that no other runtime's threads are there.

Its times are then not those of rounds in turns, and ratios are those of medians.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib import import_module

import torch

from benchmarks.harness.choosing import add_choices, apply_choices
from benchmarks.harness.contest import BROKEN, FAILED, LEFT_OUT, OURS, Contestant, Group, Result, Row, measure
from benchmarks.harness.context import Context
from benchmarks.harness.new_process import last_line_of

TIMEOUT_S = 900


def measure_apart(
    group: Group,
    context: Context,
    suite: str,
    choices: list[str],
    report: Callable[[str], None],
    known: Mapping[tuple[str, str], Row] | None = None,
) -> Result:
    """What `contest.measure` does, in as many processes as there are contestants, one after the other.

    Args:
        suite: full name of a module whose `groups(context)` has the group.
        choices: options of `choosing`, as words.
        known: rows of an earlier run by part and name, which are not run again.
    """
    rows, other_work = [], 0.0
    for contestant in group.contestants:
        row = (known or {}).get((contestant.part, contestant.name))
        if row is None and contestant.left_out:
            row = Row(contestant.name, contestant.role, LEFT_OUT, note=contestant.left_out)
        if row is None:
            report(f"{group.title}: {contestant.name} in a process of its own")
            row, busy = _row(group, contestant, context, suite, choices)
            other_work = max(other_work, busy)
        rows.append(row)
    return Result(group, rows, other_work)


def _row(group: Group, contestant: Contestant, context: Context, suite: str, choices: list[str]) -> tuple[Row, float]:
    """Its row, and the share of the processors that other processes used meanwhile."""
    order = {
        "suite": suite, "title": group.title, "contestant": contestant.name, "choices": choices, "data": context.data,
        "quick": context.quick, "compiling": context.compiling, "threads": torch.get_num_threads(),
    }  # fmt: skip
    try:
        found = json.loads(last_line_of(__name__, order, TIMEOUT_S))
    except RuntimeError as error:
        status = FAILED if contestant.role == OURS else BROKEN
        return Row(contestant.name, contestant.role, status, note=str(error)), 0.0
    row = Row.from_dict(found["rows"][0])
    row.alone = bool(row.seconds)
    return row, found["other_work"]


def main() -> None:
    """The new process: reads what to measure from the standard input, writes a group with one row."""
    order = json.load(sys.stdin)
    torch.set_num_threads(order["threads"])
    parser = argparse.ArgumentParser()
    add_choices(parser)
    apply_choices(parser.parse_args(order["choices"]))
    context = Context(torch.device("cpu"), tuple(order["data"]), order["quick"], order["compiling"])
    groups = import_module(order["suite"]).groups(context)
    group = next(group for group in groups if group.title == order["title"])
    one = next(one for one in group.contestants if one.name == order["contestant"])
    result = measure(replace(group, contestants=[one]), context.device, context.effort, lambda text: None)
    print(json.dumps(result.to_dict()))
