"""Inference and the training step under pytest-benchmark, without the compiled baselines.

What a call takes after other work is left to `benchmarks/run.py`: here nothing comes between two calls.
"""

from __future__ import annotations

import pytest

from benchmarks.bench_ops import CPU, contestants, race
from benchmarks.suites import model, train

WARM = (group for group in model.groups(CPU) if not group.after_other_work)


@pytest.mark.parametrize(("group", "contestant"), contestants(WARM))
def test_inference(benchmark, group, contestant):
    race(benchmark, group, contestant)


@pytest.mark.parametrize(("group", "contestant"), contestants(train.groups(CPU)))
def test_training_step(benchmark, group, contestant):
    race(benchmark, group, contestant)
