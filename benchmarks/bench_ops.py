"""The operators' contests under pytest-benchmark: `pytest --benchmark-only benchmarks`.

XMAE_FAST_QUICK=1 takes the small sizes of `benchmarks/run.py --quick`.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable

import pytest
import torch

from benchmarks.harness.contest import Contestant, Group
from benchmarks.harness.context import Context
from benchmarks.suites import ops

CPU = Context(torch.device("cpu"), quick=os.environ.get("XMAE_FAST_QUICK") == "1", compiling="none")


def contestants(groups: Iterable[Group]) -> list:
    """A parameter set per contestant that is run."""
    return [
        pytest.param(group, contestant, id=f"{group.title} {contestant.name}".replace(" ", "-"))
        for group in groups
        for contestant in group.contestants
        if not contestant.left_out
    ]


def race(benchmark, group: Group, contestant: Contestant) -> None:
    """Check, then time; contestants of one group stand side by side."""
    run = contestant.build()
    run(0)
    errors = contestant.check(run)
    benchmark.group = group.title
    benchmark.extra_info.update(flops=group.flops, errors={error.name: error.error for error in errors})
    calls = itertools.count()
    benchmark(lambda: run(next(calls)))


@pytest.mark.parametrize(("group", "contestant"), contestants(ops.groups(CPU)))
def test_op(benchmark, group, contestant):
    race(benchmark, group, contestant)
